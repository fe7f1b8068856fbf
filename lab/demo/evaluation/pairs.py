"""The scenes that the demo's models are measured on: the one module that knows which they are.

Of a scene nothing else is read than what stands here, so that other scenes are another import; what measures a neighbour's
method reads labels and companions too, and knows the studio itself. In all of these scenes the product stands alone, and no seed
of theirs is one of the training's.
"""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..captions import caption
from ..splits import PAIRS, Split, pairs_of
from ..studio.render import Rendered, render
from ..studio.scene import ATTRIBUTES as NAMED
from ..studio.scene import HELD_OUT_SEEDS, Scene, labels, sample_pair, sample_scene

__all__ = [
    "NAMED",
    "PAIRS",
    "Rendered",
    "Scene",
    "Split",
    "any_scene",
    "caption",
    "grouped",
    "labels",
    "product_of",
    "render",
    "sample_pair",
    "seeds_of",
    "wall_of",
]


FIRST_SEEDS = {Split.TEST: 0, Split.DEVELOPMENT: 100_000}
"""Of a split's scenes. Those of one seed are alike in two splits but for the names that each may have, and begin with the same
noise: what is chosen on the ones would be chosen on the others."""


def seeds_of(split: Split, count: int) -> range:
    """Of the first scenes, or pairs, of a split."""
    return range(FIRST_SEEDS[split], FIRST_SEEDS[split] + count)


def product_of(scene: Scene) -> Hashable:
    """What a scene's product has in common with those of others: of its colour and shape there are few combinations."""
    return tuple(getattr(scene, name) for name in PAIRS[0])


def wall_of(scene: Scene) -> Hashable:
    """The same of its wall."""
    return tuple(getattr(scene, name) for name in PAIRS[1])


def grouped(things: Sequence[Hashable]) -> NDArray[np.int_]:
    """A number for each scene, equal where the thing is the same: a group as `lab.evaluation.statistics` reads it."""
    numbers = {thing: number for number, thing in enumerate(dict.fromkeys(things))}
    return np.array([numbers[thing] for thing in things])


def any_scene(seed: int) -> Scene:
    """A scene of any combination, held out or not: what a judge must know that reads all of them.

    Product and wall are drawn apart, each from a split as often as the split has pairs.
    """
    draw = random.Random(seed)
    product, wall = (
        sample_scene(
            draw.randrange(HELD_OUT_SEEDS),
            draw.choices(list(Split), [_count(split, names) for split in Split])[0],
            companion=False,
        )
        for names in PAIRS
    )
    return product.with_background_of(wall)


def _count(split: Split, names: tuple[str, str]) -> int:
    return len(pairs_of(split, NAMED[names[0]], NAMED[names[1]]))
