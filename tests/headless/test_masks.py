"""What a mask marks, whatever kind of file it is; one that says two things, or nothing, is refused with its counts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from headless.pictures.door import PictureError, encode_png
from headless.pictures.masks import read_mask
from pfv_mepa.tests.support import made_pictures as made

SIZE = (20, 10)  # width, height


def mark(value: int = 255) -> np.ndarray:
    values = np.zeros((10, 20), np.uint8)
    values[2:8, 5:15] = value  # 60 of 200
    return values


def read(content: bytes, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, tuple[str, ...]]:
    return read_mask(content, "'m.png'", size, "'p.png'")


def test_white_marks_and_soft_values_stay():
    for values in (mark(), mark(100), np.arange(200, dtype=np.uint8).reshape(10, 20)):
        found, said = read(made.png(values, 8, made.GREY))
        assert np.array_equal(found, values)
        assert said == ()


def test_a_mask_of_sixteen_bits_is_scaled_and_not_cut():
    """What is nearly black stays nearly black: cut to the lower bits, the whole ramp would be white from 1/256 on."""
    ramp = np.arange(200).reshape(10, 20) * 300
    found, said = read(made.png(ramp, 16, made.GREY))
    assert np.array_equal(found, np.floor(ramp / 257 + 0.5))
    assert said == ("16-bit values scaled to 8",)


def test_a_masks_profile_changes_nothing():
    values = mark(128)
    found, _ = read(made.png(values, 8, made.GREY, iCCP=made.icc_chunk(made.grey_profile(1.2))))
    assert np.array_equal(found, values)


@pytest.mark.parametrize("hidden", [0, 255])
def test_white_paint_on_nothing_marks_by_its_alpha_whatever_colour_nothing_has(hidden):
    values = np.full((10, 20, 4), hidden, np.uint8)
    values[..., 3] = mark(200)
    values[mark() > 0, :3] = 255
    found, said = read(encode_png(values))
    assert np.array_equal(found, mark(200))
    assert said == ("its transparency counts, not its brightness",)


def test_a_cut_out_given_as_a_mask_is_refused_with_both_counts():
    values = np.zeros((10, 20, 4), np.uint8)
    values[..., 3] = mark()
    values[2:4, 5:15, :3] = 200  # 20 bright pixels of a dark product
    with pytest.raises(
        PictureError, match=r"'m\.png' has transparency: 60 of its pixels are opaque, 20 of them bright"
    ):
        read(encode_png(values))


def test_white_on_black_that_is_half_transparent_too_is_refused():
    values = np.repeat(mark()[..., None], 4, 2)
    values[..., 3] = 255
    values[0, 0, 3] = 0
    with pytest.raises(PictureError, match="199 of its pixels are opaque, 60 of them bright"):
        read(encode_png(values))


@pytest.mark.parametrize(
    ("values", "counted"),
    [
        (mark(0), "0 of 200 pixels, nothing"),
        (mark(25), "0 of 200 pixels, nothing"),
        (np.full((10, 20), 255, np.uint8), "200 of 200 pixels, everything"),
        (np.full((10, 20), 254, np.uint8), "200 of 200 pixels, everything"),
    ],
)
def test_a_mask_that_marks_nothing_or_everything_is_refused(values, counted):
    with pytest.raises(PictureError, match=rf"the mask 'm\.png' of 'p\.png' marks {counted}: what counts is white"):
        read(made.png(values, 8, made.GREY))


def test_what_is_just_seen_is_something_and_what_is_just_not_white_is_not_everything():
    for values in (mark(26), np.full((10, 20), 253, np.uint8)):
        assert np.array_equal(read(made.png(values, 8, made.GREY))[0], values)


def test_another_size_is_refused_with_both():
    with pytest.raises(
        PictureError, match=r"the mask 'm\.png' is 20x10, its picture 'p\.png' 10x20: give both one size"
    ):
        read(made.png(mark(), 8, made.GREY), (10, 20))


def test_a_mask_that_lies_on_its_side_is_turned_first():
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(np.rot90(mark()))).save(file, "PNG", exif=made.exif(6))
    assert np.array_equal(read(file.getvalue())[0], mark())
