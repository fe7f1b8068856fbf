"""Where a part that was cut out of a picture lies in it, told by its values."""

from __future__ import annotations

import torch
from torch import Tensor


def corner_in(whole: Tensor, part: Tensor) -> tuple[int, int] | None:
    """The one place where a picture has every value of a part.

    Args:
        whole: (C, H, W).
        part: (C, h, w), same device and dtype.

    Returns:
        top and left, pixels; None where the picture does not have the part, or has it at several places, as a flat one does.
    """
    rows, columns = (side - own + 1 for side, own in zip(whole.shape[-2:], part.shape[-2:], strict=True))
    if whole.shape[0] != part.shape[0] or rows < 1 or columns < 1:
        return None
    # Where the part is least like the rest of itself: of a flat part with a spot in it, in the spot.
    away = (part - part.mean((1, 2), keepdim=True)).abs().sum(0)
    row, column = divmod(int(away.argmax()), part.shape[2])
    begins = (whole[:, row : row + rows, column : column + columns] == part[:, row, column, None, None]).all(0)
    found = None
    for top, left in begins.nonzero().tolist():
        if torch.equal(whole[:, top : top + part.shape[1], left : left + part.shape[2]], part):
            if found is not None:
                return None
            found = top, left
    return found
