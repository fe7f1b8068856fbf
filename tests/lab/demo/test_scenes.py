"""Every truth that a scene claims is what its picture shows."""

from __future__ import annotations

import pytest
import torch

from lab.demo.scene_data import TRAIN_SEED, scene_data
from lab.demo.scenes import ATTRIBUTES, PATTERNS, SHAPES, labels, render, sample_pair, sample_scene

SCENES = [sample_scene(seed) for seed in range(48)]


@pytest.fixture(scope="module")
def drawn():
    return render(SCENES, 64)


def test_same_seed_same_scene_and_same_bits(drawn):
    assert [sample_scene(seed) for seed in range(48)] == SCENES
    assert torch.equal(render(SCENES[:5], 64).image, drawn.image[:5])


def test_every_choice_occurs():
    scenes = [sample_scene(seed) for seed in range(400)]
    for name, values in ATTRIBUTES.items():
        assert {getattr(scene, name) for scene in scenes} == set(values)


def test_the_parts_cover_every_pixel_once(drawn):
    torch.testing.assert_close(drawn.product + drawn.wall + drawn.table, torch.ones(48, 64, 64))
    for part in (drawn.product, drawn.wall, drawn.table, drawn.depth, drawn.image):
        assert part.min() >= 0
        assert part.max() <= 1


def test_product_mask_is_where_the_product_is(drawn):
    """Inside the mask the median colour is the product's, above the table and outside it no pixel depends on it."""
    empty = render(SCENES, 64, product=False)
    assert not empty.product.any()
    changed = (drawn.image != empty.image).any(-1)
    wall_only = drawn.wall == 1
    assert not (changed & wall_only).any()
    for scene, image, mask in zip(SCENES, drawn.image, drawn.product, strict=True):
        inside = image[mask == 1]
        assert len(inside) > 64  # at least 1.5 % of the picture
        assert (inside.median(0).values - torch.tensor(scene.product_rgb)).abs().max() < 0.2


def test_wall_is_the_wall_s_colour(drawn):
    plain = [i for i, scene in enumerate(SCENES) if scene.pattern == "plain"]
    assert plain
    for i in plain:
        color = drawn.image[i][drawn.wall[i] == 1].mean(0)
        assert (color - torch.tensor(SCENES[i].wall_rgb)).abs().max() < 0.08


def test_patterns_and_shapes_differ():
    base = sample_scene(7)
    from dataclasses import replace

    walls = render([replace(base, pattern=pattern) for pattern in PATTERNS], 64, product=False).image
    products = render([replace(base, shape=shape) for shape in SHAPES], 64).product
    for pictures in (walls, products):
        for i in range(len(pictures)):
            for j in range(i):
                assert (pictures[i] - pictures[j]).abs().mean() > 0.01, (i, j)


def test_near_is_bright(drawn):
    product = drawn.product == 1
    assert drawn.depth[product].min() > drawn.depth[drawn.wall == 1].max()
    bottom, horizon = drawn.depth[:, -1, 0], drawn.depth[:, 45, 0]
    assert (bottom > horizon).all()


def test_a_product_moves_into_another_scene():
    first, second = sample_pair(3)
    moved = second.with_product_of(first)
    assert moved.product_rgb == first.product_rgb
    assert moved.wall_rgb == second.wall_rgb
    assert first.with_background_of(second) == moved
    own, other = render([moved], 64), render([first], 64)
    assert torch.equal(own.product, other.product)


def test_pairs_share_nothing():
    for seed in range(40):
        first, second = sample_pair(seed)
        assert all(getattr(first, name) != getattr(second, name) for name in ATTRIBUTES)
    assert sample_pair(5) == sample_pair(5)


def test_labels_are_indices_of_the_names():
    found = labels(SCENES)
    assert all(
        ATTRIBUTES[name][index] == getattr(scene, name)
        for name in ATTRIBUTES
        for scene, index in zip(SCENES, found[name].tolist(), strict=True)
    )


def test_kept_scenes_are_the_drawn_ones_to_a_byte(tmp_path):
    data = scene_data(tmp_path, 70, 32)  # more than one chunk
    assert data.scenes[69] == sample_scene(TRAIN_SEED + 69)
    fresh = render(data.scenes[60:], 32)
    assert (data.images(range(60, 70)) - fresh.image.permute(0, 3, 1, 2)).abs().max() <= 0.5 / 255 + 1e-6
    assert (data.products(range(60, 70)) - fresh.product).abs().max() <= 0.5 / 255 + 1e-6
    assert (data.depths([69])[0, 2] - fresh.depth[9]).abs().max() <= 0.5 / 255 + 1e-6
    again = scene_data(tmp_path, 70, 32)
    assert torch.equal(again.images([3]), data.images([3]))
