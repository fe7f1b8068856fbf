"""Colours and gloss of what a ray meets. Colours are reflectances, linear, (N, 3); gloss is (N,), 0 = matt, 1 = polished."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .scene import Companion, Product, Scene
from .shapes import HALF_WIDTHS

LABEL_RGB = (0.86, 0.85, 0.80)
INK_RGB = (0.10, 0.10, 0.11)
LABEL_GLOSS = 0.15
NOISE_SIDE = 256


@dataclass(frozen=True)
class Surface:
    """What points of a surface look like.

    Attributes:
        color: (N, 3).
        gloss: (N,).
        label: (N,) bool, True = on the product's label.
    """

    color: Tensor
    gloss: Tensor
    label: Tensor


@dataclass(frozen=True)
class _Band:
    """Where a shape has its label and its cap: heights, and how far the label reaches to the sides.

    Attributes:
        bottom, top: of the label.
        half: half of its width: an angle in radians where the shape is round, a length where it is flat.
        flat: whether the label lies in a plane.
        cap: heights of the cap, bottom and top; equal = none.
    """

    bottom: float
    top: float
    half: float
    flat: bool
    cap: tuple[float, float]


_BANDS = {
    "bottle": _Band(0.14, 0.50, 1.05, False, (0.985, 2.0)),
    "jar": _Band(0.12, 0.41, 0.95, False, (0.51, 2.0)),
    "flask": _Band(0.13, 0.50, 0.23, True, (0.66, 2.0)),
    "vase": _Band(0.27, 0.53, 0.85, False, (0.0, 0.0)),
    "tube": _Band(0.38, 0.80, 0.19, True, (-1.0, 0.225)),
    "box": _Band(0.16, 0.66, 0.22, True, (0.0, 0.0)),
}


@cache
def _table(device: torch.device) -> Tensor:
    drawn = torch.rand(NOISE_SIDE, NOISE_SIDE, generator=torch.Generator("cpu").manual_seed(7), device="cpu")
    return drawn.to(device)  # the same one everywhere


def noise(points: Tensor, octaves: int) -> Tensor:
    """(N, 2) -> (N,) smooth noise, 0..1, with details down to 1 / 2^octaves."""
    table, total, amplitude, weights = _table(points.device), torch.zeros_like(points[:, 0]), 1.0, 0.0
    for octave in range(octaves):
        scaled = points * 2**octave
        cell, share = scaled.floor(), scaled - scaled.floor()
        share = share * share * (3 - 2 * share)
        x, y = cell.long().unbind(1)
        x0, x1, y0, y1 = x % NOISE_SIDE, (x + 1) % NOISE_SIDE, y % NOISE_SIDE, (y + 1) % NOISE_SIDE
        low = table[x0, y0] + (table[x1, y0] - table[x0, y0]) * share[:, 0]
        high = table[x0, y1] + (table[x1, y1] - table[x0, y1]) * share[:, 0]
        total = total + amplitude * (low + (high - low) * share[:, 1])
        weights, amplitude = weights + amplitude, amplitude / 2
    return total / weights


def _mix(first: Tensor | tuple[float, ...], second: Tensor | tuple[float, ...], share: Tensor) -> Tensor:
    a, b = torch.as_tensor(first), torch.as_tensor(second)
    return a + (b - a) * share[:, None]


def table_surface(points: Tensor, scene: Scene) -> Surface:
    """The table's top, at (N, 3) points."""
    place = points[:, [0, 2]]
    color, gloss = _MATERIALS[scene.table](place, place + torch.tensor(scene.grain), scene.tone)
    return Surface(color, torch.full_like(points[:, 0], gloss), torch.zeros_like(points[:, 0], dtype=torch.bool))


