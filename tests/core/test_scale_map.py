"""scale_map: Strictly-ID's I_s, by hand and against the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.research.scale_map import scale_hint, scale_map, subject_height_by_ratio, subject_height_by_size

from .weights import image


def earring(top: int = 50, height: int = 10, image_height: int = 100) -> Tensor:
    mask = torch.zeros(1, image_height, 80, dtype=torch.bool)
    mask[:, top : top + height, 30:40] = True
    return mask


def rows_of(scale: Tensor) -> list[int]:
    assert torch.equal(scale, scale[:, :, :1].expand_as(scale))
    return scale[0, :, 0].nonzero().flatten().tolist()


def test_a_face_five_times_the_earring_is_centred_at_the_earrings_upper_bound():
    """Section 6.2 by hand: an earring of 10 px and 4 cm, a face of 20 cm -> 50 px around row 50."""
    heights = subject_height_by_size(earring(), product_cm=4, subject_cm=20)
    assert heights.tolist() == [50.0]
    assert rows_of(scale_map(earring(), heights)) == list(range(25, 75))


def test_a_ratio_is_of_the_images_height():
    heights = subject_height_by_ratio(earring(), 0.3)
    assert heights.tolist() == pytest.approx([30.0])
    assert rows_of(scale_map(earring(), heights)) == list(range(35, 65))


@pytest.mark.parametrize(("center", "first"), [(0.0, 40), (0.5, 45), (1.0, 50), (-1.0, 30), (2.0, 60)])
def test_the_centre_moves_with_the_products_height(center, first):
    rows = rows_of(scale_map(earring(), torch.tensor([20.0], dtype=torch.float64), center))
    assert rows == list(range(first, first + 20))


@pytest.mark.parametrize("height", [1.0, 7.3, 33.33, 99.0])
def test_a_row_belongs_where_its_centre_lies_within_the_limits(height):
    rows = rows_of(scale_map(earring(), torch.tensor([height], dtype=torch.float64)))
    assert rows == [row for row in range(100) if 50 - height / 2 <= row + 0.5 <= 50 + height / 2]


def test_a_subject_larger_than_the_image_is_cut_by_it():
    assert rows_of(scale_map(earring(), subject_height_by_ratio(earring(), 4.0))) == list(range(100))
    assert rows_of(scale_map(earring(top=0), subject_height_by_ratio(earring(), 0.2))) == list(range(10))


def test_each_product_of_a_batch_has_its_own_scale():
    masks = torch.cat([earring(), earring(top=20, height=20)])
    heights = subject_height_by_size(masks, 2.0, 4.0)
    assert heights.tolist() == [20.0, 40.0]
    together = scale_map(masks, heights)
    for item in range(2):
        assert torch.equal(together[item : item + 1], scale_map(masks[item : item + 1], heights[item : item + 1]))


def test_the_hint_is_the_product_on_black_and_the_map():
    picture, mask = image(1, 3, 100, 80, seed=1), earring()
    subject = scale_map(mask, torch.tensor([30.0], dtype=torch.float64))
    hint = scale_hint(picture, mask, subject)
    assert tuple(hint.shape) == (1, 4, 100, 80)
    assert torch.equal(hint[0, :3, 50:60, 30:40], picture[0, :, 50:60, 30:40])
    assert (hint[:, :3][~mask[:, None].expand(-1, 3, -1, -1)] == 0).all()
    assert torch.equal(hint[:, 3], subject)
    elsewhere = torch.where(mask[:, None], picture, float("nan"))
    assert torch.equal(scale_hint(elsewhere, mask, subject), hint)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: subject_height_by_size(earring(), 0, 20), "product_cm is 0, expected a height above 0"),
        (lambda: subject_height_by_size(earring(), 4, -1), "subject_cm is -1, expected a height above 0"),
        (lambda: subject_height_by_size(earring(), 4, float("nan")), "subject_cm is nan"),
        (lambda: subject_height_by_ratio(earring(), 0), "height_ratio is 0, expected more than 0"),
        (lambda: subject_height_by_size(earring() & False, 4, 20), "product_mask is empty: select the product"),
        (lambda: scale_map(earring() & False, torch.ones(1)), "product_mask is empty"),
        (
            lambda: scale_map(earring(), torch.tensor([10.0]), center=9.0),
            "no row of the subject of product 0 lies in the image: it is 10 pixels high around row 140 of 100",
        ),
    ],
)
def test_what_gives_no_map_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
