"""What the attention sees of a region is drawn here: a share for each cell of the latent grid."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.query_mask import LATENT_SCALE, query_mask

RULED = (0.15, 0.55, 0.85)
FREE = 0.25  # grey where the region is 0
LINE = 0.1  # grey between the cells
SIDE = 256  # pixels of the longer side, about
SMALLEST_CELL = 3  # pixels; a cell needs a line and something to be seen


def latent_grid_preview(region: Tensor) -> Tensor:
    """A region as shares of the latent's cells, which are 8x8 pixels: each cell in one colour, with lines between them.

    The region is taken as drawn at the image's own size, since the image is not known before it is sampled.

    Args:
        region: (R, H, W) float, 0..1, 1 = the image prompt rules.

    Returns:
        (R, 3, rows * cell, columns * cell), 0..1: grey where the region is 0, blue where it is 1, between them by the cell's
        share. Rows and columns are H / 8 and W / 8, rounded up.
    """
    rows, columns = (-(-side // LATENT_SCALE) for side in region.shape[1:])
    shares = query_mask(region, (rows, columns), (rows, columns)).float().view(-1, 1, rows, columns)
    colours = torch.lerp(torch.full((1, 3, 1, 1), FREE), torch.tensor(RULED).view(1, 3, 1, 1), shares)
    cell = max(SMALLEST_CELL, SIDE // max(rows, columns))
    picture = colours.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    picture[:, :, ::cell] = LINE
    picture[:, :, :, ::cell] = LINE
    return picture
