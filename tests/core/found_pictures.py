"""Pictures with a truth, for what finds a product, a ground line and plain depths."""

from __future__ import annotations

import torch
from torch import Tensor

RED, BLUE, WHITE = (0.8, 0.1, 0.1), (0.1, 0.1, 0.8), (0.92, 0.92, 0.92)


def plain(height: int, width: int, colour: tuple[float, float, float] = WHITE) -> Tensor:
    """(3, H, W) of one colour."""
    return torch.tensor(colour).view(3, 1, 1).repeat(1, height, width)


def ellipse(size: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float]) -> Tensor:
    """(H, W) float, 1 inside, over a pixel at its rim; centre and radii (down, across) in shares of the picture."""
    down, across = ((torch.arange(length) + 0.5) / length for length in size)
    apart = (((down[:, None] - centre[0]) / radii[0]) ** 2 + ((across[None] - centre[1]) / radii[1]) ** 2).sqrt()
    return ((1 - apart) * min(radii[0] * size[0], radii[1] * size[1]) + 0.5).clamp(0, 1)


def over(ground: Tensor, opacity: Tensor, colour: tuple[float, float, float] | Tensor) -> Tensor:
    """A thing of a colour before a ground."""
    front = colour if isinstance(colour, Tensor) else torch.tensor(colour).view(3, 1, 1)
    return ground + (front - ground) * opacity


def agreement(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two opacities, each cut at one half."""
    first, second = one > 0.5, other > 0.5
    return float((first & second).sum() / (first | second).sum())
