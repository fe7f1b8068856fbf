"""ComfyUI's IMAGE and MASK to the core's layouts and polarity. The only place where a mask is turned around.

A ComfyUI MASK is 1 where something is selected: painted in the mask editor, or transparent in a file with alpha. A
painted pixel comes as 254/255 or 1, and an image without alpha brings a 64x64 mask of zeros that means "no mask".
"""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ..pfv_core.choices import parse_choice
from ..pfv_core.reference.patch_embed import RANGE_TOLERANCE

NO_MASK_SIZE = (64, 64)
SELECTED_ABOVE = 0.5
PAINT_STEP = 1.5 / 255  # the editor's paint is one 8-bit step short of 1


class Selects(str, Enum):
    """What the selected part of a product's mask is: the PRODUCT, or the BACKGROUND of a transparent cut-out."""

    PRODUCT = "product"
    BACKGROUND = "background"


def image_to_core(image: Tensor, name: str) -> Tensor:
    """IMAGE -> (B, 3, H, W) on the CPU.

    Raises:
        ValueError: an image with alpha, or with another number of channels.
    """
    if image.ndim != 4:
        raise ValueError(f"{name} is {tuple(image.shape)}, expected an IMAGE (batch, height, width, 3)")
    if image.shape[-1] == 4:
        raise ValueError(
            f"{name} has 4 channels (RGBA), expected 3: use Split Image with Alpha, and connect the alpha as a mask"
        )
    if image.shape[-1] != 3:
        raise ValueError(f"{name} has {image.shape[-1]} channels, expected 3 (RGB)")
    return image.cpu().movedim(-1, 1)  # BHWC -> BCHW


def image_from_core(image: Tensor) -> Tensor:
    """(B, C, H, W) -> IMAGE."""
    return image.movedim(1, -1).contiguous()  # BCHW -> BHWC


def check_image_range(image: Tensor, name: str) -> None:
    """ValueError if an image holds NaN or values outside 0..1."""
    low, high = image.min().item(), image.max().item()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(f"{name} spans {low:g}..{high:g}, expected finite values from 0 to 1")


def visible_mask(mask: Tensor | None, image: Tensor, name: str, empty: bool = False) -> Tensor:
    """A MASK whose selected part is hidden -> (B, H, W) bool, True = visible. No mask at all hides nothing.

    Raises:
        ValueError: a mask that does not fit the image, selects everything, or selects nothing unless it may be `empty`.
    """
    if mask is None:
        return torch.ones(image.shape[0], *image.shape[2:], dtype=torch.bool)
    return ~selected_mask(mask, image, name, empty)


def product_mask(mask: Tensor, selects: Selects | str, image: Tensor, name: str) -> Tensor:
    """A MASK -> (B, H, W) bool, True = product, for every image of the batch."""
    selected = selected_mask(mask, image, name)
    selected = ~selected if parse_choice(Selects, selects, "product_mask_selects") is Selects.BACKGROUND else selected
    return selected.expand(image.shape[0], -1, -1)


def selected_mask(mask: Tensor, image: Tensor, name: str, empty: bool = False) -> Tensor:
    """A MASK -> (1 or B, H, W) bool, True = selected (above 0.5).

    Raises:
        ValueError: another size or batch than the image's, values outside 0..1, everything selected, or nothing unless it
            may be `empty`.
    """
    mask = mask_to_core(mask, name)
    height, width = image.shape[2:]
    if tuple(mask.shape[1:]) == NO_MASK_SIZE != (height, width) and not bool(mask.any()):
        raise ValueError(
            f"{name} holds no mask: its image has no transparency and nothing is painted on it. Open it in the mask "
            "editor and paint, or disconnect it where it is optional"
        )
    if tuple(mask.shape[1:]) != (height, width):
        raise ValueError(
            f"{name} is {mask.shape[1]}x{mask.shape[2]}, its image is {height}x{width} (height x width): give both the "
            "same size"
        )
    if mask.shape[0] not in (1, image.shape[0]):
        raise ValueError(f"{name} holds {mask.shape[0]} masks for {image.shape[0]} images: give 1, or one each")
    selected = mask > SELECTED_ABOVE
    share = selected.flatten(1).float().mean(1)
    for index, value in enumerate(share.tolist()):
        if value == 1.0 or (value == 0.0 and not empty):
            what = "selects nothing" if value == 0.0 else "selects the whole image"
            raise ValueError(
                f"{name} {index} {what}: paint the part it is meant to select, or disconnect it where it is optional"
            )
    return selected


def region_mask(mask: Tensor | None, name: str) -> Tensor | None:
    """A MASK as a region -> (B, H, W) float, 0..1, soft edges kept. None stays None, the whole frame.

    Values one 8-bit step from 0 or 1, as the mask editor leaves them, become exactly 0 or 1.

    Raises:
        ValueError: values outside 0..1, or a region that is empty in every image of the batch.
    """
    if mask is None:
        return None
    region = mask_to_core(mask, name).float()
    region = torch.where(region <= PAINT_STEP, 0.0, torch.where(region >= 1 - PAINT_STEP, 1.0, region))
    if not bool(region.any()):
        raise ValueError(
            f"{name} selects nothing, so the image prompt would do nothing: paint where it shall rule, or disconnect the "
            "region to use the whole frame"
        )
    return region


def region_of(mask: Tensor, name: str) -> Tensor:
    """`region_mask` for a mask that is there.

    Raises:
        ValueError: values outside 0..1, or a region that is empty in every image of the batch.
    """
    region = region_mask(mask, name)
    assert region is not None  # None comes from None alone
    return region


def region_selection(mask: Tensor, selects: Selects | str, name: str) -> Tensor:
    """A MASK of no image in particular -> (B, H, W) bool, True = the thing that it selects or lies around.

    Raises:
        ValueError: values outside 0..1, nothing or everything selected, or an unknown `selects`.
    """
    mask = mask_to_core(mask, name)
    selected = selected_mask(mask, mask[:, None], name)
    return ~selected if parse_choice(Selects, selects, f"{name}_selects") is Selects.BACKGROUND else selected


def background_of(region: Tensor) -> Tensor:
    """A soft region turned around: everything else."""
    return 1 - region


def mask_to_core(mask: Tensor, name: str) -> Tensor:
    """MASK of any usual shape -> (B, H, W) on the CPU, values checked."""
    mask = mask[None] if mask.ndim == 2 else mask
    mask = mask[:, 0] if mask.ndim == 4 and mask.shape[1] == 1 else mask
    if mask.ndim != 3:
        raise ValueError(f"{name} is {tuple(mask.shape)}, expected a MASK (batch, height, width)")
    low, high = mask.min().item(), mask.max().item()
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"{name} spans {low:g}..{high:g}, expected finite values from 0 to 1")
    return mask.cpu()
