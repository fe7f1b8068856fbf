"""Rendered scenes: every truth belongs to its picture, and what is not changed stays to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lab.demo.splits import Split, split_of
from lab.demo.studio.render import render
from lab.demo.studio.scene import (
    ATTRIBUTES,
    COMPANION_KINDS,
    COMPANION_LOOKS,
    MARKS,
    PRODUCT_COLORS,
    WALL_COLORS,
    labels,
    sample_pair,
    sample_scene,
    second_tone,
)
from lab.demo.studio.shapes import COMPANIONS, HALF_WIDTHS, HEIGHTS, PRODUCTS

SIZE = 48
SHAPES = PRODUCTS | COMPANIONS


def first_scene(wanted, **arguments):
    return next(scene for scene in (sample_scene(seed, **arguments) for seed in range(500)) if wanted(scene))


@pytest.mark.parametrize("name", SHAPES)
def test_no_distance_is_longer_than_the_way(name):
    """Two points' distances differ by no more than the points do: a ray that marches by them jumps over nothing."""
    draw = torch.Generator().manual_seed(1)
    start = torch.rand(4000, 3, generator=draw) * torch.tensor([1.4, 1.6, 1.4]) - torch.tensor([0.7, 0.2, 0.7])
    step = torch.randn(4000, 3, generator=draw) * 0.02
    distance = SHAPES[name]
    rises = (distance(start + step) - distance(start)).abs() / step.norm(dim=1)
    assert rises.max() < 1.02


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_stand_on_the_ground(name):
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-0.6, 0.6, 25)] * 2, indexing="ij"), -1).view(-1, 2)
    below = torch.stack([grid[:, 0], torch.full((625,), -0.02), grid[:, 1]], 1)
    above = torch.stack([grid[:, 0], torch.full((625,), 0.02), grid[:, 1]], 1)
    assert (SHAPES[name](below) > 0).all()
    assert (SHAPES[name](above) < 0).any()


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_as_high_and_wide_as_is_written(name):
    axis = torch.linspace(0, 1.5, 1501)
    column = torch.stack([torch.zeros_like(axis), axis, torch.zeros_like(axis)], 1)
    assert axis[PRODUCTS[name](column) < 0].max() == pytest.approx(HEIGHTS[name], abs=0.03)
    grid = torch.stack(torch.meshgrid(torch.linspace(0, 0.6, 241), torch.linspace(0, 1.2, 121), indexing="ij"), -1)
    points = torch.cat([grid.view(-1, 2), torch.zeros(241 * 121, 1)], 1)
    assert points[PRODUCTS[name](points) < 0][:, 0].max() == pytest.approx(HALF_WIDTHS[name], abs=0.02)


def test_coverages_share_every_pixel():
    drawn = render([sample_scene(seed) for seed in range(3)], SIZE)
    total = drawn.product + drawn.companion + drawn.wall + drawn.table
    assert torch.allclose(total, torch.ones_like(total), atol=1e-6)
    for plane in (drawn.image, drawn.depth, drawn.label):
        assert 0 <= plane.min() <= plane.max() <= 1
    assert drawn.image.shape == (3, SIZE, SIZE, 3)


def test_the_label_is_part_of_the_product():
    drawn = render([sample_scene(seed) for seed in range(4)], SIZE)
    assert (drawn.label <= drawn.product + 1e-6).all()
    assert (drawn.label.sum((1, 2)) > 10).all()


def test_a_scene_looks_the_same_in_any_company():
    scenes = [sample_scene(seed) for seed in (3, 4)]
    assert torch.equal(render(scenes, SIZE).image[1], render(scenes[1:], SIZE).image[0])


