"""Masks as people and files give them: which way round they are read, and what is refused."""

from __future__ import annotations

import pytest
import torch

from pfv_core.masks import CORNERS, product_mask, product_opacity, product_selection, selected_mask

SIZE = (40, 60)
IMAGE = torch.zeros(1, 3, *SIZE)
STANDING = {
    "in the middle": (slice(10, 30), slice(20, 40)),
    "cut off at the bottom": (slice(10, 40), slice(20, 40)),
    "cut off in a corner": (slice(20, 40), slice(40, 60)),
    "cut off at two sides that face each other": (slice(0, 40), slice(20, 40)),
    "at a border": (slice(0, 20), slice(20, 40)),
}


def standing(name: str) -> torch.Tensor:
    mask = torch.zeros(1, *SIZE)
    mask[(0, *STANDING[name])] = 1
    return mask


@pytest.mark.parametrize("where", STANDING)
def test_a_product_is_refused_the_wrong_way_round_wherever_it_stands(where):
    painted = standing(where)
    for mask, right, wrong in ((painted, "product", "background"), (1 - painted, "background", "product")):
        assert torch.equal(product_opacity(mask, right, IMAGE, "mask"), painted)
        for read in (
            lambda way, mask=mask: product_opacity(mask, way, IMAGE, "mask"),
            lambda way, mask=mask: product_mask(mask, way, IMAGE, "mask"),
            lambda way, mask=mask: product_selection(mask, way, "mask"),
        ):
            with pytest.raises(ValueError, match=rf"of the picture's corners: .* so set mask_selects to {right}\."):
                read(wrong)


def test_a_stroke_that_reaches_the_border_makes_no_other_reading():
    painted = standing("in the middle")
    painted[0, 20, :20] = 1
    with pytest.raises(ValueError, match="4 of the picture's corners"):
        product_opacity(painted, "background", IMAGE, "mask")


def test_a_product_that_a_whole_side_cuts_off_lies_in_two_corners():
    low = torch.zeros(1, *SIZE)
    low[:, 20:] = 1
    assert CORNERS == 2
    assert torch.equal(product_opacity(low, "product", IMAGE, "mask"), low)
    low[:, 0, 0] = 1
    with pytest.raises(ValueError, match=r"3 of the picture's corners.*leave all but 2 out of its mask"):
        product_opacity(low, "product", IMAGE, "mask")


def test_a_haze_in_the_corners_is_not_called_the_wrong_way_round():
    """Neither way would be right."""
    hazy = standing("in the middle").clamp_min(0.12)
    for way in ("product", "background"):
        with pytest.raises(ValueError, match="4 of the picture's corners: it is soft there"):
            product_opacity(hazy, way, IMAGE, "mask")


def test_of_a_batch_one_that_is_the_wrong_way_round_is_enough():
    both = torch.cat([1 - standing("in the middle"), standing("in the middle")])
    with pytest.raises(ValueError, match="4 of the picture's corners"):
        product_opacity(both, "background", IMAGE.expand(2, -1, -1, -1), "mask")


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_the_smallest_pictures_have_corners_too(size):
    mask = torch.zeros(1, *size)
    mask[0, 0, 0] = 1
    image = torch.zeros(1, 3, *size)
    if size == (1, 1):
        with pytest.raises(ValueError, match="selects the whole image"):
            product_opacity(mask, "product", image, "mask")
    else:
        assert product_opacity(mask, "product", image, "mask").sum() == 1


def test_what_is_hidden_counts_from_a_tenth_on():
    mask = torch.zeros(1, *SIZE)
    mask[0, 0, :3] = torch.tensor([0.09, 0.11, 1.0])
    assert selected_mask(mask, IMAGE, "mask")[0, 0, :4].tolist() == [False, True, True, False]
