"""Where a part that was cut out of a frame lies in it, told by ramps that were cut with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEP = 1 / 255  # of an 8-bit mask, which is what is left of a ramp where a part went through one
ROUNDED = 1.5 * STEP  # how far a ramp may be off its line: room for being rounded to 8 bits twice
BESIDE_AN_EDGE = 2  # pixels, where resizing has nothing on one side
LEAST = 2 * BESIDE_AN_EDGE + 4  # pixels that a ramp must have, for a line through some of them to say something


def ramps(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Masks of a frame, (1, H, W) float32, 0..1: how far down it each pixel's centre lies, how far up, right, and left."""
    down, right = ((torch.arange(length) + 0.5) / length for length in (height, width))
    rows, columns = down.view(1, -1, 1), right.view(1, 1, -1)
    return (
        rows.expand(1, height, width),
        (1 - rows).expand(1, height, width),
        columns.expand(1, height, width),
        (1 - columns).expand(1, height, width),
    )  # views that cost nothing


def part_of(cut: Sequence[Tensor], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a frame that its ramps were cut to. What masks of 8 bits lose in being rounded down cancels between two that
    rise towards each other.

    Args:
        cut: (1, h, w) float each, what became of `ramps`: cut out, and perhaps resized.
        size: rows and columns of the frame.

    Returns:
        top, left, height and width in pixels of the frame, to the nearest.

    Raises:
        ValueError: they were not only cut and resized: turned, padded, scaled, or changed otherwise; fewer than 8 pixels.
    """
    shapes = [tuple(ramp.shape) for ramp in cut]
    if len(set(shapes)) > 1 or len(shapes[0]) != 3 or shapes[0][0] != 1:
        raise ValueError(f"the ramps are {', '.join(map(str, shapes))}, expected all of one shape (1, rows, columns)")
    down, up, right, left = (ramp[0].to("cpu", torch.float64) for ramp in cut)
    top, height = _place(_both(down, up, "down"), size[0], "down")
    first, width = _place(_both(right, left, "to the right").T, size[1], "to the right")
    return top, first, height, width


def _both(ramp: Tensor, against: Tensor, axis: str) -> Tensor:
    """A ramp, of two that rise towards each other."""
    apart = float((ramp + against - 1).abs().max())
    if not apart <= 2 * ROUNDED:
        raise ValueError(
            f"the ramp {axis} and its opposite add up to 1 but for {apart:.2g}, expected at most {2 * ROUNDED:.2g}"
        )
    return (ramp + 1 - against) / 2


def _place(ramp: Tensor, length: int, axis: str) -> tuple[int, int]:
    """Where along a frame of that length a ramp, (along, beside), begins, and how far it goes, in whole pixels of the frame."""
    start, end = _ends(ramp, axis)
    if start < -STEP or end > 1 + STEP:
        raise ValueError(f"the ramp {axis} goes from {start:.3g} to {end:.3g}, expected 0 to 1 or a part of it")
    extent = min(max(round((end - start) * length), 1), length)
    return min(max(round(start * length), 0), length - extent), extent


def _ends(ramp: Tensor, axis: str) -> tuple[float, float]:
    """What a ramp, (along, beside), is at the outer edges of its first and its last pixel."""
    if len(ramp) < LEAST:
        raise ValueError(f"the ramp {axis} has {len(ramp)} pixels, expected {LEAST} or more")
    inner = ramp[BESIDE_AN_EDGE:-BESIDE_AN_EDGE]
    profile = inner.mean(1)
    places = torch.arange(len(profile), dtype=torch.float64) + BESIDE_AN_EDGE + 0.5
    centred = places - places.mean()
    slope = float((centred @ profile) / (centred @ centred))
    line = profile.mean() + slope * centred
    wrong = max(float((profile - line).abs().max()), float((inner - profile[:, None]).abs().max()))
    if not (slope > 0 and wrong <= ROUNDED):
        raise ValueError(
            f"the ramp {axis} rises by {slope:.2g} a pixel and is off its line by up to {wrong:.2g}, expected above 0 and at "
            f"most {ROUNDED:.2g}"
        )
    start = float(profile.mean()) - slope * float(places.mean())
    return start, start + slope * len(ramp)
