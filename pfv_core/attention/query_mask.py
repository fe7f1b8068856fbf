"""A region of the image on the query grid of each cross-attention (Eq. 5)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

LATENT_SCALE = 8  # image pixels per latent pixel of the VAE


def layer_grid(height: int, width: int, level: int) -> tuple[int, int]:
    """Rows and columns of queries at a level of the U-Net.

    Args:
        height, width: image pixels, multiples of 8.
        level: how often the U-Net halved the latent before this layer; 0 = the latent's own grid.

    Raises:
        ValueError: a size that is not a positive multiple of 8, a negative level.

    Paper: Eq. 5, `MA = zeros_SDXL(zeros_VAE(D))`. **Deviation**: networks whose weights and offsets are all 0 give 0
    for every D, so the equation is read as their shapes: /8 in the VAE, then ceil(n / 2) at each stride-2 convolution.
    """
    if height < 1 or width < 1 or height % LATENT_SCALE or width % LATENT_SCALE:
        raise ValueError(f"image is {height}x{width} pixels, expected multiples of {LATENT_SCALE}")
    if level < 0:
        raise ValueError(f"level is {level}, expected 0 or more")
    return _halved(height // LATENT_SCALE, level), _halved(width // LATENT_SCALE, level)


def query_mask(region: Tensor, grid: tuple[int, int], latent_size: tuple[int, int]) -> Tensor:
    """The share of each query's cell that a region covers.

    Args:
        region: (B, H, W) float, 0..1; 1 = the image prompt rules here. It spans the whole frame at any resolution.
        grid: rows and columns of queries of the layer.
        latent_size: rows and columns of the latent that is being sampled.

    Returns:
        (B, rows * columns) float64, 0..1, row-major. Exactly 1 where the region is 1 all over the cell, exactly 0
        where it is 0 all over it.

    Raises:
        ValueError: wrong shape, or values that are not finite or outside 0..1.

    Paper: MA of Eq. 5. **Deviation**: area-weighted, so that a stripe thinner than a cell counts for what it covers.
    Where the grid is the latent halved some times, a cell is the 2^n latent pixels that its strided convolutions
    centre on and the last one of an odd size is short. Any other grid (deep shrink) divides the frame evenly.
    """
    if region.ndim != 3:
        raise ValueError(f"region is {tuple(region.shape)}, expected (B, H, W)")
    low, high = region.min().item(), region.max().item()
    if not (low >= 0.0 and high <= 1.0):
        raise ValueError(f"region spans {low:g}..{high:g}, expected finite values from 0 to 1")
    region = region.to("cpu", torch.float64)
    level = _level_of(grid, latent_size)
    rows = _overlaps(region.shape[1], grid[0], latent_size[0], level)
    columns = _overlaps(region.shape[2], grid[1], latent_size[1], level)
    covered = rows @ region @ columns.T  # overlaps are whole numbers, so a full cell sums to its area exactly
    area = rows.sum(1)[:, None] * columns.sum(1)[None]
    return (covered / area).flatten(1)


def frame_matches(region_size: tuple[int, int], latent_size: tuple[int, int]) -> bool:
    """Whether a region has the shape of the frame, give or take the rounding of the image to whole latent pixels."""
    (height, width), (rows, columns) = region_size, latent_size
    image_height, image_width = rows * LATENT_SCALE, columns * LATENT_SCALE
    by_width = abs(height * image_width / width - image_height)
    by_height = abs(width * image_height / height - image_width)
    return min(by_width, by_height) <= LATENT_SCALE


def _halved(length: int, times: int) -> int:
    for _ in range(times):
        length = (length + 1) // 2
    return length


def _level_of(grid: tuple[int, int], latent_size: tuple[int, int]) -> int | None:
    """How often the latent was halved to give this grid; None if it was not."""
    rows, columns = latent_size
    level = 0
    while (rows, columns) != grid:
        if rows <= 1 and columns <= 1:
            return None
        rows, columns, level = (rows + 1) // 2, (columns + 1) // 2, level + 1
    return level


def _overlaps(length: int, cells: int, latent_length: int, level: int | None) -> Tensor:
    """(cells, length) overlap of each cell with each region pixel, in units that make every edge a whole number."""
    if level is None:
        edges, frame = [*range(cells + 1)], cells
    else:
        edges, frame = [cell << level for cell in range(cells + 1)], latent_length  # the last may pass the frame's end
    unit = math.lcm(length, frame)
    cell_edges = torch.tensor(edges, dtype=torch.float64) * (unit // frame)
    pixel_edges = torch.arange(length + 1, dtype=torch.float64) * (unit // length)
    start = torch.maximum(cell_edges[:-1, None], pixel_edges[None, :-1])
    end = torch.minimum(cell_edges[1:, None], pixel_edges[None, 1:])
    return (end - start).clamp_min(0)
