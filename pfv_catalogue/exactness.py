"""Whether an ad still shows the product photo's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Exactness:
    """The ad against the product photo.

    Attributes:
        inside: pixels inside the eroded mask.
        exact: those of them whose three 8-bit values are the photo's.
        max_difference: largest difference of any value inside, in 8-bit steps.
        changed_outside: share (0..1) of the pixels outside the mask that are not the photo's.
    """

    inside: int
    exact: int
    max_difference: int
    changed_outside: float


def measure_exactness(ad: Image.Image, photo: Image.Image, product_mask: Image.Image, erode: int) -> Exactness:
    """Compare an ad with its product photo.

    Args:
        ad: the saved image.
        photo: the product photo, the same size.
        product_mask: L, above 127 = product, the same size.
        erode: pixels taken off the mask's rim, as the composite node was told.

    Raises:
        ValueError: the sizes differ.
    """
    if not ad.size == photo.size == product_mask.size:
        raise ValueError(f"ad is {ad.size}, photo {photo.size}, product_mask {product_mask.size}: expected one size")
    mask = np.asarray(product_mask) > 127
    eroded = product_mask.filter(ImageFilter.MinFilter(2 * erode + 1))  # the image's border is no rim of the product
    inside = np.asarray(eroded) > 127
    difference = np.abs(np.asarray(ad.convert("RGB"), int) - np.asarray(photo.convert("RGB"), int)).max(axis=2)
    return Exactness(
        inside=int(inside.sum()),
        exact=int((difference[inside] == 0).sum()),
        max_difference=int(difference[inside].max(initial=0)),
        changed_outside=float((difference[~mask] > 0).mean()) if not mask.all() else 0.0,
    )
