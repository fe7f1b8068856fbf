"""Masks grown, shrunk and faded by exact Euclidean distance, and where they matter: `nearest`, on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from . import nearest

MAX_REACH = nearest.MAX_REACH


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
    return torch.from_numpy(nearest.squared_distance(mask.cpu().numpy(), reach)).to(mask.device)


def grow(mask: Tensor, pixels: int) -> Tensor:
    """A mask grown by a disk, or shrunk by one.

    Args:
        mask: (B, H, W) bool.
        pixels: the disk's radius. Above 0: every pixel within it of the mask joins. Below 0: every pixel within it of
            what the mask leaves out goes; the image's border is no edge. 0: the same mask.

    Raises:
        ValueError: a radius above 4096.
    """
    return mask if pixels == 0 else torch.from_numpy(nearest.grow(mask.cpu().numpy(), pixels)).to(mask.device)


def erode_mask(mask: Tensor, pixels: int) -> Tensor:
    """A mask without its rim: what lies inside it.

    Args:
        mask: (B, H, W) bool.
        pixels: 0 or more. A pixel stays, and counts as inside, where no pixel outside the mask lies within `pixels` of
            it, centre to centre: at a straight edge exactly `pixels` rows or columns go. The image's border is no rim.

    Raises:
        ValueError: a size below 0 or above 4096.
    """
    if pixels < 0:
        raise ValueError(f"pixels is {pixels}, expected 0 or more")
    return grow(mask, -pixels)


def fade(mask: Tensor, softness: int) -> Tensor:
    """A mask with a soft edge outside it: a ramp that ends at 0.

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
    if softness == 0:
        return mask.float()
    share = squared_distance(mask, softness).float().sqrt_().div_(softness + 1)
    return share.neg_().add_(1).clamp_(0, 1)


def window(mask: Tensor, margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold every mask of a batch, none of them empty, and `margin` pixels around it."""
    slices = []
    for used in (mask.any(0).any(1), mask.any(0).any(0)):
        places = used.nonzero().flatten()
        slices.append(slice(max(int(places[0]) - margin, 0), int(places[-1]) + 1 + margin))
    return slices[0], slices[1]
