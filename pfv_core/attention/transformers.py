"""The transformers of a U-Net, which share a weight among their blocks: their names, their order, and the kinds of U-Nets."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from .unet_layout import ONE_LEVEL, SD15, SDXL, AttentionLayer, Side


class Transformer(NamedTuple):
    """A transformer of a U-Net, or several: None is any. See `AttentionLayer`."""

    side: Side | None = None
    level: int | None = None
    ordinal: int | None = None

    def __str__(self) -> str:
        """As a table has it: `input 2.1`, `output 1`, `middle`, `all`."""
        side = "all" if self.side is None else self.side.value
        if self.level is None or self.side is Side.MIDDLE:
            return side
        return f"{side} {self.level}" if self.ordinal is None else f"{side} {self.level}.{self.ordinal}"

    @property
    def named(self) -> int:
        """How exactly it says which: the more, the more exactly."""
        return sum(part is not None for part in self)

    def holds(self, other: Transformer) -> bool:
        """Whether a single transformer is this one, or one of these."""
        return all(part is None or part == its for part, its in zip(self, other, strict=True))


class Family(str, Enum):
    """Kinds of U-Nets whose places mean different things, told by the levels that have transformers.

    SD15 has some at level 0, SDXL and what is distilled from it at 2 and none at 0, SMALL at level 1 alone: the demo's.
    """

    SDXL = "SDXL"
    SD15 = "SD1.5"
    SMALL = "one level"


LAYERS = {Family.SDXL: SDXL, Family.SD15: SD15, Family.SMALL: ONE_LEVEL}


def transformers(layers: Iterable[AttentionLayer]) -> tuple[Transformer, ...]:
    """Those of a U-Net in running order, from its cross-attentions in file order: input, output, middle."""
    found = dict.fromkeys(transformer_of(layer) for layer in layers)
    return tuple(one for side in (Side.INPUT, Side.MIDDLE, Side.OUTPUT) for one in found if one.side is side)


def transformer_of(layer: AttentionLayer) -> Transformer:
    """The transformer that a cross-attention is part of."""
    return Transformer(layer.side, layer.level, layer.ordinal)


def family_of(there: Iterable[Transformer]) -> Family:
    """Which kind of U-Net has these."""
    levels = {one.level for one in there}
    if 0 in levels:
        return Family.SD15
    return Family.SDXL if 2 in levels else Family.SMALL


def place_of(name: str) -> Transformer:
    """The text of a table's place, such as `input 2.1` -> the place.

    Raises:
        ValueError: a name that is none.
    """
    side, _, number = name.partition(" ")
    sides = {"all": None, **{one.value: one for one in Side}}
    level, dot, ordinal = number.partition(".")
    read = [part for part in (level, ordinal) if part]
    wrong = side not in sides or not all(part.isdecimal() for part in read) or (bool(dot) and len(read) < 2)
    if wrong or (read and sides[side] in (None, Side.MIDDLE)):
        raise ValueError(
            f"layer_table has a weight for {name!r}, expected all, input, middle or output, or input or output with a level "
            "(output 1) or with a level and a transformer of it (input 2.1)"
        )
    return Transformer(sides[side], *map(int, read))
