"""ad_formats: exact sizes, and the frames they are sampled in."""

from __future__ import annotations

from fractions import Fraction

import pytest

from pfv_mepa.pfv_core.ad.formats import FAR_OFF, FORMATS, SAMPLING_SCALES, Training, ad_format

NONE = (1, 1)
SDXL, SD15, DEMO = Training("SDXL", 1024), Training("SD1.5", 512), Training("the demo", 256)


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
        grown = [n for n in range(length, length + 65) if (n * made.scale).denominator == 1 and n * made.scale % 8 == 0]
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
        (("1:1", NONE, "5"), "sampling_scale is '5', expected one of .*'auto', '1/8'"),
    ],
)
def test_what_is_not_a_format_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ad_format(*arguments)


def test_auto_without_a_model_takes_what_it_always_took():
    """Saved workflows that say auto: no scale below 1/2 is theirs, however large the canvas."""
    assert str(ad_format("custom", (8000, 8000), "auto").scale) == "1/2"
    assert str(ad_format("custom", (8000, 8000), "auto", SDXL).scale) == "1/8"


@pytest.mark.parametrize(
    ("training", "name", "scale", "sampled"),
    [
        (SDXL, "1:1", "1", (1024, 1024)),
        (SDXL, "1080x1350", "3/4", (1032, 816)),
        (SD15, "1:1", "1/2", (512, 512)),
        (SD15, "1080x1920", "1/3", (640, 360)),
        (DEMO, "1:1", "1/4", (256, 256)),
        (DEMO, "320x50", "2", (104, 640)),
    ],
)
def test_auto_aims_at_what_the_model_was_trained_on(training, name, scale, sampled):
    made = ad_format(name, NONE, "auto", training)
    assert (str(made.scale), made.sampling) == (scale, sampled)
    assert made.training is training


@pytest.mark.parametrize("training", [SDXL, SD15])
@pytest.mark.parametrize("name", FORMATS)
def test_auto_comes_as_near_as_what_is_not_complained_about(name, training):
    made = ad_format(name, NONE, "auto", training)
    assert 1 / FAR_OFF <= made.trained_share <= FAR_OFF
    assert not any("sampled area" in sentence for sentence in made.advice())


def test_an_area_far_from_the_trained_one_is_said_with_the_scale_that_mends_it():
    assert ad_format("1:1", NONE, "1", SDXL).advice() == []
    assert ad_format("1080x1920", NONE, "1", SDXL).advice() == [
        "the sampled area is 1.98 times the 1024x1024 that SDXL was trained on, so things come twice: choose sampling_scale 3/4"
    ]
    assert ad_format("1:1", NONE, "1/4", SD15).advice() == [
        "the sampled area is 0.25 times the 512x512 that SD1.5 was trained on, so it comes coarse: choose sampling_scale 1/2"
    ]
    (unknown,) = ad_format("300x250", NONE, "1").advice()
    assert "that SDXL was trained on (no model is connected: as if it were an SDXL), so it comes coarse" in unknown
    (none_nearer,) = ad_format("custom", (20, 20), "8", SDXL).advice()
    assert none_nearer.endswith("choose a format nearer to it")


def test_sides_beyond_four_to_one_are_said_with_a_canvas_that_can_be_cut():
    assert ad_format("custom", (256, 1024), "1", SDXL).advice()[:-1] == []  # 4:1 itself is fine
    (wide,) = ad_format("980x55", NONE, "auto", SDXL).advice()
    assert wide == (
        "the sides are 17.8:1, beyond the 4:1 that even SDXL was trained on, so things repeat along the ad: make a custom canvas "
        "of 980x248 and cut 980x55 out of the finished ad"
    )
    high, _ = ad_format("custom", (1001, 100), "2", SDXL).advice()
    assert "a custom canvas of 256x1001 and cut 100x1001 out of" in high
