"""The part of the sampling in which a patch takes part, and noise levels as timesteps of the model's schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.attention.curve import share_of_timestep


@dataclass(frozen=True)
class Window:
    """A part of the sampling, as shares of it; what noise levels those are, the run's own schedule says.

    Where both are the same no step, or one at the most, is in it.

    Raises:
        ValueError: a window that ends before it begins, or reaches out of 0..1.
    """

    start_percent: float = 0.0
    end_percent: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start_percent <= self.end_percent <= 1.0:
            raise ValueError(
                f"start_percent is {self.start_percent}, end_percent {self.end_percent}: expected 0 <= start <= end <= 1"
            )

    @property
    def whole(self) -> bool:
        """Whether it is all of the sampling."""
        return self.start_percent == 0.0 and self.end_percent == 1.0

    def levels(self, sampling: Any) -> tuple[float, float]:
        """The highest and the lowest noise level in it, by the host's `model_sampling`."""
        return (
            float("inf") if self.start_percent == 0.0 else float(sampling.percent_to_sigma(self.start_percent)),
            0.0 if self.end_percent == 1.0 else float(sampling.percent_to_sigma(self.end_percent)),
        )


@dataclass(frozen=True)
class NoiseSchedule:
    """A model's table of noise levels, on the CPU, so that looking one up waits for no device.

    Attributes:
        log_sigmas: (S,) float32, rising.
        timesteps: (S,) the timestep that the model takes each of them for; 0 is the finished image.
        num_timesteps: of the schedule the model was trained with, 1000 in SD1.5 and SDXL.
    """

    log_sigmas: Tensor
    timesteps: Tensor
    num_timesteps: int

    @classmethod
    def of(cls, model_sampling: Any) -> NoiseSchedule:
        """The schedule of the host's `model_sampling`.

        Continuous ones (EDM) take a noise level itself, not a timestep: there it is the place in their table.
        """
        sigmas = model_sampling.sigmas
        timesteps = model_sampling.timestep(sigmas).cpu()
        if timesteps.is_floating_point():
            timesteps = torch.arange(len(sigmas))
        return cls(sigmas.log().cpu(), timesteps, int(timesteps.max()) + 1)

    def timestep(self, sigma: float) -> float:
        """The timestep of the table's noise level that is nearest in log, as the host itself rounds."""
        distance = (torch.tensor(sigma).log() - self.log_sigmas).abs()
        return float(self.timesteps[distance.argmin()])

    def share(self, sigma: float) -> float:
        """How much of the sampling is over at a noise level, 0..1: what `percent_to_sigma` of the host turns around.

        Between two levels of the table it lies between theirs, in log.
        """
        log_sigma = torch.tensor(sigma).log().clamp(self.log_sigmas[0], self.log_sigmas[-1])
        above = int(torch.searchsorted(self.log_sigmas, log_sigma).clamp(1, len(self.log_sigmas) - 1))
        low, high = self.log_sigmas[above - 1 : above + 1].tolist()
        start, end = self.timesteps[above - 1 : above + 1].tolist()
        timestep = start + (end - start) * (float(log_sigma) - low) / (high - low)
        return share_of_timestep(timestep, self.num_timesteps)
