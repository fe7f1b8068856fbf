"""A mask as a person or a file gives it, read with its polarity, or refused. The only place where a mask is turned around.

A mask is 1 where something is selected: painted in an editor, or transparent in a file with alpha. A painted pixel comes as
254/255 or 1, and an image without alpha brings a 64x64 mask of zeros that means "no mask", as ComfyUI has it.
"""

from __future__ import annotations

from enum import Enum
from typing import NoReturn

import torch
from torch import Tensor

from .ad import opacity
from .ad.opacity import PAINT_STEP, SEEN_ABOVE
from .choices import parse_choice

NO_MASK_SIZE = (64, 64)
SELECTED_ABOVE = 0.5
CORNERS = 2
"""Of a picture, that its product may lie in: one that a side cuts off lies in two. What lies in more is what lies around it."""
OVERSHOOT = 0.25
"""How far values may lie outside 0..1 and are then brought back to it. Resampling overshoots at edges: where two hard edges meet
in a corner, bicubic by up to 0.24 and Lanczos by up to 0.25. What is out by more is something else, such as values in -1..1 or
0..255, and is refused."""


class Selects(str, Enum):
    """What the selected part of a product's mask is: the PRODUCT, or the BACKGROUND of a transparent cut-out.

    The mask of a cut-out that comes from a file is 1 where the file is transparent, so nodes begin with BACKGROUND.
    """

    PRODUCT = "product"
    BACKGROUND = "background"


def within_range(values: Tensor, name: str) -> Tensor:
    """Values of an image or a mask, those that resampling put outside 0..1 brought back to it; the same tensor where none is.

    Raises:
        ValueError: NaN, or values that are out by more than OVERSHOOT; the message has both ends.
    """
    low, high = values.min().item(), values.max().item()
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise ValueError(f"{name} spans {low:g}..{high:g}, expected finite values from 0 to 1")
    return values if low >= 0 and high <= 1 else values.clamp(0, 1)


def visible_mask(mask: Tensor | None, image: Tensor, name: str, empty: bool = False) -> Tensor:
    """A MASK whose selected part is hidden -> (B, H, W) bool, True = visible. No mask at all hides nothing.

    Raises:
        ValueError: a mask that does not fit the image, leaves nothing visible, or selects nothing unless it may be `empty`.
    """
    if mask is None:
        return torch.ones(image.shape[0], *image.shape[2:], dtype=torch.bool)
    return ~selected_mask(mask, image, name, empty)


def product_opacity(mask: Tensor, selects: Selects | str, image: Tensor, name: str) -> Tensor:
    """A MASK -> (B, H, W) float32, 0..1, how opaque the product is, for every image of the batch: soft values are kept.

    Values one 8-bit step from 0 or 1, as the mask editor leaves them, become exactly 0 or 1.

    Raises:
        ValueError: a mask that does not fit the image, that is 0 or 1 all over an image, that shows no product, or one
            that lies in more than CORNERS of the image's corners: it was read the wrong way round.
    """
    return _of_product(mask_like(mask, image, name), selects, name).expand(image.shape[0], -1, -1)


def product_region(mask: Tensor, selects: Selects | str, name: str) -> Tensor:
    """`product_opacity` of no image in particular -> (B, H, W) float32, 0..1.

    Raises:
        ValueError: values outside 0..1, and what `product_opacity` raises.
    """
    return _of_product(mask_to_core(mask, name), selects, name)


def product_selection(mask: Tensor, selects: Selects | str, name: str) -> Tensor:
    """`product_region` -> (B, H, W) bool, True = product, glass and all.

    Raises:
        ValueError: what `product_region` raises.
    """
    return product_region(mask, selects, name) > SEEN_ABOVE


def product_mask(mask: Tensor, selects: Selects | str, image: Tensor, name: str) -> Tensor:
    """A MASK -> (B, H, W) bool, True = product, glass and all, where only yes or no counts: opacity above SEEN_ABOVE.

    Raises:
        ValueError: what `product_opacity` raises.
    """
    return product_opacity(mask, selects, image, name) > SEEN_ABOVE


def selected_mask(mask: Tensor, image: Tensor, name: str, empty: bool = False) -> Tensor:
    """A MASK -> (1 or B, H, W) bool, True = selected: above SEEN_ABOVE, since what is hidden is somebody else's, its soft edge
    and its glass too.

    Raises:
        ValueError: another size or batch than the image's, values outside 0..1, everything selected, or nothing unless it
            may be `empty`.
    """
    mask = mask_like(mask, image, name)
    selected = mask > SEEN_ABOVE
    for index, count in enumerate(selected.flatten(1).sum(1).tolist()):
        if count == selected[index].numel():
            _refuse_all_selected(mask[index], f"{name} {index}")
        if count == 0 and not empty:
            raise ValueError(f"{name} {index} selects nothing: {_PAINT}")
    return selected


def region_mask(mask: Tensor | None, name: str) -> Tensor | None:
    """A MASK as a region -> (B, H, W) float, 0..1, soft edges kept. None stays None, the whole frame.

    Values one 8-bit step from 0 or 1, as the mask editor leaves them, become exactly 0 or 1.

    Raises:
        ValueError: values outside 0..1, or a region that is empty in every image of the batch.
    """
    if mask is None:
        return None
    region = settled(mask_to_core(mask, name))
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
    """A MASK of no image in particular -> (B, H, W) bool, True = the thing that it selects or lies around, glass and all.

    Raises:
        ValueError: values outside 0..1, a mask that is 0 or 1 all over, one that shows no thing, or an unknown `selects`.
    """
    background = parse_choice(Selects, selects, f"{name}_selects") is Selects.BACKGROUND
    return _opacity(mask_to_core(mask, name), background, name) > SEEN_ABOVE


