"""Noisy latents, what the U-Net is to predict of them, and how much each timestep counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """A variance-preserving noise schedule.

    Attributes:
        alphas_cumprod: (T,) float32, the share of the clean latents' variance left at each timestep.
        prediction: epsilon or v_prediction.
        min_snr_gamma: of min-SNR weighting; 0 = every timestep counts alike.

    Raises:
        ValueError: another prediction.
    """

    alphas_cumprod: Tensor
    prediction: str
    min_snr_gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"the U-Net predicts {self.prediction}, expected epsilon or v_prediction")

    @classmethod
    def of(cls, scheduler: Any, prediction: str = "model", min_snr_gamma: float = 0.0) -> NoiseSchedule:
        """The schedule of any of diffusers' discrete schedulers; prediction `model` = the scheduler's own."""
        own = scheduler.config["prediction_type"]
        return cls(scheduler.alphas_cumprod.float().cpu(), own if prediction == "model" else prediction, min_snr_gamma)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(B, 4, h, w) latents with the noise of (B,) timesteps: sqrt(a) clean + sqrt(1 - a) noise."""
        signal, spread = self._at(timesteps, clean)
        return signal * clean + spread * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the U-Net is to predict: the noise, or the velocity sqrt(a) noise - sqrt(1 - a) clean."""
        if self.prediction == "epsilon":
            return noise
        signal, spread = self._at(timesteps, clean)
        return signal * noise - spread * clean

    def loss(self, predicted: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(B,) weighted mean squared errors, float32."""
        errors = (predicted.float() - self.target(clean, noise, timesteps).float()).square().flatten(1).mean(1)
        return errors * self.weights(timesteps).to(errors)

    def weights(self, timesteps: Tensor) -> Tensor:
        """(B,) min-SNR weights: min(snr, gamma) / snr on noise, min(snr, gamma) / (snr + 1) on velocity."""
        left = self.alphas_cumprod[timesteps.cpu()]
        if self.min_snr_gamma <= 0:
            return torch.ones_like(left)
        snr = left / (1 - left)
        if self.prediction == "epsilon":
            return torch.where(snr < self.min_snr_gamma, torch.ones_like(snr), self.min_snr_gamma / snr)
        return snr.clamp_max(self.min_snr_gamma) / (snr + 1)

    def _at(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        left = self.alphas_cumprod[timesteps.cpu()].view(-1, 1, 1, 1)
        return left.sqrt().to(like), (1 - left).sqrt().to(like)
