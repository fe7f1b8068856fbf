"""A contact shadow: what keeps a pasted product from floating."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..region.distance import window

SHORTEST_BLOCK = 64  # values that are blurred by one product of matrices
FOOT_SHARE = 0.1  # of a product's height: its foot, where no size is given
REACH = 3  # standard deviations of the blur; beyond them the shadow is exactly absent


def add_contact_shadow(image: Tensor, product_mask: Tensor, strength: float, size: int) -> Tensor:
    """Darken an image around the foot of a product.

    Args:
        image: (B, C, H, W) float, 0..1, without the product's own pixels, which are pasted over it afterwards.
        product_mask: (B, H, W) bool, True = product.
        strength: 0..1; 0 = the same image, 1 = black where the shadow is deepest.
        size: pixels, see `contact_shadow`.

    Returns:
        image * (1 - strength * shadow): the image bit for bit where no shadow reaches.

    Raises:
        ValueError: a strength outside 0..1, a size below 0, an empty mask, or one that is not the image's.
    """
    if (image.shape[0], *image.shape[2:]) != tuple(product_mask.shape):
        raise ValueError(
            f"image is {tuple(image.shape)}, product_mask {tuple(product_mask.shape)}: give both the same batch and size"
        )
    if not 0 <= strength <= 1:
        raise ValueError(f"shadow_strength is {strength:g}, expected 0 to 1")
    if strength == 0:
        return image
    shadow = contact_shadow(product_mask, size)[:, None].to(image.dtype)
    return torch.where(shadow > 0, image * (1 - strength * shadow), image)


def contact_shadow(product_mask: Tensor, size: int) -> Tensor:
    """How deep the shadow is that a product standing on its lowest row casts where it touches the ground.

    Args:
        product_mask: (B, H, W) bool, True = product.
        size: pixels: the part of the product above its lowest row that counts as its foot, and the softness of the
            shadow, whose blur has half of it as its standard deviation. 0 = of each product FOOT_SHARE of its height, rounded up.

    Returns:
        (B, H, W) float32, 0..1: twice the blurred foot, at most 1, so that it is 1 next to a wide foot's edge and falls
        to exactly 0 within 1.5 sizes.

    Raises:
        ValueError: a size below 0, an empty mask.

    Notes: neither of the papers draws one. It is the soft, dark line under a thing that stands on a surface in diffuse
    light; it does not know where lamps are, nor whether the product touches anything.
    """
    if size < 0:
        raise ValueError(f"shadow_size is {size} pixels, expected 1 or more, or 0: a tenth of the product's height")
    rows = product_mask.any(2)
    if not bool(rows.any(1).all()):
        raise ValueError("product_mask is empty: select the product")
    if size == 0:
        return torch.cat([_shadow(one[None], foot_size(one)) for one in product_mask])
    return _shadow(product_mask, size)


def foot_size(product_mask: Tensor) -> int:
    """Pixels of the foot of a (H, W) bool product, where no size is given."""
    rows = product_mask.any(1).nonzero().flatten()
    return math.ceil(FOOT_SHARE * int(rows[-1] + 1 - rows[0]))


def _shadow(product_mask: Tensor, size: int) -> Tensor:
    rows = product_mask.any(2)
    numbers = torch.arange(product_mask.shape[1])
    lowest = torch.where(rows, numbers, -1).amax(1)
    foot = product_mask & (numbers > lowest[:, None] - size)[:, :, None]
    radius = math.ceil(REACH * size / 2)
    part = (slice(None), *window(foot, radius))
    shadow = torch.zeros(foot.shape)
    shadow[part] = (2 * _blurred(foot[part].float(), size / 2, radius)).clamp_max(1)
    return shadow


def _blurred(values: Tensor, deviation: float, radius: int) -> Tensor:
    """(B, H, W) blurred by a Gaussian, cut off beyond `radius` pixels; outside the image is 0."""
    along_rows = _blurred_last(values, deviation, radius)
    return _blurred_last(along_rows.mT, deviation, radius).mT


def _blurred_last(values: Tensor, deviation: float, radius: int) -> Tensor:
    """(B, L, N) blurred along its last axis, in blocks: one small matrix of weights serves each of them."""
    length = values.shape[-1]
    block = min(length, max(radius, SHORTEST_BLOCK))
    blocks = -(-length // block)
    padded = F.pad(values, (radius, radius + blocks * block - length))
    parts = padded.unfold(-1, block + 2 * radius, block)  # (B, L, blocks, block + 2 radius)
    return (parts @ _gaussian(block, deviation, radius)).flatten(-2)[..., :length]


def _gaussian(block: int, deviation: float, radius: int) -> Tensor:
    """(block + 2 radius, block) weights of each value, `radius` before the block to `radius` after it, in each result."""
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    total = torch.exp(-0.5 * (offsets / deviation) ** 2).sum()
    before = torch.arange(-radius, block + radius, dtype=torch.float64)
    distance = (before[:, None] - torch.arange(block, dtype=torch.float64)).abs()
    weights = torch.exp(-0.5 * (distance / deviation) ** 2) / total
    return torch.where(distance <= radius, weights, 0.0).float()
