"""fit: where an image lands on the encoder's input, and which pixels each patch sees."""

from __future__ import annotations

import random

import pytest

from pfv_mepa.pfv_core.reference.fit import Axis, Fit, fit_geometry

from . import reference

FITS = ("crop", "pad", "stretch")


@pytest.mark.parametrize("fit", FITS)
def test_all_fits_agree_on_an_image_of_the_inputs_size(fit):
    geometry = fit_geometry(224, 224, 224, 14, fit)
    assert geometry.rows == geometry.columns == Axis(224, 224, 0)
    assert geometry.grid_size == 16
    assert geometry.row_cells == [(start, start + 14) for start in range(0, 224, 14)]


def test_crop_cuts_both_ends_of_the_long_side():
    geometry = fit_geometry(448, 896, 224, 14, Fit.CROP)
    assert (geometry.height, geometry.width) == (448, 896)
    assert geometry.rows == Axis(448, 224, 0)
    assert geometry.columns == Axis(896, 448, -112)
    assert geometry.row_cells[:2] == [(0, 28), (28, 56)]
    assert (geometry.column_cells[0], geometry.column_cells[-1]) == ((224, 252), (644, 672))


def test_pad_shows_the_whole_image_and_starts_it_on_a_patch():
    geometry = fit_geometry(896, 300, 224, 14, Fit.PAD)
    assert geometry.rows == Axis(896, 224, 0)
    assert geometry.columns == Axis(300, 75, 70)  # (224 - 75) // 2 = 74, on a patch edge 70
    cells = geometry.column_cells
    assert cells[:6] == [(0, 0)] * 5 + [(0, 56)]
    assert cells[10] == (280, 300)  # 5 of its 14 columns are image, the rest is padding
    assert cells[11:] == [(0, 0)] * 5


def test_stretch_distorts_to_the_whole_input():
    geometry = fit_geometry(100, 50, 20, 10, Fit.STRETCH)
    assert geometry.row_cells == [(0, 50), (50, 100)]
    assert geometry.column_cells == [(0, 25), (25, 50)]


def test_an_enlarged_image_shares_pixels_between_patches():
    geometry = fit_geometry(3, 3, 20, 5, Fit.STRETCH)
    assert geometry.row_cells == [(0, 1), (0, 1), (1, 2), (2, 3)]


def test_cells_are_those_of_the_reference_at_any_size():
    rng = random.Random(0)
    for _ in range(300):
        input_size, patch_size = rng.choice([(20, 5), (32, 8), (28, 7), (224, 14)])
        height, width = rng.randint(2, 90), rng.randint(2, 90)  # within what a crop may be of
        for fit in FITS:
            geometry = fit_geometry(height, width, input_size, patch_size, fit)
            rows, columns = reference.image_cells(height, width, input_size, patch_size, fit)
            assert [list(range(*cell)) for cell in geometry.row_cells] == rows, (height, width, input_size, fit)
            assert [list(range(*cell)) for cell in geometry.column_cells] == columns, (height, width, input_size, fit)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_whole_image_fits_cover_each_pixel_once_while_patches_hold_a_pixel(fit):
    for length in range(16, 400, 7):
        for other in (16, 60, 399):
            axis = fit_geometry(length, other, 224, 14, fit).rows
            pixels = [pixel for cell in axis.cells(224, 14) for pixel in range(*cell)]
            assert pixels == list(range(length))


def test_at_most_one_patch_of_an_axis_holds_image_and_padding():
    for length in range(1, 300):
        axis = fit_geometry(length, 300, 224, 14, Fit.PAD).rows
        assert axis.offset % 14 == 0
        assert 0 <= axis.offset <= axis.offset + axis.scaled <= 224
        image = set(range(axis.offset, axis.offset + axis.scaled))
        patches = [set(range(start, start + 14)) for start in range(0, 224, 14)]
        assert sum(1 for patch in patches if image & patch and not patch <= image) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 224, 14, "crop"), "image is 0x5 pixels, expected at least 1x1"),
        ((5, -1, 224, 14, "crop"), "image is 5x-1 pixels, expected at least 1x1"),
        ((5, 5, 224, 15, "pad"), "encoder input of 224 px is not a whole number of 15 px patches"),
        ((5, 5, 224, 0, "pad"), "encoder input of 224 px is not a whole number of 0 px patches"),
        (
            (1, 65, 224, 14, "crop"),
            "image is 1x65 pixels, of which fit crop would show less than a part in 64: use fit pad",
        ),
        ((5, 5, 224, 14, "squash"), r"fit is 'squash', expected one of \['crop', 'pad', 'stretch'\]"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_its_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_geometry(*arguments)
