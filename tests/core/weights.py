"""Deterministic values for tests: ramps for what is checked by hand, seeded noise for the rest."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ramp(*shape: int, low: float = -1.0, high: float = 1.0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Evenly rising values: all different, so that a swapped axis or a wrong row shows."""
    count = torch.Size(shape).numel()
    return torch.linspace(low, high, count, dtype=torch.float64).view(shape).to(dtype)


def seeded(seed: int) -> torch.Generator:
    """A generator of its own for every test."""
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Normal values."""
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def image(*shape: int, seed: int) -> Tensor:
    """Uniform values, 0..1."""
    return torch.rand(shape, generator=seeded(seed))


@torch.no_grad()
def randomize(module: nn.Module, seed: int) -> nn.Module:
    """Give every parameter a seeded value that differs from a layer's default: norms around 1, the rest by fan-in."""
    generator = seeded(seed)
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            parameter.copy_(values / parameter[0].numel() ** 0.5 if "latents" not in name else values)
        else:
            parameter.copy_(0.1 * values + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module.requires_grad_(False).eval()
