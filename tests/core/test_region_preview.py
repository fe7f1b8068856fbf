"""region_preview: every region, gap and overlap can be told apart."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.pfv_core.ad.placement import Box
from pfv_mepa.pfv_core.region.preview import (
    BLENDED,
    COLOURS,
    CUT_OFF,
    LEFT_OUT,
    MARK_OPACITY,
    REST,
    SAFE_LINE,
    TRANSLUCENT,
    canvas_preview,
    exactness_preview,
    region_preview,
    small_picture,
)

from .weights import image


def test_each_region_has_its_colour_the_rest_is_grey_and_overlaps_are_striped():
    regions = [torch.zeros(1, 40, 60) for _ in range(3)]
    for number, region in enumerate(regions):
        region[:, :20, 20 * number : 20 * (number + 1)] = 1
    regions[2][:, :20, :10] = 1  # over region 1
    picture = region_preview(regions)
    for number in range(3):
        seen = picture[0, :, 5, 20 * number + 15]
        assert seen.tolist() == pytest.approx(COLOURS[number])
    assert (picture[0, :, 30] == REST).all()
    overlap = picture[0, :, :20, :10]
    assert set(overlap.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(overlap[0], overlap[1])


def test_shares_mix_and_are_no_overlap():
    half = torch.full((1, 4, 4), 0.5)
    picture = region_preview([half, half])
    expected = [(one + other) / 2 for one, other in zip(COLOURS[0], COLOURS[1], strict=True)]
    assert picture[0, :, 0, 0].tolist() == pytest.approx(expected)


def test_a_picture_is_seen_through_and_a_large_region_is_shown_small():
    region = torch.zeros(1, 1500, 2100)
    region[:, 700:] = 1
    under = image(1, 3, 50, 70, seed=1)
    picture = region_preview([region], under)
    assert tuple(picture.shape) == (1, 3, 500, 700)
    assert picture[:, :, :200].std() > 0.01
    assert ((picture >= 0) & (picture <= 1)).all()


def test_too_many_regions_are_refused():
    with pytest.raises(ValueError, match="5 regions, expected at most 4"):
        region_preview([torch.ones(1, 4, 4)] * 5)


def test_the_canvas_shows_product_safe_area_and_what_is_cut_off():
    placed, mask = image(1, 3, 64, 72, seed=2), torch.zeros(1, 64, 72, dtype=torch.bool)
    mask[:, 20:40, 20:40] = True
    kept = placed.clone()
    picture = canvas_preview(placed, mask, (60, 70), Box(5, 6, 50, 55))
    assert torch.equal(placed, kept)
    assert torch.equal(picture[0, :, 20:40, 20:40], placed[0, :, 20:40, 20:40])
    assert (picture[0, :, 12, 12] == 0.5).all()
    assert picture[0, :, 5, 30].tolist() == pytest.approx(SAFE_LINE)
    assert picture[0, :, 54, 30].tolist() == pytest.approx(SAFE_LINE)
    assert picture[0, :, 30, 60].tolist() == pytest.approx(SAFE_LINE)
    for row, column in ((62, 3), (3, 71)):
        assert picture[0, :, row, column].tolist() == pytest.approx(CUT_OFF)
    assert (
        canvas_preview(
            image(1, 3, 2000, 1200, seed=3), mask.new_zeros(1, 2000, 1200), (2000, 1200), Box(0, 0, 9, 9)
        ).shape[2]
        == 1000
    )


def test_what_is_not_exact_is_tinted_in_three_colours_and_the_rest_untouched():
    ad = image(2, 3, 20, 30, seed=4)
    blended, translucent, left_out = torch.zeros(3, 2, 20, 30, dtype=torch.bool)
    blended[0, 5, 6:9] = translucent[1, 7, 8] = left_out[1, 9, 9:12] = True
    picture = exactness_preview(ad, blended, translucent, left_out)
    for where, colour in ((blended, BLENDED), (translucent, TRANSLUCENT), (left_out, LEFT_OUT)):
        marked = where[:, None].expand_as(ad)
        expected = torch.lerp(ad, torch.tensor(colour).view(1, 3, 1, 1), MARK_OPACITY)
        assert torch.equal(picture[marked], expected[marked])
        assert not torch.equal(picture[marked], ad[marked])
    rest = ~(blended | translucent | left_out)[:, None].expand_as(ad)
    assert torch.equal(picture[rest], ad[rest])


def test_a_rim_of_one_pixel_is_seen_in_a_small_picture_of_a_large_ad():
    ad, blended = torch.zeros(1, 3, 2500, 40), torch.zeros(1, 2500, 40, dtype=torch.bool)
    blended[0, 1001, 7] = True  # no third row or column
    picture = exactness_preview(ad, blended, *[torch.zeros_like(blended)] * 2)
    assert picture.shape == (1, 3, 834, 14)
    assert picture[0, 0].nonzero().tolist() == [[333, 2]]


def test_a_picture_that_is_small_stays_itself():
    picture = image(1, 3, 1024, 8, seed=5)
    assert small_picture(picture) is picture
    assert torch.equal(small_picture(image(1, 3, 1025, 9, seed=6)), image(1, 3, 1025, 9, seed=6)[:, :, ::2, ::2])
