"""exactness: the counts of the report."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.ad import exactness
from pfv_mepa.pfv_core.ad.composite import Rim, paste_back
from pfv_mepa.pfv_core.ad.exactness import all_exact, mask_iou, measure_exactness, not_exact
from pfv_mepa.pfv_core.ad.placement import Box, Placement

from .weights import image


def masks() -> tuple[torch.Tensor, torch.Tensor]:
    mask, exact = torch.zeros(2, 20, 30, dtype=torch.bool), torch.zeros(2, 20, 30, dtype=torch.bool)
    mask[:, 5:15, 5:25] = True
    exact[:, 7:13, 7:23] = True
    return mask, exact


def test_an_exact_ad_and_one_changed_value():
    photo, (mask, exact) = image(2, 3, 20, 30, seed=1), masks()
    ad = torch.where(exact[:, None], photo, 0.5)
    first, second = measure_exactness(ad, photo * 0, photo, mask, exact)
    assert first == second
    assert (first.product_pixels, first.pixels_checked, first.pixels_equal, first.max_difference) == (200, 96, 96, 0.0)
    assert first.mask_iou is None
    assert all_exact([first, second])
    ad[1, 2, 8, 9] += 0.25
    ad[1, 0, 8, 9] -= 0.125
    first, second = measure_exactness(ad, photo * 0, photo, mask, exact)
    assert first.max_difference == 0.0
    assert second.pixels_equal == 95
    assert second.max_difference == pytest.approx(0.25)
    assert not all_exact([first, second])


def test_outside_the_exact_mask_nothing_counts():
    photo, (mask, exact) = image(2, 3, 20, 30, seed=2), masks()
    ad = torch.where(exact[:, None], photo, float("nan"))
    assert all_exact(measure_exactness(ad, photo * 0, photo, mask, exact))


def test_a_difference_of_any_size_is_one():
    photo, (mask, exact) = image(2, 3, 20, 30, seed=1), masks()
    ad = photo.clone()
    ad[1, 0, 8, 9] += 2**-20
    first, second = measure_exactness(ad, photo * 0, photo, mask, exact)
    assert (first.pixels_equal, second.pixels_equal) == (96, 95)
    assert not all_exact([second])


def test_each_ad_has_its_own_photos_placement():
    photo, (mask, exact) = image(2, 3, 20, 30, seed=1), masks()
    same, half = Placement(Box(0, 0, 4, 8), Box(1, 1, 4, 8)), Placement(Box(0, 0, 4, 8), Box(1, 1, 2, 4))
    for placements, expected in (
        ([same, half], [(1.0, False), (0.5, True)]),
        ([half], [(0.5, True)] * 2),
        (None, [(None, None)] * 2),
    ):
        reports = measure_exactness(photo, photo, photo, mask, exact, placements=placements)
        assert [(one.scale, one.resized) for one in reports] == expected


def test_iou():
    mask, exact = masks()
    pairs = [(exact, mask), (mask, exact), (mask, mask.roll(5, 2)), (mask, mask), (mask, ~mask), (mask & False, mask)]
    expected = [96 / 200, 96 / 200, 150 / 250, 1.0, 0.0, 0.0]
    for (first, second), value in zip(pairs, expected, strict=True):
        assert mask_iou(first, second).tolist() == [value] * 2
    assert mask_iou(mask & False, mask & False).tolist() == [1.0] * 2
    with pytest.raises(ValueError, match="expected two bool masks of one size"):
        mask_iou(mask.float(), mask)
    photo = image(2, 3, 20, 30, seed=3)
    reports = measure_exactness(photo, photo, photo, mask, exact, exact)
    assert [report.mask_iou for report in reports] == [96 / 200] * 2


def test_translucent_pixels_are_a_number_of_their_own():
    photo, (mask, exact) = image(2, 3, 20, 30, seed=5), masks()
    opacity = mask.float()
    opacity[0, 5:9] *= 0.4  # 4 of the product's 10 rows
    exact = exact & (opacity == 1)
    first, second = measure_exactness(torch.where(exact[:, None], photo, 0.5), photo * 0, photo, opacity, exact)
    assert (first.product_pixels, first.translucent_pixels, first.pixels_checked) == (200, 80, 64)
    assert (second.product_pixels, second.translucent_pixels, second.pixels_checked) == (200, 0, 96)
    assert all_exact([first, second])


def test_a_product_without_an_opaque_pixel_has_nothing_to_check_and_is_not_exact():
    photo, (mask, exact) = image(2, 3, 20, 30, seed=6), masks()
    reports = measure_exactness(photo, photo, photo, mask * 0.4, exact & False)
    assert [(one.pixels_checked, one.pixels_equal, one.max_difference) for one in reports] == [(0, 0, 0.0)] * 2
    assert not all_exact(reports)


def test_values_that_no_8_bit_file_holds_are_counted_where_the_ad_must_be_the_photo():
    _, exact = masks()
    steps = torch.arange(2 * 3 * 20 * 30).reshape(2, 3, 20, 30) % 256
    photo = steps.float() / 255
    assert [one.pixels_not_8_bit for one in measure_exactness(photo, photo, photo, exact, exact)] == [0, 0]
    deep = (257 * steps + 100).float() / 65535
    assert [one.pixels_not_8_bit for one in measure_exactness(deep, deep, deep, exact, exact)] == [96, 96]
    photo[1, 2, 8, 9] += 2**-20
    photo[1, 0, 8, 9] -= 2**-20  # of the same pixel
    photo[1, 0, 0, 0] = 0.3  # outside
    assert [one.pixels_not_8_bit for one in measure_exactness(photo, photo, photo, exact, exact)] == [0, 1]


def test_every_step_of_8_bits_is_one_as_hosts_divide(monkeypatch):
    """In whatever chunks; numpy's division, as hosts that read with Pillow do it, gives the same."""
    photo = torch.from_numpy((np.arange(256, dtype=np.uint8).astype(np.float32) / 255.0).reshape(1, 1, 8, 32))
    every = torch.ones(1, 8, 32, dtype=torch.bool)
    for chunk in (7, 1 << 18):
        monkeypatch.setattr(exactness, "CHUNK", chunk)
        assert measure_exactness(photo, photo, photo, every, every)[0].pixels_not_8_bit == 0
        assert measure_exactness(photo, photo, photo * 0.999, every, every)[0].pixels_not_8_bit == 255


