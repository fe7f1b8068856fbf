"""Combinations held out of the training: which, how many, and that no split sees another's."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest

from lab.demo.splits import PAIRS, Split, pairs_of, split_of
from lab.demo.studio.scene import ATTRIBUTES, Scene, sample_scene

COLORS = tuple("abcdefghij")
SHAPES = ("one", "two", "three", "four", "five")


def test_the_splits_share_no_pair_and_leave_none_out():
    pairs = [pair for split in Split for pair in pairs_of(split, COLORS, SHAPES)]

    assert len(pairs) == len(set(pairs)) == 50
    assert set(pairs) == set(product(COLORS, SHAPES))


def test_each_value_is_held_out_equally_often_and_trained_several_times():
    for split, of_color, of_shape in [(Split.TEST, 1, 2), (Split.DEVELOPMENT, 1, 2), (Split.TRAIN, 3, 6)]:
        pairs = pairs_of(split, COLORS, SHAPES)

        assert Counter(color for color, _ in pairs) == dict.fromkeys(COLORS, of_color)
        assert Counter(shape for _, shape in pairs) == dict.fromkeys(SHAPES, of_shape)


def test_the_shorter_list_may_come_first():
    test = pairs_of(Split.TEST, SHAPES, COLORS)

    assert sorted(color for _, color in test) == list(COLORS)
    assert Counter(shape for shape, _ in test) == dict.fromkeys(SHAPES, 2)


def test_the_choice_is_fixed_and_follows_from_the_names_alone():
    values = ATTRIBUTES["product_color"], ATTRIBUTES["shape"]
    backwards = values[0][::-1], values[1][::-1]

    for split in Split:
        assert pairs_of(split, *backwards) == pairs_of(split, *values)
    assert pairs_of(Split.TEST, COLORS, SHAPES)[:4] == (("a", "three"), ("b", "four"), ("c", "two"), ("d", "one"))


def test_a_scene_is_of_the_split_that_both_of_its_pairs_are_in():
    for split in Split:
        assert split_of(_scene(split, split), ATTRIBUTES) is split


def test_a_scene_whose_product_and_wall_are_of_different_splits_is_in_none():
    assert split_of(_scene(Split.TEST, Split.TRAIN), ATTRIBUTES) is None
    assert split_of(_scene(Split.DEVELOPMENT, Split.TEST), ATTRIBUTES) is None


def test_swapped_products_and_backgrounds_stay_in_the_split():
    first, second = _scene(Split.TEST, Split.TEST, 0), _scene(Split.TEST, Split.TEST, 1)

    assert split_of(first.with_product_of(second), ATTRIBUTES) is Split.TEST
    assert split_of(first.with_background_of(second), ATTRIBUTES) is Split.TEST


def test_too_few_values_are_refused():
    with pytest.raises(ValueError, match="10 and 3 values: give each 4 or more"):
        pairs_of(Split.TEST, COLORS, SHAPES[:3])


def _scene(product_split: Split, wall_split: Split, number: int = 0) -> Scene:
    """A scene with the pair of that number of each split."""
    (color, shape), (wall_color, pattern) = (
        pairs_of(split, ATTRIBUTES[first], ATTRIBUTES[second])[number]
        for (first, second), split in zip(PAIRS, (product_split, wall_split), strict=True)
    )
    scene = sample_scene(1)
    product = replace(scene.product, color=color, shape=shape)
    return replace(scene, product=product, wall_color=wall_color, pattern=pattern)
