"""What was found, drawn: a cut-out on checks, a picture with its ground line beside its depth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..region.preview import small_picture

SQUARE = 16  # pixels of a preview
GREYS = (0.55, 0.8)
LINE = (0.9, 0.1, 0.2)
LINE_SHARE = 0.006  # of the height


def cut_out_preview(image: Tensor, opacity: Tensor) -> Tensor:
    """A product on checks.

    Args:
        image: (B, 3, H, W), 0..1.
        opacity: (B, H, W), 0..1, 1 = product.

    Returns:
        (B, 3, h, w), 0..1, at most 1024 pixels a side; larger pictures are shown by every n-th pixel.
    """
    picture, shown = small_picture(image), small_picture(opacity[:, None])
    height, width = picture.shape[2:]
    squares = torch.arange(height)[:, None] // SQUARE + torch.arange(width)[None] // SQUARE
    checks = torch.tensor(GREYS)[squares % 2]
    return torch.lerp(checks.expand_as(picture), picture.float(), shown)


def ground_preview(picture: Tensor, line: float, depth: Tensor) -> Tensor:
    """A picture with a line across it, and its depth to the right of it, stretched to the same size.

    Args:
        picture: (B, 3, H, W), 0..1.
        line: share of the height, from the top.
        depth: (B, 3, h, w), 0..1.

    Returns:
        (B, 3, h, w), 0..1, at most 2048 pixels wide and 1024 high.
    """
    marked = small_picture(picture).float().clone()
    height, width = marked.shape[2:]
    thickness = max(1, round(LINE_SHARE * height))
    top = min(max(round(line * height) - thickness // 2, 0), height - thickness)
    marked[:, :, top : top + thickness] = torch.tensor(LINE).view(1, 3, 1, 1)
    beside = F.interpolate(small_picture(depth).float(), size=(height, width), mode="bilinear")
    return torch.cat([marked, beside.expand_as(marked)], 3)
