"""The picture of a region on the latent grid: one colour for each cell, by the share that the attention gets."""

from __future__ import annotations

import torch

from pfv_mepa.pfv_core.region.grid_preview import FREE, LINE, RULED, latent_grid_preview


def cells(picture, cell):
    """The colour in the middle of each cell."""
    return picture[:, :, cell // 2 :: cell, cell // 2 :: cell]


def test_a_cell_is_grey_blue_or_between_by_its_share():
    region = torch.zeros(2, 16, 24)  # 2 x 3 cells
    region[0, :8, :8] = 1  # a whole cell
    region[0, 8:12, 16:] = 1  # half of one
    region[1, :, 8:16] = 1
    picture = latent_grid_preview(region)
    cell = 256 // 3
    assert picture.shape == (2, 3, 2 * cell, 3 * cell)
    ruled, free = torch.tensor(RULED), torch.full((3,), FREE)
    shown = cells(picture, cell)
    assert torch.equal(shown[0, :, 0, 0], ruled)
    assert torch.equal(shown[0, :, 0, 1], free)
    torch.testing.assert_close(shown[0, :, 1, 2], (ruled + free) / 2)
    assert torch.equal(shown[1, :, :, 1], ruled[:, None].expand(3, 2))
    assert (picture[:, :, ::cell] == LINE).all()
    assert (picture[:, :, :, ::cell] == LINE).all()


def test_a_size_that_is_no_multiple_of_a_cell_has_one_more():
    picture = latent_grid_preview(torch.ones(1, 12, 20))
    assert cells(picture, 256 // 3).shape == (1, 3, 2, 3)
    assert torch.allclose(cells(picture, 256 // 3), torch.tensor(RULED).view(1, 3, 1, 1))


def test_a_large_region_stays_a_picture_to_look_at():
    assert latent_grid_preview(torch.ones(1, 1024, 1536)).shape == (1, 3, 384, 576)
