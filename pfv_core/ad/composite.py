"""Putting the product's own pixels back over a generated image (Strictly-ID, Eq. 3)."""

from __future__ import annotations

from enum import Enum

import torch
import torch.nn.functional as F
from torch import Tensor

from ..choices import parse_choice
from ..region.distance import window
from .depth import fill_hidden


class Rim(str, Enum):
    """Where the product fades out: WITHIN_MASK, between the eroded mask and the mask; BEYOND_MASK, over the surroundings
    too, with the colours of the product's own edge."""

    WITHIN_MASK = "within_mask"
    BEYOND_MASK = "beyond_mask"


def paste_back(
    generated: Tensor,
    product: Tensor,
    product_mask: Tensor,
    erode: int = 2,
    feather: int = 4,
    rim: Rim | str = Rim.WITHIN_MASK,
) -> tuple[Tensor, Tensor]:
    """Composite a product photo over a generated image.

    Args:
        generated: (B, C, H, W) float.
        product: (B, C, H, W) float.
        product_mask: (B, H, W) bool, True = product.
        erode: pixels taken off the mask's rim, 0 or more: a photo's rim carries its old background.
        feather: pixels over which the product fades out from the eroded mask outwards, 0 or more, 0 = a hard edge.
        rim: within_mask: the fade ends at the given mask at the latest, so only `erode` of its pixels can show.
            beyond_mask: it has its full length; beyond the mask it is the product's edge, carried outwards, that fades,
            never the photo's old background.

    Returns:
        The image, and exact_mask (B, H, W) bool: where it is the product's pixels bit for bit. Outside the given mask
        and the rim it is the generated image bit for bit: its colours, and the shadow it drew.

    Raises:
        ValueError: shapes that differ, negative sizes, an unknown rim, an empty or full mask, or one that erosion empties.

    Paper: Strictly-ID-preserved ads (arXiv 2404.04828), Eq. 3, I_f = I_c + I_g (1 - M). **Deviation**: M is eroded,
    and around it the two images blend.
    """
    beyond = parse_choice(Rim, rim, "rim") is Rim.BEYOND_MASK
    _check(generated, product, product_mask, erode, feather)
    rows, columns = window(product_mask, feather + 1)  # all that a paste can change
    part = (slice(None), slice(None), rows, columns)
    mask, own = product_mask[:, rows, columns], product[part]
    exact = erode_mask(mask, erode)
    lost = (~exact.flatten(1).any(1)).nonzero().flatten().tolist()
    if lost:
        raise ValueError(f"nothing of product {lost[0]} is left after eroding its mask by {erode} px: erode less")
    if beyond:
        own = fill_hidden(torch.where(mask[:, None], own, 0.0), mask[:, None])
    allowed = torch.ones_like(mask) if beyond else mask
    alpha = _feathered(exact, allowed, feather)[:, None].to(generated.dtype)
    blend = torch.lerp(generated[part], own, alpha)
    image, exact_mask = generated.clone(), torch.zeros_like(product_mask)
    image[part] = torch.where(exact[:, None], own, torch.where(alpha > 0, blend, generated[part]))
    exact_mask[:, rows, columns] = exact
    return image, exact_mask


def erode_mask(mask: Tensor, pixels: int) -> Tensor:
    """(B, H, W) bool with a rim of `pixels` (square neighbourhood) taken off. The image's border is no rim."""
    if pixels == 0:
        return mask
    outside = F.max_pool2d((~mask).float()[:, None], 2 * pixels + 1, stride=1, padding=pixels)
    return outside[:, 0] == 0


def _feathered(exact_mask: Tensor, allowed: Tensor, feather: int) -> Tensor:
    """Opacity of the product: 1 on exact_mask, falling by equal steps with the distance to it, 0 where not allowed."""
    alpha = exact_mask.float()
    grown = exact_mask
    for step in range(1, feather + 1):
        wider = F.max_pool2d(grown.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
        alpha = torch.where(wider & ~grown, 1 - step / (feather + 1), alpha)
        grown = wider
    return torch.where(allowed, alpha, 0.0)


def _check(generated: Tensor, product: Tensor, product_mask: Tensor, erode: int, feather: int) -> None:
    if generated.shape != product.shape or product_mask.shape != (product.shape[0], *product.shape[2:]):
        raise ValueError(
            f"generated is {tuple(generated.shape)}, product {tuple(product.shape)}, product_mask "
            f"{tuple(product_mask.shape)}: give all the same batch and size"
        )
    if erode < 0 or feather < 0:
        raise ValueError(f"erode is {erode} and feather {feather} pixels, expected 0 or more")
    covered = product_mask.flatten(1).float().mean(1)
    if bool((covered == 0).any()) or bool((covered == 1).any()):
        raise ValueError("product_mask is empty or covers the whole image: select the product, and only the product")