def _wooden(place: Tensor, noisy: Tensor, tone: float) -> tuple[Tensor, float]:
    """Planks along x with rings, from light oak to walnut."""
    plank = (place[:, 1] * 2.1 + 0.35).floor()
    shifted = noisy + torch.stack([plank * 7.3, torch.zeros_like(plank)], 1)
    grain = noise(shifted * torch.tensor([1.1, 8.0]), 4)
    ring = torch.sin(grain * 15 + plank * 2.4) * 0.5 + 0.5
    fine = noise(shifted * torch.tensor([5.0, 90.0]), 2)
    light = _mix((0.50, 0.29, 0.14), (0.20, 0.09, 0.045), torch.full_like(plank, tone))
    color = light * (1.12 - 0.42 * ring - 0.22 * fine + 0.12 * torch.sin(plank * 4.1))[:, None]
    seam = ((place[:, 1] * 2.1 + 0.35) - plank - 0.5).abs()
    return color * (1 - 0.5 * ((seam - 0.488) / 0.012).clamp(0, 1))[:, None], 0.30


def _marble(place: Tensor, noisy: Tensor, tone: float) -> tuple[Tensor, float]:
    """Veins on white or warm stone."""
    bent = noise(noisy * 1.4, 5)
    vein = torch.sin((noisy[:, 0] * 1.1 + noisy[:, 1] * 0.6 + bent * 5.5) * 2.2).abs().clamp(0, 1) ** 0.28
    stone = torch.tensor([0.66, 0.65, 0.64]) * (1 - tone * torch.tensor([0.05, 0.12, 0.22]))
    return stone * (0.42 + 0.58 * vein)[:, None], 0.65


def _slate(place: Tensor, noisy: Tensor, tone: float) -> tuple[Tensor, float]:
    """Cleft dark stone."""
    rough = noise(noisy * 4.0, 5)
    return torch.tensor([0.075, 0.08, 0.092]) * (1 + 0.5 * tone) * (0.45 + 1.1 * rough)[:, None], 0.45


def _linen(place: Tensor, noisy: Tensor, tone: float) -> tuple[Tensor, float]:
    """A woven cloth, sand to rose, with soft folds."""
    fold = noise(noisy * torch.tensor([0.9, 1.6]), 2)
    weave = torch.sin(place[:, 0] * 210) * torch.sin(place[:, 1] * 210)
    cloth = _mix((0.50, 0.40, 0.28), (0.46, 0.24, 0.22), torch.full_like(fold, tone))
    return cloth * (0.66 + 0.5 * fold + 0.06 * weave)[:, None], 0.0


_MATERIALS = {"wooden": _wooden, "marble": _marble, "slate": _slate, "linen": _linen}


def wall_surface(points: Tensor, scene: Scene) -> Surface:
    """The painted or papered wall, out of focus."""
    across = points[:, 0] / scene.period + scene.phase[0]
    up = points[:, 1] / scene.period + scene.phase[1]
    tone = (_pattern(scene.pattern, across, up) / scene.blur + 0.5).clamp(0, 1)
    tone = tone * tone * (3 - 2 * tone)
    uneven = noise(points[:, :2] * 1.3 + torch.tensor(scene.grain), 3)
    color = _mix(scene.wall_rgb, scene.second_rgb, tone) * (0.94 + 0.12 * uneven)[:, None]
    return Surface(color, torch.zeros_like(across), torch.zeros_like(across, dtype=torch.bool))


def _pattern(name: str, across: Tensor, up: Tensor) -> Tensor:
    """Distance into the second tone, in periods; negative outside it."""
    if name == "stripes":
        return _wave(across)
    if name == "bands":
        return _wave(up)
    if name == "dots":
        return 0.30 - (_cell(across) ** 2 + _cell(up) ** 2).sqrt()
    if name == "checks":
        first, second = _wave(across * 0.85), _wave(up * 0.85)
        return -(first.sign() * second.sign()) * torch.minimum(first.abs(), second.abs())
    if name == "slants":
        return _wave((across + up) * 0.72)
    return torch.full_like(across, -1.0)