def test_half_the_size_is_the_same_picture():
    scene = sample_scene(5)
    large, small = render([scene], 2 * SIZE).image[0], render([scene], SIZE).image[0]
    halved = large.view(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    assert (halved - small).abs().mean() < 0.02
    assert (halved - small.flip(1)).abs().mean() > 0.05


def test_without_the_product_only_what_it_touches_changes():
    scene = first_scene(lambda scene: scene.companion is None and scene.light.side == 1)
    whole, empty = render([scene], SIZE), render([scene], SIZE, product=False)
    assert empty.product.sum() == 0
    changed = (whole.image - empty.image).abs().amax(-1)[0] > 0
    assert changed[whole.product[0] > 0.5].all()
    assert not changed[: SIZE // 8].any()  # the wall's top, where neither product nor shadow nor an edge is
    assert torch.equal(whole.image[0, : SIZE // 8], empty.image[0, : SIZE // 8])


def test_without_the_product_nothing_shows_its_colour():
    """Neither its own place nor the companion's mirror image on a polished table."""
    scene = first_scene(lambda scene: scene.companion is not None and scene.companion.kind == "plant")
    scene = replace(scene, table="marble")
    other = replace(scene, product=replace(scene.product, rgb=(0.0, 0.9, 0.9), cap=(0.9, 0.0, 0.0)))
    empty = render([scene], SIZE, product=False)
    assert torch.equal(empty.image, render([other], SIZE, product=False).image)
    assert not torch.equal(render([scene], SIZE).image, render([other], SIZE).image)


def test_another_product_leaves_the_wall_to_the_bit():
    first, second = sample_pair(0)
    swapped = first.with_product_of(second)
    assert swapped.product == second.product
    assert replace(swapped, product=first.product) == first
    before, after = render([first], SIZE), render([swapped], SIZE)
    assert torch.equal(before.image[0, : SIZE // 8], after.image[0, : SIZE // 8])
    assert not torch.equal(before.image, after.image)


@pytest.mark.parametrize("side", [-1, 1])
def test_the_shadow_falls_away_from_the_light(side):
    scene = first_scene(lambda scene: scene.companion is None and scene.light.side == side, split=Split.TRAIN)
    scene = replace(scene, place=(0.0, 0.0), table="marble")
    whole, empty = render([scene], SIZE), render([scene], SIZE, product=False)
    darker = ((empty.image - whole.image).mean(-1) * whole.table)[0].clamp(min=0)
    left, right = darker[:, : SIZE // 2].sum(), darker[:, SIZE // 2 :].sum()
    assert (left > 2 * right) if side == 1 else (right > 2 * left)


def test_depth_is_near_where_things_are_near():
    scene = sample_scene(7).alone()
    drawn = render([scene], SIZE)
    depth, product = drawn.depth[0], drawn.product[0] == 1
    assert depth[-1].mean() > 0.9
    assert depth[0].mean() < 0.25
    assert depth[product].mean() > depth[drawn.wall[0] == 1].max()
    column = drawn.table[0, :, 0] == 1
    assert (depth[:, 0][column].diff() > 0).all()  # the ground nears row by row


def test_a_product_that_is_turned_shows_its_label_elsewhere():
    scene = replace(sample_scene(8).alone(), place=(0.0, 0.0))

    def middle(turn):
        label = render([scene.turned(turn)], SIZE).label[0]
        return float((label.sum(0) * torch.arange(SIZE)).sum() / label.sum())

    assert middle(-0.6) > middle(0.0) + 1 > middle(0.6) + 2


def test_a_mirrored_scene_is_its_mirror_image_in_what_stands_and_how_it_is_lit():
    scene = first_scene(lambda scene: scene.companion is not None and scene.companion.kind == "lamp")
    picture, mirrored = render([scene], SIZE), render([scene.mirrored()], SIZE)
    for name in ("product", "companion", "depth"):
        assert (getattr(picture, name).flip(2) - getattr(mirrored, name)).abs().mean() < 0.01
    assert scene.mirrored().mirrored() == scene


@pytest.mark.parametrize("kind", COMPANION_KINDS)
def test_a_companion_is_seen_and_can_be_left_out(kind):
    scene = first_scene(lambda scene: scene.companion is not None and scene.companion.kind == kind)
    assert render([scene], SIZE).companion.sum() > 20
    assert render([scene.alone()], SIZE).companion.sum() == 0


@pytest.mark.parametrize("split", Split)
def test_every_scene_belongs_to_the_split_it_was_drawn_for(split):
    assert {split_of(sample_scene(seed, split), ATTRIBUTES) for seed in range(200)} == {split}


def test_pairs_share_nothing_that_has_a_name():
    for seed in range(50):
        first, second = sample_pair(seed)
        assert not any(getattr(first, name) == getattr(second, name) for name in ATTRIBUTES)
        assert first.companion is None
        assert second.companion is None


def test_every_choice_occurs():
    scenes = [sample_scene(seed) for seed in range(400)]
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in scenes} == set(values)
    assert {scene.product.mark for scene in scenes} == set(MARKS)
    companions = {(scene.companion.kind, scene.companion.look) for scene in scenes if scene.companion is not None}
    assert companions == {(kind, look) for kind, looks in COMPANION_LOOKS.items() for look in looks}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_whatever_has_another_name_looks_otherwise(name):
    base = sample_scene(7, companion=False)
    match name:
        case "product_color":
            scenes = [replace(base, product=replace(base.product, rgb=rgb)) for rgb in PRODUCT_COLORS.values()]
        case "shape":
            scenes = [replace(base, product=replace(base.product, shape=shape)) for shape in ATTRIBUTES[name]]
        case "wall_color":
            scenes = [replace(base, wall_rgb=rgb, second_rgb=second_tone(rgb)) for rgb in WALL_COLORS.values()]
        case _:
            scenes = [replace(base, **{name: value}) for value in ATTRIBUTES[name]]
    pictures = render(scenes, 24).image
    for number, picture in enumerate(pictures):
        for other in pictures[:number]:
            assert (picture - other).abs().mean() > 0.005


def test_a_seed_is_a_scene():
    assert sample_scene(12) == sample_scene(12)
    assert sample_scene(12) != sample_scene(13)


def test_labels_are_indices_of_the_names():
    scenes = [sample_scene(seed) for seed in range(5)]
    read = labels(scenes)
    assert set(read) == set(ATTRIBUTES)
    for number, scene in enumerate(scenes):
        assert all(ATTRIBUTES[name][read[name][number]] == getattr(scene, name) for name in ATTRIBUTES)


def test_gloss_warmth_and_camera_are_seen():
    scene = first_scene(lambda scene: scene.companion is None and scene.pattern == "plain" and scene.table == "linen")
    matt, glossy = (replace(scene, product=replace(scene.product, gloss=gloss)) for gloss in (0.1, 1.0))
    cool, warm = (replace(scene, light=replace(scene.light, warmth=warmth)) for warmth in (-1.0, 1.0))
    far, near = (replace(scene, zoom=scene.zoom * by) for by in (1.0, 1.2))
    low, high = (replace(scene, eye=scene.eye + by) for by in (0.0, 0.3))
    drawn = render([matt, glossy, cool, warm, far, near, low, high], SIZE)
    highlight = (drawn.image[1] - drawn.image[0]).mean(-1) * (drawn.product[0] > 0.9) * (drawn.label[0] == 0)
    assert highlight.max() > 0.1
    walls = (drawn.image * (drawn.wall > 0.9)[..., None]).sum((1, 2)) / (drawn.wall > 0.9).sum((1, 2))[:, None]
    red_for_blue = walls[:, 0] / walls[:, 2]
    assert red_for_blue[3] > 1.1 * red_for_blue[2]
    assert drawn.product[5].sum() > 1.3 * drawn.product[4].sum()
    wall_share = (drawn.wall.sum((1, 2)) / SIZE**2)[6:]
    assert wall_share[1] < wall_share[0] - 0.01  # from higher up more of the table is seen
