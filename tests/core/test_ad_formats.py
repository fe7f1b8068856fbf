"""ad_formats: exact sizes, and the frames they are sampled in."""

from __future__ import annotations

from fractions import Fraction

import pytest

from pfv_mepa.pfv_core.ad.formats import FORMATS, SAMPLING_SCALES, ad_format

NONE = (1, 1)


@pytest.mark.parametrize("name", [name for name in FORMATS if "x" in name])
def test_a_format_named_by_its_size_has_it(name):
    width, height = map(int, name.split("x"))
    assert ad_format(name, NONE).size == (height, width)


@pytest.mark.parametrize("name", ["1:1", "4:5", "9:16", "16:9", "1.91:1"])
def test_a_format_named_by_its_shape_has_it_at_about_a_megapixel_and_needs_no_rounding(name):
    made = ad_format(name, NONE)
    across, down = (Fraction(part) for part in name.split(":"))
    height, width = made.size
    assert width / height == pytest.approx(float(across / down), rel=1e-4 if name == "1.91:1" else 1e-12)
    assert made.frame == made.sampling == made.size
    assert 0.85 < width * height / 2**20 < 1.01


@pytest.mark.parametrize("scale", [*map(str, SAMPLING_SCALES), "auto"])
@pytest.mark.parametrize("name", [*FORMATS, "custom"])
def test_the_frame_is_the_smallest_that_the_scale_makes_sampleable(name, scale):
    made = ad_format(name, (157, 301), scale)
    for length, frame, sampled in zip(made.size, made.frame, made.sampling, strict=True):
        grown = [n for n in range(length, length + 33) if (n * made.scale).denominator == 1 and n * made.scale % 8 == 0]
        assert frame == grown[0]
        assert sampled == frame * made.scale


@pytest.mark.parametrize(
    ("size", "frame"), [((628, 1200), (632, 1200)), ((8, 8), (8, 8)), ((9, 15), (16, 16)), ((1, 1), (8, 8))]
)
def test_sides_are_rounded_up_to_multiples_of_8(size, frame):
    made = ad_format("custom", size)
    assert (made.size, made.frame, made.sampling) == (size, frame, frame)


@pytest.mark.parametrize(
    ("name", "scale", "sampled"),
    [("320x50", "8", (400, 2560)), ("1:1", "1", (1024, 1024)), ("1080x1920", "3/4", (1440, 816))],
)
def test_auto_is_the_scale_nearest_to_a_megapixel(name, scale, sampled):
    made = ad_format(name, NONE, "auto")
    assert (str(made.scale), made.sampling) == (scale, sampled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("2:1", NONE), "format is '2:1', expected one of .*'1:1'.*'custom'"),
        (("custom", (0, 300)), r"the canvas is 300x0 pixels \(width x height\), expected at least 1x1"),
        (("1:1", NONE, "5"), "sampling_scale is '5', expected one of .*'auto', '1/2'"),
    ],
)
def test_what_is_not_a_format_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ad_format(*arguments)
