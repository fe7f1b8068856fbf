"""Resampling of cut-outs and of whole images, antialiased and without a fringe."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

KEPT_ABOVE = 0.5  # share of an output pixel that the product must cover, where its mask is yes or no
STEPS = 255  # of an opacity, as a file keeps it


def resize_cut_out(image: Tensor, keep_mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resize the kept part of an image; what is not kept has no influence.

    Args:
        image: (C, H, W) float, 0..1 where kept; anything, NaN included, elsewhere. Not multiplied with any opacity.
        keep_mask: (H, W): bool, True = kept; or float, 0..1, the opacity, 0 = not kept.
        size: height and width wanted, pixels.

    Returns:
        (C, height, width) float colours, not multiplied with any opacity, and (height, width) of the mask's kind: bool,
        True where the kept part covers more than half of the pixel; or float, the average opacity in steps of 1/255,
        exactly 1 where everything under the kernel is opaque. Where it is False or 0 the colour is 0.

    Notes: bicubic with antialiasing, values kept in 0..1, where the kernel meets opaque pixels only. At the rim, and where the
    product is translucent, the average of the pixels, weighted by an antialiased bilinear kernel and by their opacity
    (premultiplied alpha), so that neither the photo's old background nor black bleeds in.
    """
    hard = keep_mask.dtype == torch.bool
    opacity = keep_mask[None, None].to(image.dtype)
    shown = torch.where(keep_mask > 0, image, 0.0)[None]
    weight, total, sharp = (
        interpolate(opacity, size, "bilinear"),
        interpolate(shown * opacity, size, "bilinear"),
        interpolate(shown, size, "bicubic").clamp(0, 1),
    )
    clear = (opacity < 1).to(image.dtype)
    reach = interpolate(clear, size, "bicubic").abs() + interpolate(clear, size, "bilinear")
    if hard:
        kept, resized = weight[0, 0] > KEPT_ABOVE, weight[0, 0] > KEPT_ABOVE
    else:
        resized = torch.where(reach > 0, (STEPS * weight).round() / STEPS, 1.0)[0, 0]
        kept = resized > 0
    average = total / weight.clamp_min(KEPT_ABOVE if hard else KEPT_ABOVE / STEPS)
    return torch.where(kept, torch.where(reach > 0, average, sharp)[0], 0.0), resized


def resize_image(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W), 0..1 -> the same at another height and width: bicubic, antialiased, kept in 0..1; the same tensor
    where nothing changes."""
    return image if tuple(image.shape[2:]) == size else interpolate(image, size, "bicubic").clamp(0, 1)


def interpolate(image: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """(B, C, H, W) at another height and width, antialiased where it shrinks; `mode` is bilinear or bicubic."""
    if size[1] == 1:  # torch 2.13 gives every row the first one's value where it resizes to a single column
        return F.interpolate(image.mT, size=size[::-1], mode=mode, antialias=True).mT
    return F.interpolate(image, size=size, mode=mode, antialias=True)
