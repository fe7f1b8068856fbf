"""Plain depths by geometry: a wall above a ground that nears towards the viewer, and a product that stands on it."""

from __future__ import annotations

import torch
from torch import Tensor

WALL = 0.12  # nearness of the wall; 0 = far, 1 = near
GROUND = (0.27, 1.0)  # of the ground where it begins, and at the picture's lower edge


def plain_depth(size: tuple[int, int], line: float) -> Tensor:
    """A wall above a ground.

    Args:
        size: height and width, pixels.
        line: where the ground begins, share of the height from the top; 1 = no ground, 0 = no wall.

    Returns:
        (H, W) float32, 0..1, near = 1: constant on the wall, in a straight line down the ground, whose rows are those whose
        centre lies below the line.

    Raises:
        ValueError: a line outside 0..1.
    """
    height, width = size
    if not 0 <= line <= 1:
        raise ValueError(f"line is {line:g}, expected a share of the height from 0 (top) to 1 (bottom)")
    first, last = GROUND
    rows = (torch.arange(height) + 0.5) / height
    on_ground = first + (last - first) * (rows - line) / max(1 - line, 1e-6)
    return torch.where(rows < line, WALL, on_ground)[:, None].repeat(1, width)


def standing_depth(product_mask: Tensor, line: float) -> Tensor:
    """The depth of a product that stands upright on the ground of `plain_depth`.

    Args:
        product_mask: (H, W) bool, True = product.
        line: see `plain_depth`.

    Returns:
        (H, W) float32: on the product the nearness of the ground in its lowest row, so that its foot touches it, or the wall's
        if that row is above the line; 0 elsewhere.

    Raises:
        ValueError: an empty mask, a line outside 0..1.
    """
    rows = product_mask.any(1)
    if not bool(rows.any()):
        raise ValueError("product_mask is empty: select the product")
    foot = int(rows.nonzero()[-1])
    nearness = plain_depth((product_mask.shape[0], 1), line)[foot, 0]
    return torch.where(product_mask, nearness, 0.0)


def hangs(product_mask: Tensor, line: float) -> bool:
    """Whether the lowest row of a product, (H, W) bool, lies above the line, so that it stands on no ground."""
    foot = int(product_mask.any(1).nonzero()[-1])
    return (foot + 0.5) / product_mask.shape[0] < line
