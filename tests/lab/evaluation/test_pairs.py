"""The pairs of scenes: held out, alone, apart, the same for the same seed; and scenes of any combination for the judge."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from lab.demo.evaluation.chunk import noise_of
from lab.demo.evaluation.pairs import NAMED, Split, any_scene, sample_pair, seeds_of
from lab.demo.splits import PAIRS, pairs_of, split_of


@pytest.mark.parametrize("split", [Split.DEVELOPMENT, Split.TEST])
def test_pairs_are_of_their_split_and_share_nothing(split):
    for seed in range(12):
        first, second = sample_pair(seed, split)
        assert split_of(first, NAMED) is split_of(second, NAMED) is split
        assert not any(getattr(first, name) == getattr(second, name) for name in NAMED)
        assert first.companion is None
        assert second.companion is None


def test_ads_of_a_pair_stay_in_its_split():
    first, second = sample_pair(3, Split.TEST)
    assert split_of(second.with_product_of(first), NAMED) is Split.TEST


def test_same_seed_same_pair():
    assert sample_pair(5, Split.TEST) == sample_pair(5, Split.TEST)
    assert sample_pair(5, Split.TEST) != sample_pair(6, Split.TEST)
    assert sample_pair(5, Split.TEST) != sample_pair(5, Split.DEVELOPMENT)
    assert any_scene(5) == any_scene(5) != any_scene(6)


def test_what_settings_are_chosen_on_is_no_twin_of_what_figures_are_of():
    """Of one seed the scenes of two splits would be alike in all but names: in colours, light, place and grain."""
    splits = Split.DEVELOPMENT, Split.TEST
    chosen, told = ([scene for seed in seeds_of(split, 20) for scene in sample_pair(seed, split)] for split in splits)
    for name in ("wall_rgb", "light", "place", "phase", "grain", "eye", "zoom"):
        assert not {getattr(scene, name) for scene in chosen} & {getattr(scene, name) for scene in told}, name
    of_chosen, of_told = (noise_of(seeds_of(split, 20)) for split in splits)
    assert not any(torch.equal(one, other) for one in of_chosen for other in of_told)
    first, twin = sample_pair(3, Split.TEST)[0], sample_pair(3, Split.DEVELOPMENT)[0]
    assert (first.light, first.wall_rgb) == (twin.light, twin.wall_rgb)  # or this could not fail


def test_a_scene_for_the_judge_may_mix_what_is_held_out_with_what_is_not():
    scenes = [any_scene(seed) for seed in range(150)]
    splits = Counter(split_of(scene, NAMED) for scene in scenes)
    assert {Split.TRAIN, None} <= set(splits)
    assert {scene.companion for scene in scenes} == {None}
    products = {(scene.product_color, scene.shape) for scene in scenes}
    for split in Split:
        assert len(products & set(pairs_of(split, NAMED["product_color"], NAMED["shape"]))) >= 7
    walls = Counter(
        (scene.wall_color, scene.pattern) in pairs_of(Split.TRAIN, *(NAMED[n] for n in PAIRS[1])) for scene in scenes
    )
    assert 0.5 < walls[True] / 150 < 0.8  # 40 of 60 pairs are trained
