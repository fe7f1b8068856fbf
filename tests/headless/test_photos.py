"""The demonstration's photographs: masks of 0 and 255 that lie on what they name."""

from __future__ import annotations

import numpy as np
import pytest

from headless.ad import photos


@pytest.mark.parametrize(("photo", "size"), [(photos.coffee, (600, 400)), (photos.rocket, (640, 427))])
def test_a_photograph_comes_whole_with_a_mask_of_its_size(photo, size):
    made = photo()
    assert made.image.size == made.marked.size == size
    assert made.image.mode == "RGB"
    assert set(np.unique(made.marked)) == {0, 255}
    assert made.marked_as in str(made)
    assert made.credit in str(made)


def test_the_rockets_mark_is_brighter_than_the_sky():
    photo = photos.rocket()
    marked, picture = np.asarray(photo.marked) > 0, np.asarray(photo.image, float)
    sky = slice(120, 330)
    assert picture[sky][marked[sky]].mean() > 1.5 * picture[sky][~marked[sky]].mean()


def test_the_cups_mark_holds_nearly_all_that_is_white():
    photo = photos.coffee()
    white = np.asarray(photo.image).min(-1) > 190
    assert white.sum() > 1000
    assert (np.asarray(photo.marked) > 0)[white].mean() > 0.9