@pytest.mark.parametrize("rim", list(Rim))
def test_what_is_not_exact_is_all_that_a_paste_changed_and_all_of_the_product_but_the_exact(rim):
    """A product with a translucent part and an eroded rim, over a generated image with no value of it."""
    opacity = torch.zeros(1, 20, 30)
    opacity[:, 5:15, 5:25] = 1
    opacity[:, 8:11, 12:18] = 0.5
    generated, photo = image(1, 3, 20, 30, seed=1) * 0.4, 0.5 + image(1, 3, 20, 30, seed=2) * 0.5
    ad, exact = paste_back(generated, photo, opacity, erode=2, feather=3, rim=rim)
    opacity[:, 0, 10] = 0.05  # haze, which is no rim
    blended, translucent, left_out = not_exact(ad, generated, photo, opacity, exact)
    assert torch.equal(translucent, opacity == 0.5)
    assert left_out.nonzero().tolist() == [[0, 0, 10]]
    assert ((blended.int() + translucent.int() + left_out.int() + exact.int()) <= 1).all()
    changed = (ad != generated).any(1)
    assert torch.equal(blended | translucent | left_out | exact, changed | (opacity > 0))
    assert blended[0, 4, 10].item() is (rim is Rim.BEYOND_MASK)  # one above the mask
    assert blended[0, 5, 10]


def test_a_rim_that_is_left_to_the_generated_image_is_neither_blended_nor_shown():
    """And where the photo is by chance the generated image, nothing is missing of it."""
    mask, _ = masks()
    generated, photo = image(2, 3, 20, 30, seed=1), image(2, 3, 20, 30, seed=2)
    photo[:, :, 5, 5] = generated[:, :, 5, 5]
    ad, exact = paste_back(generated, photo, mask, erode=2, feather=0)
    blended, translucent, left_out = not_exact(ad, generated, photo, mask, exact)
    assert blended.nonzero().tolist() == [[0, 5, 5], [1, 5, 5]]
    assert torch.equal(left_out, mask & ~exact & ~blended)
    assert not translucent.any()
    (first, _) = measure_exactness(ad, generated, photo, mask, exact)
    assert (first.product_pixels, first.pixels_left_out, first.pixels_checked) == (200, 200 - 96 - 1, 96)


def test_glass_that_erosion_takes_off_is_left_out_and_not_translucent():
    opacity = torch.zeros(1, 20, 30)
    opacity[:, 5:15, 5:25] = 1
    opacity[:, 5:7] *= 0.5
    generated, photo = image(1, 3, 20, 30, seed=1), image(1, 3, 20, 30, seed=2)
    ad, exact = paste_back(generated, photo, opacity, erode=2, feather=0)
    (one,) = measure_exactness(ad, generated, photo, opacity, exact)
    assert (one.translucent_pixels, one.pixels_left_out, one.pixels_checked) == (0, 200 - 96, 96)
