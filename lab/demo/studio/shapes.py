"""Signed distances of the studio's bodies, negative inside, in their own coordinates.

A body stands on (0, 0, 0), y grows upwards, its front looks to -z, and lengths are multiples of its size. Points are
(N, 3), distances (N,). Distances may be too short, never too long: rays that march by them miss nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]


def _length(*parts: Tensor) -> Tensor:
    total = parts[0] ** 2
    for part in parts[1:]:
        total = total + part**2
    return (total + 1e-9).sqrt()


def _box(parts: tuple[Tensor, ...], half: tuple[float, ...], rounding: float) -> Tensor:
    """A rounded box round the origin in as many dimensions as there are parts."""
    over = [part.abs() - (side - rounding) for part, side in zip(parts, half, strict=True)]
    inside = torch.stack(over).amax(0).clamp(max=0)
    return _length(*[value.clamp(min=0) for value in over]) + inside - rounding


def _turned(p: Tensor, radius: float, bottom: float, top: float, rounding: float) -> Tensor:
    """A cylinder about the upright axis with rounded rims."""
    around = _length(p[:, 0], p[:, 2])
    return _box((around, p[:, 1] - (bottom + top) / 2), (radius, (top - bottom) / 2), rounding)


def _ball(p: Tensor, center: tuple[float, float, float], radius: float) -> Tensor:
    return _length(p[:, 0] - center[0], p[:, 1] - center[1], p[:, 2] - center[2]) - radius


def _capsule(p: Tensor, start: tuple[float, float, float], end: tuple[float, float, float], radius: float) -> Tensor:
    a, way = torch.tensor(start), torch.tensor(end) - torch.tensor(start)
    along = (((p - a) @ way) / way.square().sum()).clamp(0, 1)
    return _length(*(p - a - along[:, None] * way).unbind(1)) - radius


def _cone(p: Tensor, bottom: float, top: float, radius_bottom: float, radius_top: float, rounding: float) -> Tensor:
    """A frustum about the upright axis."""
    share = ((p[:, 1] - bottom) / (top - bottom)).clamp(0, 1)
    radius = radius_bottom + (radius_top - radius_bottom) * share
    steep = math.cos(math.atan2(abs(radius_top - radius_bottom), top - bottom))
    side = (_length(p[:, 0], p[:, 2]) - radius) * steep + rounding
    ends = (p[:, 1] - (bottom + top) / 2).abs() - (top - bottom) / 2 + rounding
    return _length(side.clamp(min=0), ends.clamp(min=0)) + torch.maximum(side, ends).clamp(max=0) - rounding


def _melted(first: Tensor, second: Tensor, width: float) -> Tensor:
    """A union whose seam is smooth over `width`."""
    share = (0.5 + 0.5 * (second - first) / width).clamp(0, 1)
    return second + (first - second) * share - width * share * (1 - share)


def bottle(p: Tensor) -> Tensor:
    """A round body that runs into a neck, and a cap."""
    body = _melted(_turned(p, 0.29, 0.0, 0.66, 0.05), _turned(p, 0.11, 0.3, 1.0, 0.02), 0.22)
    return torch.minimum(body, _turned(p, 0.135, 0.98, 1.17, 0.02))


def jar(p: Tensor) -> Tensor:
    """A low wide body with a lid."""
    return torch.minimum(_turned(p, 0.40, 0.0, 0.50, 0.08), _turned(p, 0.385, 0.52, 0.70, 0.03))


def flask(p: Tensor) -> Tensor:
    """A square body, a short neck and a cap, as perfume comes in."""
    body = _box((p[:, 0], p[:, 1] - 0.32, p[:, 2]), (0.34, 0.32, 0.17), 0.05)
    cap = _box((p[:, 0], p[:, 1] - 0.82, p[:, 2]), (0.14, 0.13, 0.12), 0.02)
    return torch.minimum(torch.minimum(body, _turned(p, 0.085, 0.6, 0.74, 0.01)), cap)


def vase(p: Tensor) -> Tensor:
    """A belly on a foot, with a flared mouth."""
    belly = _melted(_ball(p, (0.0, 0.40, 0.0), 0.33), _cone(p, 0.0, 0.25, 0.20, 0.14, 0.02), 0.14)
    return _melted(belly, _cone(p, 0.70, 1.02, 0.10, 0.21, 0.02), 0.16)


def tube(p: Tensor) -> Tensor:
    """A tube that stands on its cap and is flat at the top."""
    share = ((p[:, 1] - 0.2) / 0.9).clamp(0, 1)
    wide, deep = 0.215 + 0.075 * share, 0.215 * (1 - 0.9 * share**1.3) + 0.004
    around = (_length(p[:, 0] / wide, p[:, 2] / deep) - 1) * torch.minimum(wide, deep)
    body = torch.maximum(around * 0.8, (p[:, 1] - 0.65).abs() - 0.45)
    return torch.minimum(body, _turned(p, 0.20, 0.0, 0.22, 0.025))


def carton(p: Tensor) -> Tensor:
    """A folded box."""
    return _box((p[:, 0], p[:, 1] - 0.45, p[:, 2]), (0.31, 0.45, 0.19), 0.012)


def plant(p: Tensor) -> Tensor:
    """Leaves that spread from a pot."""
    pot = _cone(p, 0.0, 0.34, 0.17, 0.23, 0.02)
    distance = pot
    for number in range(7):
        turn, rise = number * 2.4, 0.70 + 0.22 * ((number * 0.618) % 1)
        out = 0.10 + 0.30 * ((number * 0.382) % 1)
        tip = (out * math.cos(turn), rise, out * math.sin(turn))
        distance = torch.minimum(distance, _leaf(p, (0.0, 0.30, 0.0), tip))
    return distance


def _leaf(p: Tensor, start: tuple[float, float, float], end: tuple[float, float, float]) -> Tensor:
    """A capsule that is thickest at two thirds of its way."""
    a, way = torch.tensor(start), torch.tensor(end) - torch.tensor(start)
    along = (((p - a) @ way) / way.square().sum()).clamp(0, 1)
    thick = 0.012 + 0.075 * (along * 1.5).clamp(max=1) * (1 - ((along - 0.67) / 0.33).clamp(min=0) ** 2).clamp(min=0)
    return (_length(*(p - a - along[:, None] * way).unbind(1)) - thick) * 0.8


def lamp(p: Tensor) -> Tensor:
    """A foot, a stem and a shade."""
    stem = torch.minimum(_turned(p, 0.20, 0.0, 0.05, 0.02), _capsule(p, (0.0, 0.03, 0.0), (0.0, 0.70, 0.0), 0.022))
    return torch.minimum(stem, _cone(p, 0.60, 1.0, 0.30, 0.17, 0.01))


def figure(p: Tensor) -> Tensor:
    """A jointed wooden figure with one arm raised."""
    parts = [
        _ball(p, (0.0, 0.92, 0.0), 0.085),
        _capsule(p, (0.0, 0.52, 0.0), (0.0, 0.74, 0.0), 0.095),
        _capsule(p, (0.055, 0.47, 0.0), (0.085, 0.03, 0.0), 0.042),
        _capsule(p, (-0.055, 0.47, 0.0), (-0.085, 0.03, 0.0), 0.042),
        _capsule(p, (0.12, 0.74, 0.0), (0.24, 0.50, -0.04), 0.032),
        _capsule(p, (-0.12, 0.74, 0.0), (-0.25, 0.93, -0.04), 0.032),
    ]
    return torch.stack(parts).amin(0)


PRODUCTS: dict[str, Distance] = {
    "bottle": bottle,
    "jar": jar,
    "flask": flask,
    "vase": vase,
    "tube": tube,
    "box": carton,
}
COMPANIONS: dict[str, Distance] = {"plant": plant, "lamp": lamp, "figure": figure}
HEIGHTS = {"bottle": 1.17, "jar": 0.70, "flask": 0.95, "vase": 1.02, "tube": 1.10, "box": 0.90}  # of products
HALF_WIDTHS = {"bottle": 0.29, "jar": 0.40, "flask": 0.34, "vase": 0.33, "tube": 0.29, "box": 0.31}
