"""The demonstration's photographs: one size, masks of 0 and 255 that lie on what they name, sensible depths."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from headless.ad import photos

SIZES = [(768, 512), (512, 512), (416, 640)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("photo", [photos.coffee, photos.rocket, photos.flower])
def test_everything_has_the_working_size(photo, size):
    made = photo(size)
    images = [made.image, made.marked] + ([made.depth] if made.depth else [])
    assert {image.size for image in images} == {size}
    assert made.image.mode == "RGB"
    assert set(np.unique(made.marked)) == {0, 255}
    assert made.credit
    assert made.marked_as


def marked_mean(photo, inside: bool):
    marked = np.asarray(photo.marked) > 0
    return np.asarray(photo.image, float)[marked == inside].mean(axis=0)


def test_the_rockets_mark_is_brighter_than_the_sky_and_nearer_than_all():
    photo = photos.rocket((768, 512))
    marked, depth = np.asarray(photo.marked) > 0, np.asarray(photo.depth)
    picture = np.asarray(photo.image, float)
    assert picture[150:400][marked[150:400]].mean() > 1.5 * picture[150:400][~marked[150:400]].mean()
    assert np.median(depth[marked]) == 160
    assert np.median(depth[~marked]) == 0
    assert 100 < depth[-1][~marked[-1]].mean() < 160


def test_the_flowers_mark_is_red_and_the_leaves_are_not():
    photo = photos.flower((768, 512))
    assert marked_mean(photo, True)[0] > 180
    assert marked_mean(photo, False)[0] < 40


def test_the_products_dome_is_zero_outside_and_highest_inside():
    photo = photos.coffee((768, 512))
    marked, depth = np.asarray(photo.marked) > 0, np.asarray(photo.depth)
    assert depth[~marked].max() == 0
    assert depth[marked].min() >= 160
    assert depth.max() == 255


def test_the_cut_is_centred_and_keeps_proportions():
    image = Image.new("L", (100, 50))
    image.paste(255, (25, 0, 75, 50))  # exactly the centred square
    assert photos.cut_and_resize(image, (10, 10)).getextrema() == (255, 255)
    assert photos.cut_and_resize_mask(image, (10, 10)).getextrema() == (255, 255)


def test_a_mask_pixel_counts_when_half_of_it_is_marked():
    mask = Image.new("L", (4, 2))
    mask.paste(255, (0, 0, 1, 2))  # half of the left pixel
    assert np.asarray(photos.cut_and_resize_mask(mask, (2, 1))).tolist() == [[255, 0]]
    mask.putpixel((0, 0), 0)  # a quarter
    assert np.asarray(photos.cut_and_resize_mask(mask, (2, 1))).tolist() == [[0, 0]]
