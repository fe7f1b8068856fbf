"""distance: exact Euclidean distances, and the masks made of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.region.distance import MAX_REACH, erode_mask, fade, grow, squared_distance

from .weights import seeded


def speckled(batch: int = 2, share: float = 0.02) -> Tensor:
    mask = torch.rand(batch, 23, 37, generator=seeded(1)) < share
    mask[:, 0, 5] = mask[:, 22, 36] = True
    return mask


def slow_squared_distance(mask: Tensor) -> Tensor:
    """Pixel by pixel, over all pixels of the mask."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, mask.shape), indexing="ij"), -1).double()
    return (places[:, :, None] - torch.argwhere(mask).double()).square().sum(-1).amin(-1)


@pytest.mark.parametrize("reach", [0, 1, 3, 12, 60])
def test_distance_is_the_slow_one_up_to_its_reach(reach):
    mask = speckled()
    found = squared_distance(mask, reach)
    for item in range(2):
        expected = slow_squared_distance(mask[item])
        assert torch.equal(found[item].double(), torch.where(expected <= reach**2, expected, found[item].double()))
        assert (found[item][expected > reach**2] > reach**2).all()
        assert found[item].max() <= (reach + 1) ** 2


@pytest.mark.parametrize("reach", [126, 127, 128, 150, 180, 181, 182])
def test_distances_are_right_on_both_sides_of_what_small_numbers_hold(reach):
    mask = torch.zeros(1, 400, 20, dtype=torch.bool)
    mask[0, 0, 0] = True
    expected = slow_squared_distance(mask[0]).clamp_max((reach + 1) ** 2)
    found = squared_distance(mask, reach)[0].double()
    assert torch.equal(found[expected <= reach**2], expected[expected <= reach**2])
    assert (found[expected > reach**2] > reach**2).all()


@pytest.mark.parametrize("pixels", [0, 1, 2, 5, 40])
def test_growing_is_morphology_with_a_disk(pixels):
    mask = speckled()
    expected = torch.stack([slow_squared_distance(item) <= pixels**2 for item in mask])
    assert torch.equal(grow(mask, pixels), expected)


@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_shrinking_is_growing_what_is_left_out_and_the_border_is_no_edge(pixels):
    mask = torch.zeros(1, 20, 24, dtype=torch.bool)
    mask[0, :14, 4:] = True
    shrunk = grow(mask, -pixels)
    assert torch.equal(shrunk, ~grow(~mask, pixels))
    expected = torch.zeros_like(mask)
    expected[0, : 14 - pixels, 4 + pixels :] = True
    assert torch.equal(shrunk, expected)


def test_an_empty_mask_is_beyond_every_reach_and_stays_empty():
    empty = torch.zeros(1, 5, 6, dtype=torch.bool)
    assert (squared_distance(empty, 3) == 16).all()
    assert not grow(empty, 3).any()
    assert (fade(empty, 3) == 0).all()
    assert grow(~empty, -3).all()


def test_fade_falls_evenly_and_ends():
    mask = torch.zeros(1, 1, 9, dtype=torch.bool)
    mask[..., 0] = True
    assert fade(mask, 0).flatten().tolist() == [1.0] + [0.0] * 8
    assert fade(mask, 3).flatten().tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0, 0, 0, 0, 0])
    corner = torch.zeros(1, 4, 4, dtype=torch.bool)
    corner[0, 0, 0] = True
    assert fade(corner, 9)[0, 3, 3].item() == pytest.approx(1 - 18**0.5 / 10)


@pytest.mark.parametrize("reach", [-1, MAX_REACH + 1])
def test_a_reach_out_of_range_is_refused(reach):
    with pytest.raises(ValueError, match=f"reach is {reach} pixels, expected 0 to 4096"):
        squared_distance(torch.ones(1, 4, 4, dtype=torch.bool), reach)


def test_a_negative_softness_is_refused():
    with pytest.raises(ValueError, match="softness is -1 pixels, expected 0 to 4096"):
        fade(torch.ones(1, 4, 4, dtype=torch.bool), -1)


def test_far_squares_do_not_overflow():
    mask = torch.zeros(1, MAX_REACH, 2, dtype=torch.bool)
    mask[0, 0, 0] = True
    found = squared_distance(mask[:, :, :], MAX_REACH)
    assert found[0, -1, 1].item() == (MAX_REACH - 1) ** 2 + 1


@pytest.mark.parametrize("pixels", [1, 30, 126, 127, 300])
def test_a_size_that_takes_other_numbers_and_more_strips_gives_the_same(pixels):
    """A large image is worked on in strips, and small radii in 16 bits: against a distance by brute force in two steps."""
    mask = torch.rand(1, 700, 900, generator=seeded(2)) < 2e-6
    mask[0, 350, 40] = mask[0, 10, 880] = mask[0, 699, 899] = True
    y, x = torch.meshgrid(torch.arange(700), torch.arange(900), indexing="ij")
    nearest = torch.full((700, 900), 1 << 30)
    for row, column in torch.argwhere(mask[0]).tolist():
        nearest = torch.minimum(nearest, (y - row) ** 2 + (x - column) ** 2)
    assert torch.equal(squared_distance(mask, pixels)[0], nearest.clamp_max((pixels + 1) ** 2).int())
    assert torch.equal(grow(mask, pixels)[0], nearest <= pixels**2)
    assert torch.equal(grow(~mask, -pixels)[0], nearest > pixels**2)


def test_an_erosion_below_0_is_refused():
    with pytest.raises(ValueError, match="pixels is -1, expected 0 or more"):
        erode_mask(torch.ones(1, 4, 4, dtype=torch.bool), -1)
