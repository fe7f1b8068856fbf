"""What the encoder will see, drawn over the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from .fit import FitGeometry

HIDDEN_TINT = (0.85, 0.1, 0.35)
HIDDEN_OPACITY = 0.75
GRID_LINE = 0.55  # how far a line goes from the picture towards white
LARGEST_SIDE = 1024  # pixels; a preview is for looking at


def patch_grid_preview(reference_image: Tensor, hidden_mask: Tensor, geometry: FitGeometry) -> Tensor:
    """Reference with its hidden patches tinted and the encoder's patch grid.

    Args:
        reference_image: (B, 3, H, W), 0..1 where visible.
        hidden_mask: (B, H, W) bool, True = hidden, whole patches.
        geometry: how it is fitted to the encoder.

    Returns:
        (B, 3, h, w), 0..1, at most 1024 pixels a side; larger references are shown by every n-th pixel.
    """
    step = -(-max(reference_image.shape[2:]) // LARGEST_SIDE)
    picture = reference_image[:, :, ::step, ::step].float().cpu().nan_to_num(0.0).clamp(0, 1)
    hidden = hidden_mask[:, None, ::step, ::step]
    tint = torch.tensor(HIDDEN_TINT).view(1, 3, 1, 1)
    picture = torch.where(hidden, torch.lerp(picture, tint, HIDDEN_OPACITY), picture)
    for row in _lines(geometry.row_cells, step, picture.shape[2]):
        picture[:, :, row] = torch.lerp(picture[:, :, row], torch.ones(1), GRID_LINE)
    for column in _lines(geometry.column_cells, step, picture.shape[3]):
        picture[:, :, :, column] = torch.lerp(picture[:, :, :, column], torch.ones(1), GRID_LINE)
    return picture


def _lines(cells: list[tuple[int, int]], step: int, length: int) -> list[int]:
    """Where the edges of the cells fall in the picture."""
    edges = {edge // step for cell in cells if cell[0] < cell[1] for edge in cell}
    return sorted(min(edge, length - 1) for edge in edges)
