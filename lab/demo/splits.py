"""Which combinations of attributes the demo trains on, and which it keeps for choosing settings and for the tables.

A product is a colour and a shape, a wall a colour and a pattern. Some of these pairs are never drawn in training: a
model that follows one of them has put together two things that it saw apart. A scene's product and wall are held out
together; swapping products or backgrounds within a split stays in it, since a pair moves as a whole. The choice
follows from the names alone, in whatever order they are listed; a name more or less makes another choice, and what
was trained under the old one has seen some of the new one's held-out pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import Enum
from functools import cache

PAIRS = (("product_color", "shape"), ("wall_color", "pattern"))
MIN_VALUES = 4  # of the shorter list of a pair: each value keeps two of its pairs in the training, or more
SALT = "combinations held out"  # another text is another choice


class Split(Enum):
    """What a scene is for. Scenes of two splits share neither a pair of product attributes nor one of the wall's."""

    TRAIN = "train"
    DEVELOPMENT = "development"  # settings are chosen on these
    TEST = "test"  # figures are reported on these, once the settings stand


@cache
def pairs_of(split: Split, firsts: tuple[str, ...], seconds: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """A split's pairs of values, sorted; draw one to get a scene of the split.

    Of the longer list each value has one pair in TEST and one in DEVELOPMENT; of the shorter one each has its equal
    share of them. All other pairs are TRAIN's.

    Args:
        firsts, seconds: all values of the two attributes, each MIN_VALUES or more.

    Raises:
        ValueError: a list is too short to hold two pairs of each value out and to train on several.
    """
    if min(len(firsts), len(seconds)) < MIN_VALUES:
        raise ValueError(
            f"a pair of attributes has {len(firsts)} and {len(seconds)} values: give each {MIN_VALUES} or more, so "
            "that a value with two pairs held out is still trained in several"
        )
    pairs = [(first, second) for first in firsts for second in seconds]
    return tuple(sorted(pair for pair in pairs if _split_of_pair(*pair, firsts, seconds) is split))


def split_of(scene: object, attributes: Mapping[str, tuple[str, ...]]) -> Split | None:
    """The split that a scene belongs to; None where its product and its wall belong to different ones.

    Args:
        scene: has the attributes named in PAIRS.
        attributes: all values of each attribute.
    """
    splits = set()
    for first, second in PAIRS:
        pair = getattr(scene, first), getattr(scene, second)
        values = attributes[first], attributes[second]
        splits.add(next(split for split in Split if pair in pairs_of(split, *values)))
    return splits.pop() if len(splits) == 1 else None


def _split_of_pair(first: str, second: str, firsts: tuple[str, ...], seconds: tuple[str, ...]) -> Split:
    """By the diagonal the pair lies on, in the table of the shuffled values."""
    row, column = _shuffled(firsts).index(first), _shuffled(seconds).index(second)
    diagonal = (column - row) % min(len(firsts), len(seconds))
    return {0: Split.TEST, 1: Split.DEVELOPMENT}.get(diagonal, Split.TRAIN)


@cache
def _shuffled(values: tuple[str, ...]) -> tuple[str, ...]:
    """In an order that no list, platform or release of Python changes."""
    return tuple(sorted(values, key=lambda value: hashlib.sha256(f"{SALT}: {value}".encode()).digest()))
