"""How large a subject stands beside the product, as a map (Strictly-ID, sections 3.2 and 6.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def subject_height_by_size(product_mask: Tensor, product_cm: float, subject_cm: float) -> Tensor:
    """The height in pixels that a subject has beside a product of known size.

    Args:
        product_mask: (B, H, W) bool, True = product.
        product_cm, subject_cm: real heights of the product as it stands in the picture, and of the subject.

    Returns:
        (B,) float64: the product's height in pixels * subject_cm / product_cm.

    Raises:
        ValueError: a height that is not positive, an empty mask.

    Paper: section 6.2, first option of inference, where the product is an earring and the subject a face.
    """
    for name, value in (("product_cm", product_cm), ("subject_cm", subject_cm)):
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value:g}, expected a height above 0")
    first, last = _rows(product_mask)
    return (last - first + 1).double() * (subject_cm / product_cm)


def subject_height_by_ratio(product_mask: Tensor, ratio: float) -> Tensor:
    """The height in pixels of a subject that takes a share of the image's height.

    Args:
        product_mask: (B, H, W) bool: of the image.
        ratio: subject's height / image's height, above 0; the paper draws 0.3 to 0.7.

    Returns:
        (B,) float64.

    Raises:
        ValueError: a ratio that is not positive.

    Paper: section 6.2, second option of inference.
    """
    if not (ratio > 0 and math.isfinite(ratio)):
        raise ValueError(f"height_ratio is {ratio:g}, expected more than 0")
    return torch.full((product_mask.shape[0],), ratio * product_mask.shape[1], dtype=torch.float64)


def scale_map(product_mask: Tensor, subject_height: Tensor, center: float = 0.0) -> Tensor:
    """I_s: 1 in the rows between the upper and the lower limit of the subject.

    Args:
        product_mask: (B, H, W) bool, True = product.
        subject_height: (B,) pixels.
        center: where on the product the middle of the subject lies: 0 = at its upper edge, 1 = at its lower edge; below
            0 above the product, above 1 under it.

    Returns:
        (B, H, W) float32, 0 or 1. A row is 1 where its centre lies within the limits; a subject that passes the image's
        border is cut by it.

    Raises:
        ValueError: an empty mask, or a subject of which no row lies in the image.

    Paper: sections 3.2 and 6.2, "placing the centering of the face area at the upper bound of the earring", which is
    center = 0. **Deviation**: other centres, for products that are not worn under a face.
    """
    limits = subject_limits(product_mask, subject_height, center)
    rows = rows_within(limits, product_mask.shape[1])
    empty = (~rows.any(1)).nonzero().flatten().tolist()
    if empty:
        middle = limits[empty[0]].mean()
        raise ValueError(
            f"no row of the subject of product {empty[0]} lies in the image: it is {subject_height[empty[0]]:.4g} pixels high "
            f"around row {middle:.4g} of {product_mask.shape[1]}"
        )
    return rows[:, :, None].expand(product_mask.shape).float()


def subject_limits(product_mask: Tensor, subject_height: Tensor, center: float = 0.0) -> Tensor:
    """(B, 2) float64, the upper and the lower limit of the subject, pixels from the image's upper border; see `scale_map`."""
    first, last = _rows(product_mask)
    middle = first + center * (last + 1 - first)
    return middle[:, None] + subject_height[:, None] * torch.tensor([-0.5, 0.5], dtype=torch.float64)


def rows_within(limits: Tensor, height: int) -> Tensor:
    """(B, 2) limits, pixels -> (B, height) bool, True where a row's centre lies within them."""
    rows = torch.arange(height, dtype=torch.float64) + 0.5
    return (rows >= limits[:, :1]) & (rows <= limits[:, 1:])


def scale_hint(product: Tensor, product_mask: Tensor, subject_map: Tensor) -> Tensor:
    """The conditioning image with the scale map "appended as an additional channel".

    Args:
        product: (B, 3, H, W) float, 0..1.
        product_mask: (B, H, W) bool, True = product.
        subject_map: (B, H, W), from `scale_map`.

    Returns:
        (B, 4, H, W): I_c, the product on black, and I_s.

    Paper: section 3.2.
    """
    return torch.cat([torch.where(product_mask[:, None], product, 0.0), subject_map[:, None].to(product.dtype)], 1)


def _rows(product_mask: Tensor) -> tuple[Tensor, Tensor]:
    """First and last row of each product, (B,) int64."""
    rows = product_mask.any(2)
    if not bool(rows.any(1).all()):
        raise ValueError("product_mask is empty: select the product")
    numbers = torch.arange(rows.shape[1])
    return torch.where(rows, numbers, rows.shape[1]).amin(1), torch.where(rows, numbers, -1).amax(1)
