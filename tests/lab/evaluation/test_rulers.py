"""The rulers laid on true pictures: marks, overlaps, companions, leans and looks are read as they are."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lab.demo.evaluation.rulers import (
    body_color_error,
    companion_box,
    companion_mask,
    label_views,
    nearest,
    portrait,
    product_overlap,
    read_mark,
    slope,
    top_row,
)
from lab.demo.studio.beside import companion_rows
from lab.demo.studio.render import render, render_alone
from lab.demo.studio.scene import COMPANION_LOOKS, MARKS, sample_scene
from pfv_core.region.distance import grow

SIZE, LARGE = 96, 192


@pytest.fixture(scope="module")
def scene():
    """A figure between product and border, before a plain wall that it stands out from."""
    found = next(s for s in map(sample_scene, range(99)) if s.companion and abs(s.companion.place[0]) < 0.75)
    companion = replace(found.companion, kind="figure", look="black", rgb=COMPANION_LOOKS["figure"]["black"], lean=0.0)
    return replace(found, wall_color="cream", wall_rgb=(0.82, 0.76, 0.64), pattern="plain", companion=companion)


def first(image):
    return image[0].permute(2, 0, 1)


@pytest.fixture(scope="module")
def true(scene):
    return render([scene], SIZE)


@pytest.fixture(scope="module")
def empty(scene):
    return render([scene], SIZE, product=False).image.permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def wall(scene):
    alone = render([scene.alone()], SIZE)
    return (alone.wall[0] == 1) & (F.max_pool2d(alone.product, 5, 1, 2)[0] == 0)


@pytest.fixture(scope="module")
def box(scene):
    """Of companions as high and leaning as any here."""
    asked = [with_companion(scene, height=1.3, lean=lean) for lean in (-0.2, 0.0, 0.2)]
    return grow(companion_box(asked, SIZE)[None], 2)[0]


def with_companion(scene, **changes):
    return replace(scene, companion=replace(scene.companion, **changes))


def test_a_mark_is_read_at_any_turn_and_through_blur(scene):
    views = label_views(scene, LARGE)
    shown = [
        replace(scene.turned(turn), product=replace(scene.product, turn=turn, mark=mark))
        for mark, turn in zip(MARKS, (-0.4, -0.2, 0.0, 0.2, 0.4), strict=True)
    ]
    images = render_alone(shown, LARGE, 0.5).permute(0, 3, 1, 2)
    soft = F.interpolate(F.avg_pool2d(images, 2), LARGE, mode="bilinear")
    for pictures in (images, soft):
        assert [read_mark(image, views)[0] for image in pictures] == list(range(len(MARKS)))
    _, fits = read_mark(torch.rand(3, LARGE, LARGE, generator=torch.Generator().manual_seed(0)), views)
    assert fits.max() < 0.3


def test_overlap_is_whole_on_the_truth_none_without_product_and_less_where_it_is_moved(true, empty):
    picture = true.image.permute(0, 3, 1, 2)
    whole, rim = product_overlap(picture, true, empty)
    assert whole > 0.93
    assert rim == 0
    none, far = product_overlap(empty, true, empty)
    assert none == 0
    assert far > 0.2
    covered = true.product[0] > 0
    moved = torch.where(covered.roll(4, 1), picture.roll(4, 3), empty)
    assert 0.3 < float(product_overlap(moved, true, empty)[0]) < float(whole) - 0.1


def test_the_body_s_colour_is_compared_beside_the_label(true):
    picture = true.image.permute(0, 3, 1, 2)
    assert body_color_error(picture, true) < 1e-6
    on_label = torch.where(true.label[:, None] > 0, 0.0, picture)
    assert body_color_error(on_label, true) < 1e-6
    assert body_color_error(picture * 0.5, true) > 0.05


def test_a_companion_is_found_in_its_rows_and_nothing_where_there_is_none(scene, true, wall, box):
    for height in (0.75, 1.3):
        asked = with_companion(scene, height=height)
        mask = companion_mask(first(render([asked], SIZE).image), wall, box)
        assert abs(top_row(mask) - companion_rows(asked, SIZE)[0]) <= 2
    assert companion_mask(first(render([scene.alone()], SIZE).image), wall, box) is None
    assert not (companion_mask(first(true.image), wall, box) & ~wall).any()


def test_what_stands_elsewhere_is_no_companion(scene, true, wall, box):
    """Another product before the wall, where no companion is asked: alone it is none, beside one it is not taken for it."""
    elsewhere = torch.zeros_like(wall)
    elsewhere[SIZE // 3 : SIZE // 2, : SIZE // 6] = True
    elsewhere = elsewhere.flip(1) if box[:, : SIZE // 2].any() else elsewhere
    elsewhere &= wall & ~box
    assert elsewhere.sum() > 100
    alone, beside = (torch.where(elsewhere, 0.1, first(render([one], SIZE).image)) for one in (scene.alone(), scene))
    assert companion_mask(alone, wall, torch.ones_like(box)) is not None
    assert companion_mask(alone, wall, box) is None
    assert (companion_mask(beside, wall, box) == companion_mask(first(true.image), wall, box)).float().mean() > 0.999


def test_a_lean_and_a_look_are_read(scene, wall, box):
    looks = [with_companion(scene, lean=lean) for lean in (-0.2, 0.2)]
    looks += [with_companion(scene, kind="plant", look="red", rgb=COMPANION_LOOKS["plant"]["red"])]
    images = render(looks, SIZE).image.permute(0, 3, 1, 2)
    masks = [companion_mask(image, wall, box) for image in images]
    assert slope(masks[0]) < slope(masks[1]) - 0.15
    known = [None, *(portrait(image, mask) for image, mask in zip(images[1:], masks[1:], strict=True))]
    assert nearest(images[0], masks[0], known) == 1  # the same figure, leaning the other way
    assert nearest(images[2], masks[2], known) == 2
    assert nearest(images[0], None, known) is None


def test_a_slope_is_columns_for_a_row():
    mask = torch.zeros(20, 40, dtype=torch.bool)
    for row in range(20):
        mask[row, 30 - row : 33 - row] = True
    assert slope(mask) == pytest.approx(1.0)
    assert slope(mask.flip(1)) == pytest.approx(-1.0)
    assert torch.isnan(torch.tensor(slope(mask[:1])))
