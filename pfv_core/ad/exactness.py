"""What a composite holds of its product, counted as it is made; `file_exactness` counts saved files, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .opacity import SEEN_ABOVE
from .placement import Placement

EIGHT_BITS = 255  # steps
CHUNK = 1 << 18  # pixels at a time, which stay in the processor's cache


@dataclass(frozen=True)
class Exactness:
    """One ad against its product photo.

    Attributes:
        product_pixels: pixels of the product's mask, whatever their opacity.
        translucent_pixels: those of them whose opacity is below 1: glass, smoothed edges. They are mixed with the generated
            image, so they are not the photo's and not checked.
        pixels_left_out: those of them that show nothing of the photo: the generated image, bit for bit. They count neither as
            translucent nor as checked. What is none of the three is blended at the rim.
        pixels_checked: those that must be the photo's: opaque, and inside the eroded mask.
        pixels_equal: those of the checked ones whose channels all are the photo's, bit for bit.
        max_difference: largest difference of any of their values, 0..1; 0 where none is checked.
        mask_iou: intersection over union of the product that was generated with the one that was asked for, 0..1; None
            where no mask of the generated one was given.
        pixels_not_8_bit: those of the checked ones with a value that no 8-bit file holds, which is none of k / 255: the photo
            has 16 bits, was resized or blurred, or was decoded some other way, and a saved ad may be a step off.
        scale: ad pixels per pixel of the photo, along its longer side. None = it is not known, the product came as it is.
        resized: whether the photo was resized, once, when it was placed: what is compared is that. None = it is not known.
    """

    product_pixels: int
    translucent_pixels: int
    pixels_left_out: int
    pixels_checked: int
    pixels_equal: int
    max_difference: float
    mask_iou: float | None
    pixels_not_8_bit: int
    scale: float | None = None
    resized: bool | None = None


def measure_exactness(
    image: Tensor,
    generated: Tensor,
    product: Tensor,
    product_mask: Tensor,
    exact_mask: Tensor,
    generated_mask: Tensor | None = None,
    placements: Sequence[Placement] | None = None,
) -> list[Exactness]:
    """Compare ads with their product photos, after all is done.

    Args:
        image: (B, C, H, W), the ads.
        generated: (B, C, H, W), before the products were pasted.
        product: (B, C, H, W), the photos.
        product_mask: (B, H, W): bool, True = product; or float, 0..1, its opacity.
        exact_mask: (B, H, W) bool, True = the ad must be the photo here.
        generated_mask: (B, H, W) bool, True = the product as the model drew it.
        placements: of the photos, one for each or one for all; None = not known.
    """
    seen = product_mask > SEEN_ABOVE
    ious = [None] * len(image) if generated_mask is None else mask_iou(generated_mask, seen).tolist()
    reports = []
    left = _left_out(image, generated, product, product_mask, exact_mask)
    ads = zip(image, product, product_mask, exact_mask, left, strict=True)
    for index, (ad, photo, mask, exact, left_out) in enumerate(ads):
        own, placement = photo[:, exact], None if placements is None else placements[index % len(placements)]
        difference = (ad[:, exact] - own).abs().amax(0)
        reports.append(
            Exactness(
                product_pixels=int((mask > 0).sum()),
                translucent_pixels=int(((mask > 0) & (mask < 1) & ~left_out).sum()),
                pixels_left_out=int(left_out.sum()),
                pixels_checked=difference.numel(),
                pixels_equal=int((difference == 0).sum()),
                max_difference=float(difference.max()) if difference.numel() else 0.0,
                mask_iou=ious[index],
                pixels_not_8_bit=sum(_not_eight_bits(part) for part in own.split(CHUNK, 1)),
                scale=None if placement is None else placement.scale,
                resized=None if placement is None else placement.resized,
            )
        )
    return reports


def not_exact(
    image: Tensor, generated: Tensor, product: Tensor, product_mask: Tensor, exact_mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What of the products, or of what a paste changed, is not the photo's own pixels, and why.

    Args:
        image: (B, C, H, W), the ads.
        generated: (B, C, H, W), before the products were pasted.
        product: (B, C, H, W), the photos.
        product_mask: (B, H, W): bool, True = product; or float, 0..1, its opacity.
        exact_mask: (B, H, W) bool, True = the ad is the photo.

    Returns:
        Three (B, H, W) bool masks that never meet: True = blended at the rim; True = translucent, so mixed with the generated
        image; True = left to the generated image, bit for bit. With `exact_mask` they hold the whole product.
    """
    left_out = _left_out(image, generated, product, product_mask, exact_mask)
    translucent = (product_mask > 0) & (product_mask < 1) & ~left_out
    touched = (product_mask > 0) | (image != generated).any(1)
    return touched & ~translucent & ~left_out & ~exact_mask, translucent, left_out


def _left_out(image: Tensor, generated: Tensor, product: Tensor, product_mask: Tensor, exact_mask: Tensor) -> Tensor:
    """(B, H, W) bool: the product's pixels that are the generated image's, where that is not by chance the photo's too."""
    return (product_mask > 0) & ~exact_mask & (image == generated).all(1) & (image != product).any(1)


def mask_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of two (B, H, W) bool masks, (B,) float64: 0 disjoint, 1 equal; two empty masks agree: 1.

    Raises:
        ValueError: sizes that differ, or masks that are not bool.
    """
    if first.shape != second.shape or first.dtype != torch.bool or second.dtype != torch.bool:
        raise ValueError(
            f"masks are {tuple(first.shape)} {first.dtype} and {tuple(second.shape)} {second.dtype}, expected two bool "
            "masks of one size"
        )
    both, either = ((one.flatten(1).sum(1).double()) for one in (first & second, first | second))
    return torch.where(either > 0, both / either, 1.0)


def _not_eight_bits(values: Tensor) -> int:
    """How many pixels of (C, N) have a value that is no float32 of k / 255."""
    steps = values.float().mul(EIGHT_BITS).round_().div_(EIGHT_BITS)
    return int((steps != values).any(0).sum())


def all_exact(reports: list[Exactness]) -> bool:
    """Whether every checked pixel of every ad is its photo's, and there are such pixels."""
    return all(report.pixels_equal == report.pixels_checked > 0 for report in reports)
