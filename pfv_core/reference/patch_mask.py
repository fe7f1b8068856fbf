"""Which patches of a reference the encoder may see: D -> D_p -> D_z (section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from .fit import FitGeometry


@dataclass(frozen=True)
class PatchMask:
    """A visibility mask on an encoder's patch grid.

    Attributes:
        keep_mask: (B, H, W) bool, True = visible (D).
        patch_keep_mask: (B, grid, grid) bool, True = the encoder sees this patch (D_p, one value per patch).
        padding_mask: (grid, grid) bool, True = the patch holds no pixel of the image at all.
        geometry: how the image is fitted to the encoder.
        threshold: tolerated hidden share of a patch, 0..1.
    """

    keep_mask: Tensor
    patch_keep_mask: Tensor
    padding_mask: Tensor
    geometry: FitGeometry
    threshold: float

    @property
    def token_keep_mask(self) -> Tensor:
        """D_z: (B, N) bool, True = the token of this patch is kept. Row-major over the grid, no CLS."""
        return self.patch_keep_mask.flatten(1)

    @property
    def kept_share(self) -> Tensor:
        """(B,) share of the image's own patches (padding not counted) that are kept, 0..1."""
        own = (~self.padding_mask).sum()
        return self.patch_keep_mask.flatten(1).sum(1) / own

    def hidden_pixels(self) -> Tensor:
        """What was hidden, painted back: (B, H, W) bool, True = hidden in D, or under a hidden patch and no kept one.

        A crop's cut-off rim is seen by no patch; it is hidden only where D hides it, so an image of which nothing was
        hidden has no hidden pixel.
        """
        return ~self.visible_pixels()

    def visible_pixels(self) -> Tensor:
        """(B, H, W) bool, True = may have influence: visible, and under no hidden patch.

        A crop's cut-off rim is under no patch at all; the resize reaches into it as it would without a mask.
        """
        hidden = self._seen_by(~self.patch_keep_mask) & ~self._seen_by(self.patch_keep_mask)
        return self.keep_mask & ~hidden

    def of(self, images: list[int]) -> PatchMask:
        """The mask of some images of the batch; one mask for all of them stays as it is."""
        if self.keep_mask.shape[0] == 1:
            return self
        return replace(self, keep_mask=self.keep_mask[images], patch_keep_mask=self.patch_keep_mask[images])

    def _seen_by(self, patches: Tensor) -> Tensor:
        """(B, grid, grid) bool -> (B, H, W) bool, True where any of these patches lies. Numbers only for an image at a time."""
        rows = _membership(self.geometry.row_cells, self.geometry.height)
        columns = _membership(self.geometry.column_cells, self.geometry.width).T
        return torch.stack([rows @ one.float() @ columns > 0 for one in patches])


def rebinarize(keep_mask: Tensor, geometry: FitGeometry, threshold: float = 0.0) -> PatchMask:
    """Re-binarize a visibility mask on the patch grid of an encoder.

    Args:
        keep_mask: (B, H, W) bool, True = visible.
        geometry: how the image is fitted to the encoder; its height and width are the mask's.
        threshold: tolerated hidden share of a patch's own pixels, 0..1. 0 = one hidden pixel hides the patch,
            1 = no patch is ever hidden.

    Returns:
        The patch mask. A patch is hidden if its count of hidden pixels is strictly greater than threshold times its
        true area in pixels; both sides are exact.

    Raises:
        ValueError: wrong shape, dtype or range, or an image of which no patch would be left.

    Paper: section 3.2, D -> D_p, "if the count of 0 in each patch exceeds a certain threshold value".
    **Deviation**: the paper divides D into 16x16 patches; that is the grid of ViT-H/14 at 224 px, so the grid is taken
    from the encoder. Its threshold is not given; here it is a share, so that it means the same at every image size.
    Padding that a fit adds is hidden as patches.
    """
    _check_keep_mask(keep_mask, geometry)
    if not 0.0 <= threshold <= 1.0:
        raise ValueError(f"threshold is {threshold}, expected a share from 0 to 1")
    rows, columns = geometry.row_cells, geometry.column_cells
    area = np.outer([end - start for start, end in rows], [end - start for start, end in columns])
    hidden = area - _count_visible(keep_mask.cpu().numpy(), rows, columns)
    padding_mask = torch.from_numpy(area == 0)
    patch_keep_mask = torch.from_numpy(hidden <= _tolerated(area, threshold)) & ~padding_mask
    empty = (~patch_keep_mask.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"no patch of image {empty[0]} is left visible at threshold {threshold:g}: hide less of it, or raise the "
            f"threshold (its hidden share is {1 - keep_mask[empty[0]].float().mean().item():.3f})"
        )
    return PatchMask(keep_mask.cpu(), patch_keep_mask, padding_mask, geometry, threshold)


def _check_keep_mask(keep_mask: Tensor, geometry: FitGeometry) -> None:
    if keep_mask.ndim != 3 or keep_mask.dtype != torch.bool:
        raise ValueError(f"keep_mask is {tuple(keep_mask.shape)} {keep_mask.dtype}, expected (B, H, W) torch.bool")
    if keep_mask.shape[1:] != (geometry.height, geometry.width):
        raise ValueError(
            f"keep_mask is {keep_mask.shape[1]}x{keep_mask.shape[2]}, the image is {geometry.height}x{geometry.width}: "
            "give both the same size"
        )


def _tolerated(area: np.ndarray, threshold: float) -> np.ndarray:
    """The largest tolerated count per cell. In exact arithmetic: 0.29 * 100 must tolerate 29 pixels, not 28.999."""
    share = Fraction(repr(float(threshold)))
    values, index = np.unique(area, return_inverse=True)
    floors = np.array([int(share * int(value)) for value in values], dtype=np.int64)
    return floors[index].reshape(area.shape)


def _count_visible(keep_mask: np.ndarray, rows: list[tuple[int, int]], columns: list[tuple[int, int]]) -> np.ndarray:
    """Visible pixels of each cell, exactly: (B, H, W) bool -> (B, len(rows), len(columns)) int64.

    Reading the mask is nearly all of the work, so each byte is added to a byte: that of 255 rows overflows none.
    """
    visible = np.ascontiguousarray(keep_mask).view(np.uint8)
    by_row = np.stack([_sum_of_rows(visible[:, start:end]) for start, end in rows], 1)
    return np.stack([by_row[:, :, start:end].sum(2, dtype=np.int64) for start, end in columns], 2)


def _sum_of_rows(visible: np.ndarray) -> np.ndarray:
    """(B, rows, W) uint8 of 0 and 1 -> (B, W) int32."""
    total = np.zeros((visible.shape[0], visible.shape[2]), dtype=np.int32)
    for start in range(0, visible.shape[1], 255):
        total += np.add.reduce(visible[:, start : start + 255], 1, dtype=np.uint8)
    return total


def _membership(cells: list[tuple[int, int]], length: int) -> Tensor:
    """(length, cells) float, 1 where a pixel belongs to a cell."""
    pixels = torch.arange(length)[:, None]
    start, end = torch.tensor(cells).T
    return ((pixels >= start) & (pixels < end)).float()
