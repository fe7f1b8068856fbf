"""What a saved ad holds of its product, counted in 8 bits: on numpy alone, for checks of files where there is no torch.

Inside is what is inside for the composite node: the opaque part of the core that `opacity.core_of` names.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .opacity import SEEN_ABOVE, core_of, settled

STRIP_BYTES = 1 << 20  # of a picture at a time, which stays in the processor's cache

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class FileExactness:
    """An ad against its product photo.

    Attributes:
        inside: pixels inside the eroded mask that are opaque.
        exact: those of them whose three 8-bit values are the photo's.
        max_difference: largest difference of any value inside, in 8-bit steps.
        changed_outside: share (0..1) of the pixels outside the mask that are not the photo's.
        translucent: pixels of the product that are not opaque: they are mixed with what is behind them, and not compared.
    """

    inside: int
    exact: int
    max_difference: int
    changed_outside: float
    translucent: int


def measure_file(ad: Bytes, photo: Bytes, alpha: Bytes, erode: int) -> FileExactness:
    """Compare an ad with its product photo.

    Args:
        ad: (H, W, 3), as saved.
        photo: (H, W, 3).
        alpha: (H, W), how opaque the product is: 255 = opaque, 0 = not the product.
        erode: pixels, 0 to 4096, taken off the mask's rim, as the composite node was told.

    Raises:
        ValueError: the sizes differ.
    """
    if not ad.shape == photo.shape == (*alpha.shape, 3):
        sizes = [f"{each.shape[1]}x{each.shape[0]}" for each in (ad, photo, alpha)]
        raise ValueError(f"the ad is {sizes[0]}, the photo {sizes[1]}, its mask {sizes[2]}: expected one size")
    opacity = settled(np.arange(256, dtype=np.float32) / np.float32(255))  # of each value of the alpha, rising
    seen_from, opaque_from, some_from = (
        int(found.argmax()) for found in (opacity > SEEN_ABOVE, opacity == 1, opacity > 0)
    )
    core = core_of((alpha >= seen_from)[None], erode)[0]
    inside = wrong = largest = outside = changed = translucent = 0
    for rows in _strips(alpha.shape):
        difference, values = _difference(ad[rows], photo[rows]), alpha[rows]
        opaque, clear = values >= opaque_from, values < some_from
        counted = opaque & core[rows]
        inside += int(np.count_nonzero(counted))
        outside += int(np.count_nonzero(clear))
        translucent += values.size - int(np.count_nonzero(opaque | clear))
        changed += int(np.count_nonzero(difference.astype(bool) & clear))
        difference *= counted
        wrong += int(np.count_nonzero(difference))
        largest = max(largest, int(difference.max(initial=0)))
    return FileExactness(inside, inside - wrong, largest, changed / outside if outside else 0.0, translucent)


def _strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of a picture, a few at a time."""
    height, width = shape
    step = max(1, STRIP_BYTES // (3 * width))
    return (slice(start, start + step) for start in range(0, height, step))


def _difference(one: Bytes, other: Bytes) -> Bytes:
    """(H, W, 3) twice -> (H, W), the largest difference of a pixel's values."""
    found = np.zeros(one.shape[:2], np.uint8)
    for channel in range(3):  # each of its own: three values that lie beside a fourth are slow to walk through together
        mine, its = np.ascontiguousarray(one[..., channel]), np.ascontiguousarray(other[..., channel])
        np.maximum(found, np.maximum(mine, its) - np.minimum(mine, its), out=found)
    return found
