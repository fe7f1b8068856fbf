"""Putting the product's own pixels back over a generated image (Strictly-ID, Eq. 3)."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ..choices import parse_choice
from ..region.distance import erode_mask as erode_mask
from ..region.distance import fade, window
from .depth import fill_hidden
from .opacity import SEEN_ABOVE, core_of


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
        product: (B, C, H, W) float, colours not multiplied with any opacity.
        product_mask: (B, H, W): bool, True = product; or float, 0..1, its opacity, 1 = opaque. A translucent part, such as
            glass, is mixed with the generated image by its opacity.
        erode: pixels taken off the rim of what is seen of the product, 0 or more: a photo's rim carries its old background. A
            part too thin for it, such as a strap, keeps all its pixels; see `core_of`.
        feather: pixels over which the product fades out from the eroded mask outwards, 0 or more, 0 = a hard edge. The fade
            is a ramp that ends at 0: 1 - d / (length + 1) at a distance of d pixels.
        rim: within_mask: the ramp ends where the mask ends, so its length is the smaller of `feather` and `erode`.
            beyond_mask: its length is `feather`; beyond the mask it is the product's edge, carried outwards, that fades,
            never the photo's old background.

    Returns:
        The image, and exact_mask (B, H, W) bool: where it is the product's pixels bit for bit, which is where the eroded
        mask's opacity is 1. Outside the given mask and the rim it is the generated image bit for bit: its colours, and the
        shadow it drew.

    Raises:
        ValueError: shapes that differ, negative sizes, an unknown rim, an empty mask, one that is 1 everywhere, or one that
            erosion empties.

    Paper: Strictly-ID-preserved ads (arXiv 2404.04828), Eq. 3, I_f = I_c + I_g (1 - M). **Deviation**: M is eroded,
    around it the two images blend, and it may be soft.
    """
    beyond = parse_choice(Rim, rim, "rim") is Rim.BEYOND_MASK
    _check(generated, product, product_mask, erode, feather)
    rows, columns = window(product_mask > 0, feather + 1)  # all that a paste can change
    part = (slice(None), slice(None), rows, columns)
    opacity, own = product_mask[:, rows, columns].float(), product[part]
    core = torch.from_numpy(core_of(product_mask.numpy(), erode))[:, rows, columns]
    lost = (~core.flatten(1).any(1)).nonzero().flatten().tolist()
    if lost:
        raise ValueError(f"nothing of product {lost[0]} is left after eroding its mask by {erode} px: erode less")
    exact = core & (opacity == 1)
    if beyond:
        seen = (opacity > SEEN_ABOVE)[:, None]
        own = fill_hidden(torch.where(seen, own, 0.0), seen)
        opacity = _carried_out(opacity, core)
    if beyond or erode > 0:
        opacity = opacity * fade(core, feather if beyond else min(feather, erode))
    alpha = opacity[:, None].to(generated.dtype)
    blend = torch.lerp(generated[part], own, alpha)
    image, exact_mask = generated.clone(), torch.zeros(product_mask.shape, dtype=torch.bool)
    image[part] = torch.where(exact[:, None], own, torch.where(alpha > 0, blend, generated[part]))
    exact_mask[:, rows, columns] = exact
    return image, exact_mask


def _carried_out(opacity: Tensor, core: Tensor) -> Tensor:
    """The core's opacity, and around it that of its edge: the product's rim fades by the ramp alone, not twice."""
    if bool((opacity[core] == 1).all()):
        return torch.ones_like(opacity)
    kept = core[:, None]
    return fill_hidden(torch.where(kept, opacity[:, None], 0.0), kept)[:, 0]


def _check(generated: Tensor, product: Tensor, product_mask: Tensor, erode: int, feather: int) -> None:
    if generated.shape != product.shape or product_mask.shape != (product.shape[0], *product.shape[2:]):
        raise ValueError(
            f"generated is {tuple(generated.shape)}, product {tuple(product.shape)}, product_mask "
            f"{tuple(product_mask.shape)}: give all the same batch and size"
        )
    if erode < 0 or feather < 0:
        raise ValueError(f"erode is {erode} and feather {feather} pixels, expected 0 or more")
    items = product_mask.flatten(1)
    if bool((items == 1).all(1).any()) or not bool((items > SEEN_ABOVE).any(1).all()):
        raise ValueError("product_mask is empty or covers the whole image: select the product, and only the product")
