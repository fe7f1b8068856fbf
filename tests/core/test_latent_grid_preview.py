"""The picture of a region on the latent grid: one colour for each cell, by the share that the attention gets."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.pfv_core.region.grid_preview import BACKDROP, BETWEEN, FREE, LINE, RULED, latent_grid_preview


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


def test_sdxls_attention_sees_cells_of_16_and_of_32_pixels():
    """A stripe of 8 px is half of a cell of 16 px and a quarter of one of 32 px."""
    region = torch.zeros(1, 128, 128)
    region[:, :, :8] = 1
    picture = latent_grid_preview(region, (2, 1, 1, 2))
    fine, gap, coarse = picture[..., :256], picture[..., 256 : 256 + BETWEEN], picture[..., 256 + BETWEEN :]
    assert (gap == BACKDROP).all()
    free, ruled = torch.full((3,), FREE), torch.tensor(RULED)
    for grid, count, share in ((fine, 8, 1 / 2), (coarse, 4, 1 / 4)):
        assert grid.shape == (1, 3, 256, 256)
        shown = cells(grid, 256 // count)
        assert shown.shape == (1, 3, count, count)
        torch.testing.assert_close(shown[0, :, 0, 0], torch.lerp(free, ruled, share))
        assert torch.equal(shown[0, :, 0, 1], free)


def test_one_level_is_one_grid_and_an_odd_size_is_halved_upwards():
    """100 px are 13 latent pixels, then 7: the last cell is cut by the frame, so a region over its part is all of it."""
    region = torch.zeros(1, 104, 104)
    region[:, :, 96:] = 1
    picture = latent_grid_preview(region, [1])
    assert picture.shape == (1, 3, 7 * 36, 7 * 36)
    assert torch.allclose(cells(picture, 36)[0, :, 0, -1], torch.tensor(RULED))
    assert torch.allclose(cells(picture, 36)[0, :, 0, -2], torch.full((3,), FREE))


def test_without_a_model_the_latents_own_cells_are_drawn():
    region = torch.rand(2, 32, 48)
    assert torch.equal(latent_grid_preview(region), latent_grid_preview(region, [0]))


@pytest.mark.parametrize("levels", [[], [-1, 1]])
def test_levels_that_no_network_has_are_refused(levels):
    with pytest.raises(ValueError, match=r"expected at least one, each 0 or more"):
        latent_grid_preview(torch.ones(1, 8, 8), levels)
