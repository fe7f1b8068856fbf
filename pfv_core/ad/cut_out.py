"""Resampling of cut-outs and of whole images, antialiased and without a fringe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT_ABOVE = 0.5  # share of an output pixel that the product must cover


def resize_cut_out(image: Tensor, keep_mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize the kept part of an image; what is not kept has no influence.

    Args:
        image: (C, H, W) float, 0..1 where kept; anything, NaN included, elsewhere.
        keep_mask: (H, W) bool, True = kept.
        size: height and width wanted, pixels.

    Returns:
        (C, height, width) float colours, not multiplied with any opacity, and (height, width) bool: where the kept part
        covers more than half of the pixel. Elsewhere the colour is 0.

    Notes: bicubic with antialiasing, values kept in 0..1, where the kernel meets kept pixels only. At the rim the average of
    the kept pixels, weighted by an antialiased bilinear kernel (premultiplied alpha), so that neither the photo's old
    background nor black bleeds in.
    """
    keep = keep_mask[None, None].to(image.dtype)
    shown = torch.where(keep_mask, image, 0.0)[None]
    weight, total, sharp = (
        _interpolate(keep, size, "bilinear"),
        _interpolate(shown, size, "bilinear"),
        _interpolate(shown, size, "bicubic").clamp(0, 1),
    )
    reach = _interpolate(1 - keep, size, "bicubic").abs() + _interpolate(1 - keep, size, "bilinear")
    kept = weight[0, 0] > KEPT_ABOVE
    average = total / weight.clamp_min(KEPT_ABOVE)
    return torch.where(kept, torch.where(reach > 0, average, sharp)[0], 0.0), kept


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W), 0..1 -> the same at another height and width: bicubic, antialiased, kept in 0..1; the same tensor
    where nothing changes."""
    return image if tuple(image.shape[2:]) == size else _interpolate(image, size, "bicubic").clamp(0, 1)


def _interpolate(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if size[1] == 1:  # torch 2.13 gives every row the first one's value where it resizes to a single column
        return F.interpolate(image.mT, size=size[::-1], mode=mode, antialias=True).mT
    return F.interpolate(image, size=size, mode=mode, antialias=True)
