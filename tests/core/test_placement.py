"""placement: where a product stands and how large."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from pfv_mepa.pfv_core.ad.placement import Box, Layout, bounding_box, plan_placement

from .test_canvas import PLAIN, SIZE, photo_mask


def placed_at(layout: Layout, size: tuple[int, int] = SIZE) -> list[int]:
    return plan_placement(photo_mask()[0], size, layout).target.as_list()


def test_the_product_is_its_masks_bounding_box():
    mask = torch.zeros(6, 9, dtype=torch.bool)
    mask[2, 7] = mask[4, 3] = True
    box = bounding_box(mask)
    assert (box.top, box.left, box.height, box.width, box.bottom, box.right) == (2, 3, 3, 5, 5, 8)


@pytest.mark.parametrize(
    ("scale_by", "share", "expected"),
    [  # of a product 20x40 with 800 pixels on a canvas of 300x200
        ("fit", 1.0, (100, 200)),
        ("fit", 0.5, (50, 100)),
        ("height", 0.4, (40, 80)),
        ("width", 0.1, (30, 60)),
        ("area", 0.12, (60, 120)),
        ("original", 0.3, (20, 40)),
    ],
)
def test_share_is_of_what_scale_by_says(scale_by, share, expected):
    left, top, width, height = placed_at(replace(PLAIN, scale_by=scale_by, share=share))
    assert (width, height) == expected
    assert (left, top) == ((300 - width) // 2, (200 - height) // 2)


def test_area_counts_the_products_pixels_not_its_box():
    mask = photo_mask()[0]
    mask[10:50:2, 30:50] = False
    mask[10, 30] = mask[49, 49] = True
    target = plan_placement(mask, SIZE, replace(PLAIN, scale_by="area", share=0.05)).target
    assert target.height / 40 == pytest.approx(math.sqrt(0.05 * 60000 / int(mask.sum())), abs=0.02)


@pytest.mark.parametrize(
    ("position", "corner"),
    [
        ("center", (140, 80)),
        ("top", (140, 0)),
        ("bottom", (140, 160)),
        ("left", (0, 80)),
        ("right", (280, 80)),
        ("bottom_left", (0, 160)),
        ("bottom_right", (280, 160)),
    ],
)
def test_seven_positions(position, corner):
    layout = replace(PLAIN, position=position, scale_by="original")
    assert placed_at(layout) == [*corner, 20, 40]
    with_margin = placed_at(replace(layout, margin=0.05))  # 5 % of the shorter side
    inwards = [10 * (value == 0) - 10 * (value == end) for value, end in zip(corner, (280, 160), strict=True)]
    assert with_margin[:2] == [value + step for value, step in zip(corner, inwards, strict=True)]


@pytest.mark.parametrize(
    ("sides", "position", "expected"),
    [
        ((0.1, 0, 0, 0), "left", [30, 80]),
        ((0, 0.2, 0, 0), "top", [140, 40]),
        ((0, 0, 0.3, 0), "right", [190, 80]),
        ((0, 0, 0, 0.4), "bottom", [140, 80]),
        ((0.2, 0, 0, 0), "center", [170, 80]),
        ((0, 0, 0, 0.2), "center", [140, 60]),
    ],
)
def test_a_covered_side_moves_the_product_out_of_it(sides, position, expected):
    layout = replace(PLAIN, position=position, scale_by="original", safe_area=sides)
    assert placed_at(layout)[:2] == expected
    assert PLAIN.safe_box(SIZE) == Box(0, 0, 200, 300)


def test_a_margin_is_a_share_of_the_shorter_side():
    assert Layout(margin=0.1).safe_box((300, 200)) == Box(20, 20, 260, 160)
    assert Layout(margin=0.1).safe_box((200, 300)) == Box(20, 20, 160, 260)


def test_fit_fills_the_safe_area_alone():
    layout = Layout(scale_by="fit", share=1.0, margin=0.05, safe_area=(0, 0.1, 0, 0.2))
    assert placed_at(layout) == [150 - 30, 20 + 10, 60, 120]


@pytest.mark.parametrize(("x", "y", "corner"), [(0.5, 0.5, (140, 80)), (0.1, 0.2, (20, 20)), (0.9, 0.9, (260, 160))])
def test_numbers_say_where_the_centre_is_and_ignore_margins(x, y, corner):
    layout = Layout("numbers", "original", margin=0.2, x=x, y=y)
    assert tuple(placed_at(layout)[:2]) == corner


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            replace(PLAIN, scale_by="width", share=0.9),
            r"the product would be 270x540 pixels on a canvas of 300x200 \(width x height\): lower share, or .* fit",
        ),
        (
            Layout(scale_by="height", share=0.95),
            r"would take columns 102\.\.197 and rows 5\.\.195, allowed are 10\.\.290 and 10\.\.190: lower share or margin",
        ),
        (
            Layout("numbers", "original", x=0.02, y=0.5),
            r"would take columns -4\.\.16 and rows 80\.\.120, allowed are 0\.\.300 and 0\.\.200",
        ),
        (replace(PLAIN, share=1.3), "the product would be 130x260 pixels on a canvas of 300x200"),
        (
            Layout(margin=0.2, safe_area=(0, 0.4, 0, 0.3)),
            r"margin 0.2 and the safe area \(0, 0.4, 0, 0.3\) .* leave nothing of a canvas of 300x200 pixels: lower them",
        ),
    ],
)
def test_a_product_that_does_not_fit_is_refused_with_its_numbers(layout, message):
    with pytest.raises(ValueError, match=message):
        plan_placement(photo_mask()[0], SIZE, layout)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"position": "middle"}, "position is 'middle', expected one of"),
        ({"scale_by": "depth"}, "scale_by is 'depth', expected one of"),
        ({"share": 0.0}, "share is 0, expected more than 0"),
        ({"share": float("nan")}, "share is nan"),
        ({"x": float("nan")}, "x is nan, expected a share of the canvas"),
        ({"y": float("inf")}, "y is inf, expected a share of the canvas"),
        ({"margin": -0.1}, "margin is -0.1, expected 0 to below 1"),
        ({"safe_area": (0, 0, 1.0, 0)}, "safe_right is 1, expected 0 to below 1"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Layout(**options)


@pytest.mark.parametrize("turned", [False, True])
def test_a_photo_that_is_resized_along_its_longer_side_alone_has_a_scale_of_its_own(turned):
    mask, size = torch.zeros(420, 1620, dtype=torch.bool), (800, 1602)
    mask[10:410, 10:1610] = True
    placement = plan_placement(mask.T if turned else mask, size[::-1] if turned else size, replace(PLAIN, margin=0.0))
    assert sorted((placement.target.height, placement.target.width)) == [400, 1602]
    assert placement.resized
    assert placement.scale == 1602 / 1600
