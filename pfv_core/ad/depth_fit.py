"""Depth of any size brought to the frame of an ad, without what is hidden in it."""

from __future__ import annotations

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import parse_choice
from .cut_out import interpolate
from .formats import Size

KEPT_ABOVE = 0.5  # share of an output pixel that must be visible for it to count as visible
SAME_SHAPE = 1.05  # by how much two shapes of one picture may differ: an estimator rounds sides to whole patches


class DepthFit(str, Enum):
    """How depth of another size lands on the frame. SAME_SIZE: not at all, it is refused. STRETCH: distorted. CROP: cut evenly to
    the frame's shape, then resized."""

    SAME_SIZE = "same_size"
    STRETCH = "stretch"
    CROP = "crop"


def fit_depth(depth: Tensor, visible_mask: Tensor, size: Size, fit: DepthFit | str) -> tuple[Tensor, Tensor]:
    """Bring a depth map to a frame.

    Args:
        depth: (B, C, H, W) float, 0..1 where visible, anything, NaN included, elsewhere.
        visible_mask: (B, H, W) bool, True = this depth may be used.
        size: height and width of the frame, pixels.
        fit: same_size, stretch or crop.

    Returns:
        (B, C, height, width) depth, 0 where hidden, and (B, height, width) bool, True where more than half of what a pixel is
        made of is visible. The same tensors where the size is the frame's already, or `fit` is same_size.

    Raises:
        ValueError: an unknown fit.

    Notes: depth is linear data, no colours: it is averaged as it is, bilinear, with antialiasing where it shrinks. Each average
    is weighted by what is visible, so that hidden depth reaches no visible place.
    """
    fit = parse_choice(DepthFit, fit, "fit")
    if fit is DepthFit.SAME_SIZE or tuple(depth.shape[2:]) == size:
        return depth, visible_mask
    if fit is DepthFit.CROP:
        rows, columns = even_cut((depth.shape[2], depth.shape[3]), size)
        depth, visible_mask = depth[:, :, rows, columns], visible_mask[:, rows, columns]
    weight = visible_mask[:, None].to(depth.dtype)
    shown = torch.where(visible_mask[:, None], depth, 0.0)
    total, share = (interpolate(values, size, "bilinear") for values in (shown, weight))
    visible = share > KEPT_ABOVE
    fitted = torch.where(visible, (total / share.clamp_min(KEPT_ABOVE)).clamp(0, 1), 0.0)
    return fitted, visible[:, 0]


def even_cut(size: Size, shape: Size) -> tuple[slice, slice]:
    """Rows and columns of the largest part in the middle of a picture that has the shape of another, to whole pixels."""
    height, width = size
    factor = min(height / shape[0], width / shape[1])
    kept = max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    return slice(top, top + kept[0]), slice(left, left + kept[1])


def check_shape(depth: Size, frame: Size) -> None:
    """Refuse a product's depth of another shape than the frame's: it is of a photo in which the product is not placed yet.

    Args:
        depth, frame: height and width, pixels.

    Raises:
        ValueError: the shapes differ by more than 5 %.
    """
    if not 1 / SAME_SHAPE <= (depth[1] * frame[0]) / (depth[0] * frame[1]) <= SAME_SHAPE:
        raise ValueError(
            f"foreground_depth is {depth[1]}x{depth[0]}, product_mask {frame[1]}x{frame[0]} (width x height), which are other "
            "shapes: place the product's depth first, with PFV Ad Canvas Place"
        )


def visible_at(visible_mask: Tensor, size: Size) -> Tensor:
    """The mask of a picture at the size of its depth map.

    Args:
        visible_mask: (B, H, W) bool, True = visible.
        size: height and width of the depth map, pixels.

    Returns:
        (B, height, width) bool: hidden wherever anything hidden lies below the pixel or touches it.

    Raises:
        ValueError: the two have not the same shape, by more than 5 %, so that they are not of one picture.
    """
    height, width = visible_mask.shape[1:]
    if (height, width) == size:
        return visible_mask
    ratio = (width * size[0]) / (height * size[1])
    if not 1 / SAME_SHAPE <= ratio <= SAME_SHAPE:
        raise ValueError(
            f"hidden_mask is {width}x{height}, reference_depth {size[1]}x{size[0]} (width x height), which are other shapes, so "
            "they are not of one picture: give the mask of the picture that the depth is of, uncut"
        )
    hidden = (~visible_mask)[:, None].float()
    return ~(F.adaptive_max_pool2d(hidden, size)[:, 0] > 0)
