"""Noisy latents, what the U-Net is to predict of them, and how much each timestep counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.training_utils import compute_snr
from torch import Tensor


@dataclass(frozen=True)
class NoiseSchedule:
    """The training side of one of diffusers' discrete schedulers.

    Attributes:
        scheduler: has `add_noise`, `get_velocity` and `alphas_cumprod`.
        prediction: epsilon or v_prediction.
        min_snr_gamma: of min-SNR weighting; 0 = every timestep counts alike.

    Raises:
        ValueError: another prediction.
    """

    scheduler: Any
    prediction: str
    min_snr_gamma: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"the U-Net predicts {self.prediction}, expected epsilon or v_prediction")

    @classmethod
    def of(cls, scheduler: Any, prediction: str = "model", min_snr_gamma: float = 0.0) -> NoiseSchedule:
        """The schedule of a scheduler; prediction `model` = the scheduler's own."""
        own = scheduler.config["prediction_type"]
        return cls(scheduler, own if prediction == "model" else prediction, min_snr_gamma)

    def __len__(self) -> int:
        return len(self.scheduler.alphas_cumprod)

    def noisy(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(B, 4, h, w) latents with the noise of (B,) timesteps: sqrt(a) clean + sqrt(1 - a) noise."""
        noisy: Tensor = self.scheduler.add_noise(clean, noise, timesteps)
        return noisy

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the U-Net is to predict: the noise, or the velocity sqrt(a) noise - sqrt(1 - a) clean."""
        target: Tensor = noise if self.prediction == "epsilon" else self.scheduler.get_velocity(clean, noise, timesteps)
        return target

    def loss(
        self, predicted: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor, places: Tensor | None = None
    ) -> Tensor:
        """(B,) weighted mean squared errors, float32; `places` (B, h, w) says how much each place counts, None = all alike."""
        squares = (predicted.float() - self.target(clean, noise, timesteps).float()).square().mean(1)
        if places is not None:
            squares = squares * (places / places.mean((1, 2), keepdim=True))
        errors = squares.flatten(1).mean(1)
        return errors * self.weights(timesteps) if self.min_snr_gamma > 0 else errors

    def weights(self, timesteps: Tensor) -> Tensor:
        """(B,) min-SNR weights: min(snr, gamma) / snr on noise, min(snr, gamma) / (snr + 1) on velocity."""
        snr = compute_snr(self.scheduler, timesteps)
        least = snr.clamp_max(self.min_snr_gamma)
        if self.prediction == "v_prediction":
            return least / (snr + 1)
        return torch.where(snr == 0, 1.0, least / snr)  # pure noise: the ratio's limit
