"""Where the ground begins in a picture: the row at which everything changes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..figures import percent
from .ground import SMOOTH_BELOW, Bools, Floats, shrunk, to_lab
from .unsure import UnsureError

WORKING_SIDE = 192
LEAST_ROWS = 24
BINS = 16  # of each of the three values of a colour
RANGES = ((0.0, 1.0), (-0.8, 0.8), (-0.8, 0.8))  # lightness, and the two of the tint
SOFTNESS = 0.8  # bins over which a colour is spread, so that its neighbours count as nearly the same
EDGE_ROWS = 0.06  # share of the height at the top and the bottom in which no line is looked for
NEAR_ROWS = 0.1  # share of the height above and below the line whose colours must not come again on its other side
STEP_ROWS = 0.015  # share of the height above and below the line between which the colour changes: a gradient does not
APART = 0.04  # share of the height by which the halves may disagree; then a third is left of what is sure
OFTEN = 4  # a colour is all there on the other side if it is at least a quarter as frequent
SURE_FROM = 0.4


@dataclass(frozen=True)
class GroundLine:
    """A line that was found.

    Attributes:
        share: of the height, from the top.
        sure: 0..1: how much of the colours next to the line does not come again on its other side, times how well the left and
            the right half of the picture agree on it, times the share of the columns that change there.
    """

    share: float
    sure: float


def find_ground_line(image: Tensor, visible: Tensor) -> GroundLine:
    """Find the row that parts a picture best in two: what is seen above it is of other colours than what is seen below.

    Args:
        image: (3, H, W) float, 0..1, sRGB.
        visible: (H, W) bool, True = looked at.

    Raises:
        ValueError: shapes that do not fit.
        UnsureError: a picture that is too small, of which too little is visible, or that has no such row.

    Notes: of each row the colours are counted; the line is where describing those above and those below by a table of their
    own takes the fewest bits. A wall's bands do not fool it: their colours come again above and below their edges.
    """
    if image.ndim != 3 or image.shape[0] != 3 or visible.shape != image.shape[1:]:
        raise ValueError(
            f"image is {tuple(image.shape)}, visible {tuple(visible.shape)}: expected (3, H, W) and (H, W)"
        )
    small = shrunk(image, WORKING_SIDE)
    seen = shrunk(visible[None].float(), WORKING_SIDE)[0].numpy() == 1
    if min(small.shape[1:]) < LEAST_ROWS or seen.any(1).mean() < 0.5:
        raise UnsureError(
            f"the picture is {image.shape[2]}x{image.shape[1]} pixels (width x height), of which something is visible in "
            f"{percent(seen.any(1).mean())} of the rows: too little to find where the ground begins. Set ground_line to at, and "
            "at to its share of the height"
        )
    lab = to_lab(small)
    colours = _places(lab)
    line = _found(colours, seen)
    middle = colours.shape[1] // 2
    halves = [_found(colours[:, part], seen[:, part]) for part in (slice(0, middle), slice(middle, None))]
    apart = max(abs(half[0] - line[0]) for half in halves)
    sure = line[1] * float(np.exp(-((apart / APART) ** 2))) * _stepped(lab, seen, line[0])
    if sure < SURE_FROM:
        raise UnsureError(
            f"where the ground begins cannot be told: the best line is {line[0]:.2f} of the height, sure to {sure:.2f}, expected "
            f"{SURE_FROM:g} or more. Set ground_line to at, and at to its share of the height from the top"
        )
    return GroundLine(line[0], sure)


def _places(lab: Floats) -> NDArray[np.intp]:
    """(H, W): which of BINS^3 colours each pixel has."""
    place = np.zeros(lab.shape[:2], np.intp)
    for channel, (low, high) in enumerate(RANGES):
        share = (lab[..., channel] - low) / (high - low)
        place = BINS * place + np.clip(share * BINS, 0, BINS - 1).astype(np.intp)
    return place


def _found(colours: NDArray[np.intp], seen: Bools) -> tuple[float, float]:
    """The line as a share of the height, and how little of the colours next to it comes again, 1 = none."""
    height = len(colours)
    used, place = np.unique(colours[seen], return_inverse=True)
    counts = np.zeros((height, len(used)))
    rows = np.broadcast_to(np.arange(height)[:, None], colours.shape)
    np.add.at(counts, (rows[seen], place), 1)
    blurred = _blurred(counts, used)
    above = np.cumsum(blurred, 0)
    below = above[-1] - above
    bits = _bits(above) + _bits(below)
    edge, near = (max(2, round(share * height)) for share in (EDGE_ROWS, NEAR_ROWS))
    first = edge + int(bits[edge:-edge].argmin()) + 1
    upper, lower = blurred[max(first - near, 0) : first].sum(0), blurred[first : first + near].sum(0)
    if not upper.any() or not lower.any():
        return first / height, 0.0
    again = max(_comes_again(upper, below[first - 1]), _comes_again(lower, above[first - 1]))
    return first / height, max(1 - again, 0.0)


def _stepped(lab: Floats, seen: Bools, line: float) -> float:
    """0..1: the share of the columns seen on both sides of a line whose colour changes there within a few rows."""
    height = len(lab)
    reach = max(1, round(STEP_ROWS * height))
    first = round(line * height)
    over, under = max(first - 1 - reach, 0), min(first + reach, height - 1)
    both = seen[over] & seen[under]
    steps = np.linalg.norm(lab[over] - lab[under], axis=-1)[both]
    return float((steps > SMOOTH_BELOW).mean()) if both.any() else 0.0


def _comes_again(near: NDArray[np.float64], beyond: NDArray[np.float64]) -> float:
    """0..1: how much of the colours next to a line, counts (colours,), is also on its other side, anywhere."""
    return float(np.minimum(near / near.sum(), OFTEN * beyond / beyond.sum()).sum())


def _blurred(counts: NDArray[np.float64], used: NDArray[np.intp]) -> NDArray[np.float64]:
    """Counts (H, colours) with each colour spread over its neighbours, among the colours that there are."""
    at = np.stack(np.unravel_index(used, (BINS, BINS, BINS)), -1).astype(float)
    apart = ((at[:, None] - at[None]) ** 2).sum(-1)
    weights = np.exp(-apart / (2 * SOFTNESS**2))
    spread: NDArray[np.float64] = counts @ (weights / weights.sum(1, keepdims=True))
    return spread


def _bits(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H,) what each row of counts (H, colours) takes to describe: its entropy times its number."""
    total = counts.sum(1)
    logs = np.log(np.maximum(counts, 1e-12) / np.maximum(total[:, None], 1e-12))
    found: NDArray[np.float64] = -(counts * logs).sum(1)
    return found