def _cell(position: Tensor) -> Tensor:
    return position - position.floor() - 0.5


def _wave(position: Tensor) -> Tensor:
    return 0.25 - _cell(position).abs()


def product_surface(q: Tensor, product: Product) -> Surface:
    """The product, at (N, 3) points in its own coordinates."""
    band = _BANDS[product.shape]
    height = q[:, 1]
    across = q[:, 0] if band.flat else torch.atan2(q[:, 0], -q[:, 2])
    u, v = across / band.half, (height - (band.bottom + band.top) / 2) / ((band.top - band.bottom) / 2)
    label = (u.abs() < 1) & (v.abs() < 1) & (q[:, 2] < 0)
    color = torch.tensor(product.rgb).expand(q.shape).clone()
    gloss = torch.full_like(height, product.gloss)
    cap = (height > band.cap[0]) & (height < band.cap[1])
    color[cap], gloss[cap] = torch.tensor(product.cap), max(product.gloss, 0.5)
    color[label], gloss[label] = _label(u[label], v[label], band, product), LABEL_GLOSS
    return Surface(color, gloss, label)


def _label(u: Tensor, v: Tensor, band: _Band, product: Product) -> Tensor:
    """Paper with the mark in its upper part, and under it lines of print; u and v run from -1 to 1."""
    wide = band.half * (1 if band.flat else HALF_WIDTHS[product.shape])
    aspect = wide / ((band.top - band.bottom) / 2)
    x, y = u * aspect / product.mark_form[0] / 0.62, (v - 0.22) / product.mark_form[1] / 0.62
    color = torch.tensor(LABEL_RGB).expand(len(u), 3).clone()
    color[_mark(product.mark, x, y)] = torch.tensor(product.mark_rgb)
    line = ((v + 0.66).abs() < 0.055) & (u.abs() < 0.62) | ((v + 0.84).abs() < 0.035) & (u.abs() < 0.40)
    color[line] = torch.tensor(INK_RGB)
    return color


def _mark(name: str, x: Tensor, y: Tensor) -> Tensor:
    """(N,) bool, inside the mark; it reaches from -1 to 1."""
    radius = (x**2 + y**2).sqrt()
    if name == "disc":
        return radius < 0.9
    if name == "ring":
        return (radius < 0.95) & (radius > 0.58)
    if name == "cross":
        return torch.minimum(x.abs(), y.abs()).lt(0.27) & (torch.maximum(x.abs(), y.abs()) < 0.95)
    if name == "bars":
        return (((x + 1) * 2.5).floor() % 2 == 0) & (x.abs() < 1) & (y.abs() < 0.85)
    return x.abs() + y.abs() < 1.05


def companion_surface(q: Tensor, companion: Companion) -> Surface:
    """What stands beside the product, at (N, 3) points in its own coordinates."""
    color = torch.tensor(companion.rgb).expand(q.shape).clone()
    gloss = torch.full_like(q[:, 0], 0.3)
    if companion.kind == "plant":
        color[q[:, 1] < 0.345] = torch.tensor([0.46, 0.22, 0.13])
        color = color * (0.75 + 0.5 * noise(q[:, :2] * 9 + 40, 2))[:, None]
    elif companion.kind == "lamp":
        color[q[:, 1] < 0.595] = torch.tensor([0.30, 0.22, 0.10])
    else:
        color = color * (0.85 + 0.3 * noise(q[:, :2] * torch.tensor([30.0, 5.0]) + 20, 2))[:, None]
    return Surface(color, gloss, torch.zeros_like(gloss, dtype=torch.bool))


def warm(warmth: float) -> Tensor:
    """(3,) tint of a light, from cool at -1 over white at 0 to warm at 1."""
    return torch.tensor([1 + 0.06 * warmth, 1.0, 1 - 0.20 * warmth]) / math.sqrt(1 + 0.02 * abs(warmth))
