"""Random masks of several kinds, for what a reference hides and for where an image prompt rules.

A mask selects: True = selected. Whoever draws one says what selection means (hidden, or the image prompt's region).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pfv_core.choices import parse_choice

PATCH_GRID = 16  # of ViT-H/14, the paper's encoder


class MaskKind(str, Enum):
    """The kinds of random masks."""

    RECTANGLE = "rectangle"
    ELLIPSE = "ellipse"
    STROKES = "strokes"
    HALF_PLANE = "half_plane"
    PATCHES = "patches"
    BLOB = "blob"
    FULL = "full"
    NONE = "none"


def random_mask(kind: MaskKind | str, height: int, width: int, generator: Generator, grid: int = PATCH_GRID) -> Tensor:
    """Draw one mask.

    Args:
        kind: rectangle, ellipse (rotated), strokes (a thick free-form line), half_plane (a side of a random line),
            patches (cells of a square grid, each for itself), blob (an uneven round shape near the centre, as a product
            is), full, none.
        height, width: pixels.
        generator: everything random comes from it.
        grid: cells along each side of a patches mask.

    Returns:
        (height, width) bool, True = selected.
    """
    kind = parse_choice(MaskKind, kind, "kind")
    if kind is MaskKind.PATCHES:
        return _patches(height, width, generator, grid)
    return _DRAW[kind](height, width, generator)


def pick(weights: Mapping[str, float], generator: Generator) -> str:
    """One of the names, each as often as its weight says."""
    names = list(weights)
    chances = torch.tensor([float(weights[name]) for name in names])
    return names[int(torch.multinomial(chances, 1, generator=generator))]


def _uniform(generator: Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _grid(height: int, width: int) -> tuple[Tensor, Tensor]:
    """(H, 1) and (1, W) pixel centres; the frame spans 0..1 on both axes."""
    rows = (torch.arange(height) + 0.5) / height
    columns = (torch.arange(width) + 0.5) / width
    return rows[:, None], columns[None]


def _rectangle(height: int, width: int, generator: Generator) -> Tensor:
    rows, columns = _grid(height, width)
    inside = []
    for axis in (rows, columns):
        length = _uniform(generator, 0.2, 0.7)
        start = _uniform(generator, 0, 1 - length)
        inside.append((axis >= start) & (axis < start + length))
    return inside[0] & inside[1]


def _ellipse(height: int, width: int, generator: Generator) -> Tensor:
    rows, columns = _grid(height, width)
    rows, columns = rows - _uniform(generator, 0.25, 0.75), columns - _uniform(generator, 0.25, 0.75)
    angle = _uniform(generator, 0, math.pi)
    across = math.cos(angle) * columns + math.sin(angle) * rows
    along = math.cos(angle) * rows - math.sin(angle) * columns
    first, second = _uniform(generator, 0.12, 0.45), _uniform(generator, 0.12, 0.45)
    return (across / first) ** 2 + (along / second) ** 2 <= 1


def _strokes(height: int, width: int, generator: Generator) -> Tensor:
    """Segments with round ends, each beginning where the last one ended."""
    rows, columns = _grid(height, width)
    selected = torch.zeros(height, width, dtype=torch.bool)
    row, column = _uniform(generator, 0.1, 0.9), _uniform(generator, 0.1, 0.9)
    heading = _uniform(generator, 0, 2 * math.pi)
    radius = _uniform(generator, 0.03, 0.09)
    for _ in range(int(_uniform(generator, 3, 9))):
        heading += _uniform(generator, -1.2, 1.2)
        length = _uniform(generator, 0.1, 0.4)
        end_row = min(max(row + math.sin(heading) * length, 0.0), 1.0)
        end_column = min(max(column + math.cos(heading) * length, 0.0), 1.0)
        down, right = end_row - row, end_column - column
        along = ((rows - row) * down + (columns - column) * right) / max(down**2 + right**2, 1e-6)
        along = along.clamp(0, 1)
        distance = (rows - row - along * down) ** 2 + (columns - column - along * right) ** 2
        selected |= distance <= radius**2
        row, column = end_row, end_column
    return selected


def _half_plane(height: int, width: int, generator: Generator) -> Tensor:
    rows, columns = _grid(height, width)
    angle = _uniform(generator, 0, 2 * math.pi)
    distance = math.cos(angle) * (columns - 0.5) + math.sin(angle) * (rows - 0.5)
    return distance <= _uniform(generator, -0.25, 0.25)


def _patches(height: int, width: int, generator: Generator, grid: int) -> Tensor:
    share = _uniform(generator, 0.1, 0.7)
    cells = torch.rand(1, 1, grid, grid, generator=generator) < share
    return F.interpolate(cells.float(), (height, width), mode="nearest")[0, 0] > 0


def _blob(height: int, width: int, generator: Generator) -> Tensor:
    """A circle whose radius swings by a few waves, stretched, near the centre or a little below it."""
    rows, columns = _grid(height, width)
    rows = (rows - _uniform(generator, 0.4, 0.7)) / _uniform(generator, 0.7, 1.5)
    columns = columns - _uniform(generator, 0.3, 0.7)
    angle = torch.atan2(rows, columns)
    radius = torch.full_like(angle, _uniform(generator, 0.12, 0.3))
    for wave in (2, 3, 4, 5):
        swing, phase = _uniform(generator, 0, 0.25 / wave), _uniform(generator, 0, 2 * math.pi)
        radius = radius * (1 + swing * torch.cos(wave * angle + phase))
    return rows**2 + columns**2 <= radius**2


def _full(height: int, width: int, _generator: Generator) -> Tensor:
    return torch.ones(height, width, dtype=torch.bool)


def _none(height: int, width: int, _generator: Generator) -> Tensor:
    return torch.zeros(height, width, dtype=torch.bool)


_DRAW: dict[MaskKind, Callable[[int, int, Generator], Tensor]] = {
    MaskKind.RECTANGLE: _rectangle,
    MaskKind.ELLIPSE: _ellipse,
    MaskKind.STROKES: _strokes,
    MaskKind.HALF_PLANE: _half_plane,
    MaskKind.BLOB: _blob,
    MaskKind.FULL: _full,
    MaskKind.NONE: _none,
}
