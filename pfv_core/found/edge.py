"""A coarse outline carried to the full size of a picture, where its edge becomes soft."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..ad.depth import fill_hidden
from ..region.nearest import grow
from .ground import Bools

REACH = 2  # pixels of each size, on both sides of the outline, in which it may move
TILE = 512  # pixels of a picture at a time
AROUND = 16  # pixels around a tile that it sees
LEAST_CONTRAST = (
    0.04  # difference of the product's colour and the ground's, 0..1, below which the outline stays where it is
)
HAZE = 0.04  # opacity nearer than this to 0 or 1 is noise


def soft_edge(image: Tensor, mask: Bools) -> Tensor:
    """The opacity of what a coarse mask marks.

    Args:
        image: (3, H, W) float, 0..1.
        mask: (h, w), True = product; of the same proportions and no larger.

    Returns:
        (H, W) float32: 1 inside, 0 outside, and between them, within two pixels of the outline, the share I - B has of F - B:
        F the product's colour carried outwards, B the ground's carried inwards. The outline is found at every doubling of the
        size, so that it can follow what the coarse mask could not show; all of it costs the pixels, and memory of a tile.
    """
    opacity = torch.from_numpy(mask).float()
    for size in _sizes((mask.shape[0], mask.shape[1]), (image.shape[1], image.shape[2])):
        seen = image if size == tuple(image.shape[1:]) else F.interpolate(image[None], size=size, mode="area")[0]
        opacity = _at(seen, F.interpolate(opacity[None, None], size=size, mode="bilinear")[0, 0] > 0.5)
    return opacity


def _sizes(coarse: tuple[int, int], full: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Doubled again and again, the full size at the end."""
    height, width = coarse
    while 2 * height < full[0] and 2 * width < full[1]:
        height, width = 2 * height, 2 * width
        yield height, width
    yield full


def _at(image: Tensor, mask: Tensor) -> Tensor:
    """The opacity at one size."""
    opacity = mask.float()
    height, width = mask.shape
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            first = (max(0, top - AROUND), max(0, left - AROUND))
            rows, columns = slice(first[0], top + TILE + AROUND), slice(first[1], left + TILE + AROUND)
            part = mask[rows, columns]
            if bool(part.any()) and not bool(part.all()):
                soft = _mixed(image[:, rows, columns], part)
                inner = np.s_[top - first[0] :, left - first[1] :]
                opacity[top : top + TILE, left : left + TILE] = soft[inner][:TILE, :TILE]
    return opacity


def _mixed(image: Tensor, mask: Tensor) -> Tensor:
    """The opacity of a tile."""
    marked = mask.numpy()[None]
    product, ground = (torch.from_numpy(grow(part, -REACH))[None] for part in (marked, ~marked))
    if not bool(product.any()) or not bool(ground.any()):
        return mask.float()
    own, behind = (fill_hidden(torch.where(part, image[None], 0.0), part)[0] for part in (product, ground))
    contrast = own - behind
    share = ((image - behind) * contrast).sum(0) / (contrast**2).sum(0).clamp_min(1e-8)
    share = torch.where(contrast.norm(dim=0) < LEAST_CONTRAST, mask.float(), share)
    share = torch.where(share < HAZE, 0.0, torch.where(share > 1 - HAZE, 1.0, share))
    return torch.where(product[0, 0], 1.0, torch.where(ground[0, 0], 0.0, share))
