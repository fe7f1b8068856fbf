"""Exact Euclidean distances on the pixel grid: masks grown, shrunk and faded, and where they matter."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_REACH = 4096  # pixels: what keeps every squared distance of two pixels of a large image in 32 bits


def squared_distance(mask: Tensor, reach: int) -> Tensor:
    """Squared distance of each pixel's centre to the nearest pixel of a mask, exact.

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
    along_row = _row_distance(mask, limit).square()
    nearest = along_row.clone()
    height = mask.shape[1]
    for step in range(1, min(limit, height)):
        nearest[:, step:] = torch.minimum(nearest[:, step:], along_row[:, :-step] + step * step)
        nearest[:, :-step] = torch.minimum(nearest[:, :-step], along_row[:, step:] + step * step)
    return nearest.clamp_max(limit * limit)


def grow(mask: Tensor, pixels: int) -> Tensor:
    """A mask grown by a disk, or shrunk by one.

    Args:
        mask: (B, H, W) bool.
        pixels: the disk's radius. Above 0: every pixel within it of the mask joins. Below 0: every pixel within it of
            what the mask leaves out goes; the image's border is no edge. 0: the same mask.

    Raises:
        ValueError: a radius above 4096.
    """
    if pixels >= 0:
        return squared_distance(mask, pixels) <= pixels * pixels
    return squared_distance(~mask, -pixels) > pixels * pixels


def fade(mask: Tensor, softness: int) -> Tensor:
    """A mask with a soft edge outside it.

    Args:
        mask: (B, H, W) bool.
        softness: pixels of the edge; 0 = hard.

    Returns:
        (B, H, W) float32: 1 on the mask, 1 - d / (softness + 1) at a distance of d pixels from it, exactly 0 beyond.

    Raises:
        ValueError: a softness outside 0..4096.
    """
    if not 0 <= softness <= MAX_REACH:
        raise ValueError(f"softness is {softness} pixels, expected 0 to {MAX_REACH}")
    limit = softness + 1
    return (1 - squared_distance(mask, softness).float().sqrt() / limit).clamp(0, 1)


def window(mask: Tensor, margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold every mask of a batch, none of them empty, and `margin` pixels around it."""
    slices = []
    for used in (mask.any(0).any(1), mask.any(0).any(0)):
        places = used.nonzero().flatten()
        slices.append(slice(max(int(places[0]) - margin, 0), int(places[-1]) + 1 + margin))
    return slices[0], slices[1]


def _row_distance(mask: Tensor, limit: int) -> Tensor:
    """(B, H, W) int32: columns to the nearest pixel of the mask in the same row, at most `limit`."""
    columns = torch.arange(mask.shape[2], dtype=torch.int32).expand_as(mask)
    far = mask.shape[2] + limit
    before = torch.where(mask, columns, -far).cummax(2).values
    after = torch.where(mask, columns, 2 * far).flip(2).cummin(2).values.flip(2)
    return torch.minimum(columns - before, after - columns).clamp_max(limit)
