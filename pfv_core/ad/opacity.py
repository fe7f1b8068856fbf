"""How opaque a product is, pixel by pixel, and which pixels must therefore be the photo's: said once, for all that ask.

An opacity is 0..1: 1 = opaque, 0 = not the product, between = translucent, such as glass or a smoothed edge. Numpy alone, so
that a check without torch counts as the composite does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..region.nearest import MAX_REACH, grow, squared_distance

PAINT_STEP = 1.5 / 255  # an editor's paint is one 8-bit step short of 1, and a cleared place may be one above 0
SEEN_ABOVE = 0.1
"""Opacity above which a pixel belongs to the product wherever only yes or no counts: its box, depth, rows and rim. Clear glass
lies above it, the haze that automatic cut-outs leave around a product below."""


BETWEEN_UP_TO = 4
"""Pixels of erosion. In the rim of a mask that was enlarged in steps a wider one sees gaps between parts, and would keep it."""


def settled(opacity: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy whose values one 8-bit step from 0 or 1, as the mask editor leaves them, are exactly 0 or 1."""
    result = opacity.copy()
    result[result <= PAINT_STEP] = 0
    result[result >= 1 - PAINT_STEP] = 1
    return result


def core_of(opacity: NDArray[Any], erode: int) -> NDArray[np.bool_]:
    """Where a product is shown in full, at its own opacity: (B, H, W) bool.

    Args:
        opacity: (B, H, W), float 0..1 or bool.
        erode: pixels, 0 to 4096, taken off the rim of what is seen: a pixel stays where none that is not seen lies within
            `erode` of it, centre to centre. The image's border is no rim, nor is a translucent part.

    What erosion would lose for good is looked at once more, since a strap or a chain is no rim. It stays, with what joins it
    to the rest, where it is farther than sqrt(2) `erode` + 1 from all that erosion leaves, which no corner of 90 degrees is,
    or, up to an erosion of BETWEEN_UP_TO, lies between parts of that, as the string between two beads. A product that is thin
    everywhere has no core.

    Notes: the pixels of it whose opacity is exactly 1 are those that count as inside: they must be the photo's own.
    """
    seen, reach = opacity > SEEN_ABOVE, min(max(erode, 2) + 1, MAX_REACH)
    box = _box(seen, reach)
    found = _core(seen[box], erode, reach)
    core = np.zeros_like(seen)
    core[box] = found
    return core


def _core(seen: NDArray[np.bool_], erode: int, reach: int) -> NDArray[np.bool_]:
    core = grow(seen, -erode)
    opened = grow(core, erode)
    lost = seen & core.any((1, 2), keepdims=True)
    lost &= ~opened
    if not lost.any():
        return core
    thin = np.zeros_like(lost)
    if erode <= BETWEEN_UP_TO:
        opened = np.pad(grow(opened, reach), ((0, 0), (1, 1), (1, 1)))  # at the image's border nothing lies between
        thin = lost & grow(opened, -reach)[:, 1:-1, 1:-1]
    far = lost & (squared_distance(core, min(2 * erode, MAX_REACH)) > (2**0.5 * erode + 1) ** 2)
    thin |= lost & grow(far, reach)
    return core | (seen & grow(thin, reach)) if thin.any() else core


def _box(mask: NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    """Rows and columns that hold every mask of a batch, and `margin` pixels around it; all of them where every mask is empty."""
    found = [np.flatnonzero(mask.any(axis)) for axis in ((0, 2), (0, 1))]
    return (
        slice(None),
        *(slice(max(at[0] - margin, 0), at[-1] + 1 + margin) if at.size else slice(None) for at in found),
    )
