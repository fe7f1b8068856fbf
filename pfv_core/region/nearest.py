"""Exact Euclidean distances on the pixel grid, in numpy alone, so that a check without torch erodes as a composite does.

A pixel is its centre. Everything here costs the pixels times the radius, on strips that stay in the processor's cache, and
holds four bytes for each pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_REACH = 4096  # pixels: what keeps every squared distance of two pixels of a large image in 32 bits
STRIP_BYTES = 1 << 19  # of an image at a time
CHECKED_EVERY = 16  # steps: whether further rows can still be nearer

Bools = NDArray[np.bool_]
Integers = NDArray[np.signedinteger]


def squared_distance(mask: Bools, reach: int) -> NDArray[np.int32]:
    """Squared distance of each pixel to the nearest pixel of a mask, exact.

    Args:
        mask: (B, H, W) bool.
        reach: pixels, 0..4096: how far it matters.

    Returns:
        (B, H, W) int32, 0 on the mask; (reach + 1)^2 wherever it is more than that, and where the mask is empty.

    Raises:
        ValueError: a reach outside its range.
    """
    if not 0 <= reach <= MAX_REACH:
        raise ValueError(f"reach is {reach} pixels, expected 0 to {MAX_REACH}")
    limit = reach + 1
    found = np.empty(mask.shape, np.int32)
    for one, squares in zip(mask, found, strict=True):
        _along_rows(one, limit, squares)
        _down_columns(squares, limit)
    return found


def grow(mask: Bools, pixels: int) -> Bools:
    """A mask grown by a disk, or shrunk (eroded) by one.

    Args:
        mask: (B, H, W) bool.
        pixels: the disk's radius. Above 0: every pixel within it of the mask joins. Below 0: every pixel within it of
            what the mask leaves out goes; the image's border is no edge. 0: the same mask.

    Raises:
        ValueError: a radius above 4096.
    """
    if pixels == 0:
        return mask
    if pixels > 0:
        return squared_distance(mask, pixels) <= pixels * pixels
    return squared_distance(~mask, -pixels) > pixels * pixels


def _along_rows(mask: Bools, limit: int, squares: NDArray[np.int32]) -> None:
    """Write the squared distance to the nearest pixel of the mask in the same row, at most limit squared."""
    width = mask.shape[1]
    columns, far = np.arange(width, dtype=np.int32), np.int32(width + limit)
    rows = max(1, STRIP_BYTES // (4 * width))
    for start in range(0, mask.shape[0], rows):
        strip = mask[start : start + rows]
        before = np.where(strip, columns, -far)
        np.maximum.accumulate(before, axis=1, out=before)
        after = np.where(strip, columns, 2 * far)[:, ::-1]
        after = np.minimum.accumulate(after, axis=1)[:, ::-1]
        nearest = np.minimum(columns - before, after - columns)
        np.minimum(nearest, limit, out=nearest)
        np.square(nearest, out=squares[start : start + rows])


def _down_columns(squares: NDArray[np.int32], limit: int) -> None:
    """Take the least of (squared distance in a row) + (rows between) squared over all rows, in place."""
    height, width = squares.shape
    narrow = 2 * limit * limit <= np.iinfo(np.int16).max  # two squares are added
    kind = np.dtype(np.int16 if narrow else np.int32)
    columns = max(16, STRIP_BYTES // (kind.itemsize * height))
    for start in range(0, width, columns):
        strip = squares[:, start : start + columns].astype(kind)
        if strip.any() and strip.min() < limit * limit:  # neither all of it nor nothing is the mask's
            squares[:, start : start + columns] = _nearest_row(strip, limit)


def _nearest_row(strip: Integers, limit: int) -> Integers:
    nearest, shifted = strip.copy(), np.empty_like(strip)
    for step in range(1, min(limit, len(strip))):
        if step % CHECKED_EVERY == 0 and step * step >= nearest.max():
            break
        np.add(strip, step * step, out=shifted)
        np.minimum(nearest[step:], shifted[:-step], out=nearest[step:])
        np.minimum(nearest[:-step], shifted[step:], out=nearest[:-step])
    return np.minimum(nearest, limit * limit, out=nearest)
