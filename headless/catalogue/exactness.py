"""Whether an ad still shows the product photo's own pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pfv_core.ad.opacity import core_of, settled


@dataclass(frozen=True)
class Exactness:
    """The ad against the product photo.

    Attributes:
        inside: pixels inside the eroded mask that are opaque.
        exact: those of them whose three 8-bit values are the photo's.
        max_difference: largest difference of any value inside, in 8-bit steps.
        changed_outside: share (0..1) of the pixels outside the mask that are not the photo's.
        translucent: pixels of the product that are not opaque: they are mixed with what is behind them, and not compared.
    """

    inside: int
    exact: int
    max_difference: int
    changed_outside: float
    translucent: int = 0


def measure_exactness(ad: Image.Image, photo: Image.Image, product_mask: Image.Image, erode: int) -> Exactness:
    """Compare an ad with its product photo.

    Args:
        ad: the saved image.
        photo: the product photo, the same size.
        product_mask: L, how opaque the product is: 255 = opaque, 0 = not the product; the same size.
        erode: pixels taken off the mask's rim, as the composite node was told. What lies inside is what lies inside for that
            node.

    Raises:
        ValueError: the sizes differ.
    """
    if not ad.size == photo.size == product_mask.size:
        raise ValueError(f"ad is {ad.size}, photo {photo.size}, product_mask {product_mask.size}: expected one size")
    opacity = settled(np.asarray(product_mask, np.float32) / np.float32(255))
    inside = core_of(opacity[None], erode)[0] & (opacity == 1)
    difference = _difference(np.asarray(ad.convert("RGB")), np.asarray(photo.convert("RGB")))
    outside = opacity == 0
    return Exactness(
        inside=int(inside.sum()),
        exact=int((difference[inside] == 0).sum()),
        max_difference=int(difference[inside].max(initial=0)),
        changed_outside=float((difference[outside] > 0).mean()) if outside.any() else 0.0,
        translucent=int(((opacity > 0) & (opacity < 1)).sum()),
    )


def _difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) twice -> (H, W), the largest difference of a pixel's values."""
    red, green, blue = np.moveaxis(np.maximum(one, other) - np.minimum(one, other), 2, 0)
    return np.maximum(np.maximum(red, green), blue)
