"""The scenes that everything here is measured on: the one module that knows which they are.

Of a scene nothing else is read than what stands here, so that other scenes are another import.
"""

from __future__ import annotations

import random

import torch

from ..captions import caption
from ..scenes import ATTRIBUTES, Rendered, Scene, labels, render, sample_scene
from ..splits import PAIRS, Split, pairs_of, split_of

__all__ = ["NAMED", "Rendered", "Scene", "Split", "any_scene", "caption", "labels", "render", "sample_pair"]

NAMED = {name: ATTRIBUTES[name] for name in ("product_color", "shape", "wall_color", "pattern", "table")}
LARGEST_SEED = 2**31


def any_scene(seed: int) -> Scene:
    """A scene of any combination, held out or not: what a judge must know that reads all of them.

    Product and wall are drawn apart, each from a split as often as the split has pairs.
    """
    draw = random.Random(seed)
    product, wall = (
        _scene(draw.randrange(LARGEST_SEED), draw.choices(list(Split), [_count(split, names) for split in Split])[0])
        for names in PAIRS
    )
    return product.with_background_of(wall)


def _count(split: Split, names: tuple[str, str]) -> int:
    return len(pairs_of(split, ATTRIBUTES[names[0]], ATTRIBUTES[names[1]]))


def sample_pair(seed: int, split: Split) -> tuple[Scene, Scene]:
    """Two scenes of a split that share no product colour, shape, wall colour, pattern or table."""
    generator = torch.Generator().manual_seed(seed)
    first = _scene(_next_seed(generator), split)
    while True:
        second = _scene(_next_seed(generator), split)
        if not any(getattr(first, name) == getattr(second, name) for name in NAMED):
            return first, second


def _scene(seed: int, split: Split) -> Scene:
    """The first scene of the split among those that a seed leads to."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        scene = sample_scene(_next_seed(generator))
        if split_of(scene, ATTRIBUTES) is split:
            return scene


def _next_seed(generator: torch.Generator) -> int:
    return int(torch.randint(LARGEST_SEED, (), generator=generator))
