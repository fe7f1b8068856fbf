"""How large the subject beside a product is in a training picture: the key `scale` of a sample's JSON, or the subject's mask."""

from __future__ import annotations

import math

from torch import Tensor

from pfv_core.research.scale_map import subject_height_by_size, subject_limits

from .data import DataError

ROWS = ("top", "bottom")
SIZES = ("product_cm", "subject_cm", "center")


def subject_rows(scale: object, product: Tensor | None, height: int, name: str) -> tuple[float, float]:
    """The upper and the lower limit of the subject, pixels from the picture's upper border.

    Args:
        scale: {"top", "bottom"}, rows of the upright picture; or {"product_cm", "subject_cm", "center"}, real heights and where
            on the product the subject's middle lies, see `pfv_core.research.scale_map`.
        product: (H, W) bool, True = product; None = the sample has no mask.
        height: of the picture, pixels.
        name: of the picture, for messages.

    Raises:
        DataError: other keys, values that are no numbers or no size, sizes without a mask.

    Paper: sections 3.2 and 6.2: from key points of a face (its rows), or from real sizes.
    """
    if not isinstance(scale, dict) or set(scale) not in (set(ROWS), set(SIZES)):
        raise DataError(f"the scale of {name} is {scale!r}, expected the keys {', '.join(ROWS)}, or {', '.join(SIZES)}")
    wrong = [key for key, value in scale.items() if not _is_number(value)]
    if wrong:
        raise DataError(f"the scale of {name} has {wrong[0]} {scale[wrong[0]]!r}, expected a number")
    if set(scale) == set(SIZES):
        return _by_sizes(scale, product, name)
    top, bottom = scale["top"], scale["bottom"]
    if not 0 <= top < bottom <= height:
        raise DataError(
            f"the scale of {name} goes from row {top:g} to {bottom:g}, its picture from 0 to {height}: expected 0 <= top < "
            f"bottom <= {height}"
        )
    return float(top), float(bottom)


def rows_of_mask(subject: Tensor, name: str) -> tuple[float, float]:
    """The same of a subject's mask.

    Args:
        subject: (H, W) bool, True = subject.
        name: of the picture, for messages.

    Raises:
        DataError: it selects nothing.
    """
    rows = subject.any(1).nonzero().flatten().tolist()
    if not rows:
        raise DataError(f"the subject mask of {name} selects nothing: is white the subject?")
    return float(rows[0]), float(rows[-1] + 1)


def _by_sizes(scale: dict[str, float], product: Tensor | None, name: str) -> tuple[float, float]:
    if product is None:
        raise DataError(f"the scale of {name} is by sizes, and {name} has no mask to take the product's height from")
    try:
        heights = subject_height_by_size(product[None], scale["product_cm"], scale["subject_cm"])
        limits = subject_limits(product[None], heights, scale["center"])
    except ValueError as error:
        raise DataError(f"the scale of {name}: {error}") from error
    top, bottom = limits[0].tolist()
    return top, bottom


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
