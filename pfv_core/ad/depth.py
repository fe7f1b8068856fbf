"""The depth image for a depth ControlNet: the product's own depth before a reference's masked depth (section 3.4)."""

from __future__ import annotations

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import parse_choice


class DepthFill(str, Enum):
    """What stands where the reference's depth is hidden: its SURROUNDINGS, carried inwards along rows, or FAR away (0)."""

    SURROUNDINGS = "surroundings"
    FAR = "far"


def compose_depth(
    foreground_depth: Tensor,
    product_mask: Tensor,
    reference_depth: Tensor,
    visible_mask: Tensor,
    fill: DepthFill | str = DepthFill.SURROUNDINGS,
) -> Tensor:
    """Put the product's depth in front of a reference's depth.

    Args:
        foreground_depth: (B, C, H, W) float, 0..1, near = 1.
        product_mask: (B, H, W) bool, True = product.
        reference_depth: (B, C, H, W) float, 0..1 where visible, near = 1.
        visible_mask: (B, H, W) bool, True = this depth of the reference may be used.
        fill: surroundings or far.

    Returns:
        (B, C, H, W): the foreground's own values, bit for bit, on the product; the reference's where it is visible;
        the fill elsewhere. Hidden depth has no influence on any value.

    Raises:
        ValueError: shapes that differ, an unknown fill, or nothing visible to fill from.

    Paper: section 3.4, "a masked reference depth map and a foreground depth map" as the inputs of the generation
    module. **Deviation**: the paper does not say how the two become one; here the product is composited over.
    """
    shape = foreground_depth.shape
    if (
        reference_depth.shape != shape
        or product_mask.shape != (shape[0], *shape[2:])
        or visible_mask.shape != product_mask.shape
    ):
        raise ValueError(
            f"foreground_depth is {tuple(shape)}, reference_depth {tuple(reference_depth.shape)}, product_mask "
            f"{tuple(product_mask.shape)}, visible_mask {tuple(visible_mask.shape)}: give all the same batch and size"
        )
    visible = visible_mask[:, None]
    background = torch.where(visible, reference_depth, 0.0)
    if parse_choice(DepthFill, fill, "fill") is DepthFill.SURROUNDINGS:
        if not bool(visible_mask.flatten(1).any(1).all()):
            raise ValueError("no depth of the reference is visible, so nothing surrounds what is hidden: use fill far")
        background = fill_along_rows(background, visible)
    return torch.where(product_mask[:, None], foreground_depth, background)


def fill_along_rows(values: Tensor, visible: Tensor) -> Tensor:
    """Carry visible values into hidden places along rows, in a straight line from the nearest left of them to the nearest right.

    A table or a floor before a level camera lies behind its product as it goes on beside it: its edge stays an edge.

    Args:
        values: (B, C, H, W), 0 where hidden.
        visible: (B, 1, H, W) bool, somewhere True in each item.

    Returns:
        (B, C, H, W) float: `values` where visible. A row seen on one side only goes on with that value, one seen nowhere is
        filled from those above and below it by `fill_hidden`.
    """
    width = values.shape[3]
    column = torch.arange(width, device=values.device)
    left = torch.where(visible, column, -1).cummax(3).values
    right = torch.where(visible, column, width).flip(3).cummin(3).values.flip(3)
    share = (column - left) / (right - left).clamp(min=1)  # of the way from left to right
    share = torch.where(left < 0, 1.0, torch.where(right == width, 0.0, share)).to(values.dtype)
    start, end = (values.gather(3, at.clamp(0, width - 1).expand_as(values)) for at in (left, right))
    filled = torch.lerp(start, end, share.expand_as(values))
    seen = visible.any(3, keepdim=True).expand_as(visible)
    return torch.where(visible, values, fill_hidden(torch.where(seen, filled, 0.0), seen))


def fill_hidden(values: Tensor, visible: Tensor) -> Tensor:
    """Carry visible values into hidden places, smoothly, from coarse to fine (push-pull).

    Args:
        values: (B, C, H, W), 0 where hidden.
        visible: (B, 1, H, W) bool.

    Returns:
        (B, C, H, W) float: `values` where visible; elsewhere averages of the visible values, the nearest weigh most.
    """
    weight = visible.to(values.dtype)
    height, width = values.shape[2:]
    if height == width == 1 or bool(visible.all()):
        return values
    size = ((height + 1) // 2, (width + 1) // 2)
    total, count = (F.adaptive_avg_pool2d(tensor, size) for tensor in (values, weight))
    seen = count > 0
    coarse = fill_hidden(torch.where(seen, total / count, 0.0), seen)
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return torch.where(visible, values, smooth)