def background_of(region: Tensor) -> Tensor:
    """A soft region turned around: everything else."""
    return 1 - region


def mask_like(mask: Tensor, image: Tensor, name: str) -> Tensor:
    """A MASK -> (1 or B, H, W) float32 of a (B, C, H, W) image's size.

    Raises:
        ValueError: another size or batch than the image's, no mask at all, or values outside 0..1.
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
    return mask


def in_corners(selected: Tensor) -> Tensor:
    """(B, H, W) bool -> (B,): in how many corners of its picture each mask selects something."""
    _, height, width = selected.shape
    return selected[:, :: height - 1 or 1, :: width - 1 or 1].flatten(1).sum(1)


def one_for_each(found: Tensor, count: int, pictures: str) -> Tensor:
    """A MASK of what a model found -> `mask_to_core`, one for all of `count` pictures or one each.

    Raises:
        ValueError: as many as there are things, not pictures.
    """
    found = mask_to_core(found, "found")
    if found.shape[0] not in (1, count):
        raise ValueError(
            f"found holds {found.shape[0]} masks for {count} {pictures}: switch individual_masks of SAM3 Detect off, so that it "
            "gives one mask for each picture"
        )
    return found


def mask_to_core(mask: Tensor, name: str) -> Tensor:
    """MASK of any usual shape -> (B, H, W) float32 on the CPU, 0..1."""
    mask = mask[None] if mask.ndim == 2 else mask
    mask = mask[:, 0] if mask.ndim == 4 and mask.shape[1] == 1 else mask
    if mask.ndim != 3:
        raise ValueError(f"{name} is {tuple(mask.shape)}, expected a MASK (batch, height, width)")
    return within_range(to_float32(mask, name), name)


def settled(mask: Tensor) -> Tensor:
    """A mask whose values one 8-bit step from 0 or 1, as the mask editor leaves them, are exactly 0 or 1."""
    return torch.from_numpy(opacity.settled(mask.numpy()))


_PAINT = "paint the part it is meant to select, or disconnect it where it is optional"


def to_float32(values: Tensor, name: str) -> Tensor:
    """Hosts may hand out half precision; everything here computes in single.

    Half precision has no k / 255 of its own: a value that stands for an 8-bit step becomes that step exactly, as it would in
    the host, which saves by cutting off and would give the step below otherwise.
    """
    if values.numel() == 0:
        raise ValueError(f"{name} is empty, {tuple(values.shape)}: expected one picture or more")
    if not (values.is_floating_point() or values.dtype == torch.bool):
        raise ValueError(f"{name} holds {values.dtype} values, expected floating-point ones from 0 to 1: divide them")
    single = values.cpu().float()
    if values.dtype not in (torch.float16, torch.bfloat16):
        return single
    step = (single * 255).round() / 255
    return torch.where(step.to(values.dtype) == values.cpu(), step, single)


def _of_product(mask: Tensor, selects: Selects | str, name: str) -> Tensor:
    """(B, H, W), 0..1 -> the opacity of the product."""
    background = parse_choice(Selects, selects, f"{name}_selects") is Selects.BACKGROUND
    opacity = _opacity(mask, background, name)
    right, why = (
        (Selects.PRODUCT, "the mask is 1 on the product")
        if background
        else (Selects.BACKGROUND, "the mask is that of a cut-out with transparency")
    )
    corners = in_corners(opacity > SEEN_ABOVE)
    for count, turned in zip(corners.tolist(), in_corners(1 - opacity > SEEN_ABOVE).tolist(), strict=True):
        if count > CORNERS:
            seems = (
                f"{why}, it seems, so set {name}_selects to {right.value}" if turned <= CORNERS else "it is soft there"
            )
            raise ValueError(
                f"the product would lie in {count} of the picture's corners: {seems}. Where it does lie in them, leave all but "
                f"{CORNERS} out of its mask"
            )
    return opacity


def _opacity(mask: Tensor, background: bool, name: str) -> Tensor:
    """(B, H, W), 0..1 -> the opacity of what it selects, or of what it lies around."""
    mask = settled(mask)
    for index, one in enumerate(mask):
        low, high = one.min().item(), one.max().item()
        if low == 1:
            _refuse_all_selected(one, f"{name} {index}")
        if high == 0:
            raise ValueError(f"{name} {index} selects nothing: {_PAINT}")
        seen = 1 - low if background else high
        if seen <= SEEN_ABOVE:
            raise ValueError(
                f"{name} {index} shows nothing: it spans {low:g}..{high:g}, so that what it "
                f"{'lies around' if background else 'selects'} is {seen:g} opaque at most, expected more than {SEEN_ABOVE:g}"
            )
    return background_of(mask) if background else mask


def _refuse_all_selected(mask: Tensor, name: str) -> NoReturn:
    low, high = mask.min().item(), mask.max().item()
    if low >= 1 - PAINT_STEP:
        raise ValueError(f"{name} selects the whole image: {_PAINT}")
    raise ValueError(
        f"{name} spans {low:g}..{high:g}, and what is above {SEEN_ABOVE:g} counts as selected, so nothing is left: {_PAINT}"
    )
