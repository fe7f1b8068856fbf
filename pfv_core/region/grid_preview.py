"""What the attention sees of a region is drawn here: its share of each cell, on the grids of the attention itself."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..attention.query_mask import LATENT_SCALE, query_mask

RULED = (0.15, 0.55, 0.85)
FREE = 0.25  # grey where the region is 0
LINE = 0.1  # grey between the cells
SIDE = 256  # pixels of the longer side of a grid, about
SMALLEST_CELL = 3  # pixels; a cell needs a line and something to be seen
BETWEEN = 12  # pixels of BACKDROP between two grids
BACKDROP = 1.0
LATENT_ONLY = (0,)


def latent_grid_preview(region: Tensor, levels: Collection[int] | None = None) -> Tensor:
    """A region as its share of each cell of the grids on which it is applied: a cell in one colour, with lines between them.

    The region is taken as drawn at the image's own size, since the image is not known before it is sampled.

    Args:
        region: (R, H, W) float, 0..1, 1 = the image prompt rules.
        levels: how often the U-Net halves the latent before its cross-attentions, in any order and as often as there are
            layers: 1 and 2 in SDXL, whose cells are 16 and 32 pixels; 0 to 3 in SD1.5, with 8 to 64. None: the latent's own
            cells of 8 pixels, where no model is known.

    Returns:
        (R, 3, height, width), 0..1: grey where the region is 0, blue where it is 1, between them by the cell's share. The
        finest of the grids on the left, and on its right the coarsest, where it is another.

    Raises:
        ValueError: no level at all, or a negative one.
    """
    wanted = sorted(set(LATENT_ONLY if levels is None else levels))
    if not wanted or wanted[0] < 0:
        raise ValueError(f"levels are {wanted}, expected at least one, each 0 or more")
    pictures = [_grid(region, level) for level in dict.fromkeys((wanted[0], wanted[-1]))]
    height = max(picture.shape[2] for picture in pictures)
    parts = [_to_height(picture, height) for picture in pictures]
    between = torch.full((len(region), 3, height, BETWEEN), BACKDROP)
    return parts[0] if len(parts) == 1 else torch.cat([parts[0], between, parts[1]], 3)


def _grid(region: Tensor, level: int) -> Tensor:
    """(R, 3, rows * cell, columns * cell) of the latent halved `level` times."""
    latent = rows, columns = -(-region.shape[1] // LATENT_SCALE), -(-region.shape[2] // LATENT_SCALE)
    for _ in range(level):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
    shares = query_mask(region, (rows, columns), latent).float().view(-1, 1, rows, columns)
    colours = torch.lerp(torch.full((1, 3, 1, 1), FREE), torch.tensor(RULED).view(1, 3, 1, 1), shares)
    cell = max(SMALLEST_CELL, SIDE // max(rows, columns))
    picture = colours.repeat_interleave(cell, 2).repeat_interleave(cell, 3)
    picture[:, :, ::cell] = LINE
    picture[:, :, :, ::cell] = LINE
    return picture


def _to_height(picture: Tensor, height: int) -> Tensor:
    """A picture with BACKDROP below it."""
    missing = picture.new_full((*picture.shape[:2], height - picture.shape[2], picture.shape[3]), BACKDROP)
    return torch.cat([picture, missing], 2)
