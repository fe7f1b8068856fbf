"""Putting the product's own pixels back over a generated image (Strictly-ID, Eq. 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def paste_back(
    generated: Tensor, product: Tensor, product_mask: Tensor, erode: int = 2, feather: int = 4
) -> tuple[Tensor, Tensor]:
    """Composite a product photo over a generated image.

    Args:
        generated: (B, C, H, W) float.
        product: (B, C, H, W) float.
        product_mask: (B, H, W) bool, True = product.
        erode: pixels taken off the mask's rim, 0 or more: a photo's rim carries its old background.
        feather: pixels over which the product fades out from the eroded mask outwards, 0 or more, 0 = a hard edge. The
            fade ends at the given mask at the latest, so only `erode` of them can show.

    Returns:
        The image, and exact_mask (B, H, W) bool: where it is the product's pixels bit for bit. Outside the given mask
        it is the generated image bit for bit.

    Raises:
        ValueError: shapes that differ, negative sizes, an empty or full mask, or one that erosion empties.

    Paper: Strictly-ID-preserved ads (arXiv 2404.04828), Eq. 3, I_f = I_c + I_g (1 - M). **Deviation**: M is eroded,
    and between the eroded and the given mask the two images blend.
    """
    _check(generated, product, product_mask, erode, feather)
    exact_mask = erode_mask(product_mask, erode)
    lost = (~exact_mask.flatten(1).any(1)).nonzero().flatten().tolist()
    if lost:
        raise ValueError(f"nothing of product {lost[0]} is left after eroding its mask by {erode} px: erode less")
    alpha = _feathered(exact_mask, product_mask, feather)[:, None].to(generated.dtype)
    blend = torch.lerp(generated, product, alpha)
    image = torch.where(exact_mask[:, None], product, torch.where(alpha > 0, blend, generated))
    return image, exact_mask


def erode_mask(mask: Tensor, pixels: int) -> Tensor:
    """(B, H, W) bool with a rim of `pixels` (square neighbourhood) taken off. The image's border is no rim."""
    if pixels == 0:
        return mask
    outside = F.max_pool2d((~mask).float()[:, None], 2 * pixels + 1, stride=1, padding=pixels)
    return outside[:, 0] == 0


def _feathered(exact_mask: Tensor, product_mask: Tensor, feather: int) -> Tensor:
    """Opacity of the product: 1 on exact_mask, falling by equal steps with the distance to it, 0 off product_mask."""
    alpha = exact_mask.float()
    grown = exact_mask
    for step in range(1, feather + 1):
        wider = F.max_pool2d(grown.float()[:, None], 3, stride=1, padding=1)[:, 0] > 0
        alpha = torch.where(wider & ~grown, 1 - step / (feather + 1), alpha)
        grown = wider
    return torch.where(product_mask, alpha, 0.0)


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
