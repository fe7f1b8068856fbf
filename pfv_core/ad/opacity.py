"""How opaque a product is, pixel by pixel, and which pixels must therefore be the photo's: said once, for all that ask.

An opacity is 0..1: 1 = opaque, 0 = not the product, between = translucent, such as glass or a smoothed edge. Numpy alone, so
that a check without torch counts as the composite does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..region.nearest import grow

PAINT_STEP = 1.5 / 255  # an editor's paint is one 8-bit step short of 1, and a cleared place may be one above 0
SEEN_ABOVE = 0.1
"""Opacity above which a pixel belongs to the product wherever only yes or no counts: its box, depth, rows and rim. Clear glass
lies above it, the haze that automatic cut-outs leave around a product below."""


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

    Notes: the pixels of it whose opacity is exactly 1 are those that count as inside: they must be the photo's own.
    """
    return grow(opacity > SEEN_ABOVE, -erode)
