"""A weight for each transformer of a U-Net: by name, by a curve over the transformers, or by a table of places.

A table or curve knows no model: its places are looked up in the layers of the one that it is applied to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from ..choices import parse_choice
from .transformers import LAYERS, Family, Transformer, family_of, place_of, transformers
from .unet_layout import AttentionLayer
from .weight_table import check_table, check_weight, read_entries

EXAMPLE = "all: 0, output 2.1: 1"
LEAST = 0.05  # of the eased curves, which never go down to 0
WEAK = 0.2  # of what is weakened


class Layers(str, Enum):
    """Weights over the layers that have a name; CUSTOM is a table.

    LOOK takes the colours of a reference and leaves its patterns, LAYOUT the other way round. Those from
    EASE_IN on are called so, and are the same numbers, in the IP-Adapter pack that most people use.
    """

    ALL = "all"
    LOOK = "look"
    LAYOUT = "layout"
    EASE_IN = "ease_in"
    EASE_OUT = "ease_out"
    EASE_IN_OUT = "ease_in_out"
    REVERSE_IN_OUT = "reverse_in_out"
    WEAK_INPUT = "weak_input"
    WEAK_MIDDLE = "weak_middle"
    WEAK_OUTPUT = "weak_output"
    STRONG_MIDDLE = "strong_middle"
    STYLE_TRANSFER = "style_transfer"
    COMPOSITION = "composition"
    STRONG_STYLE_TRANSFER = "strong_style_transfer"
    STYLE_AND_COMPOSITION = "style_and_composition"
    CUSTOM = "custom"


Weights = dict[Transformer, float]


@dataclass(frozen=True)
class LayerWeights:
    """Which weight each transformer has.

    Attributes:
        choice: a name.
        table: of CUSTOM, (place, weight). The place that says more exactly which counts; what none holds has weight 1.

    Raises:
        ValueError: an unknown name, a table where there should be none or the other way round, a place that is named twice, a
            weight that is negative or not finite.
    """

    choice: Layers = Layers.ALL
    table: tuple[tuple[Transformer, float], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "choice", parse_choice(Layers, self.choice, "layers"))
        check_table(self.choice is Layers.CUSTOM, bool(self.table), "layers", self.choice.value, EXAMPLE)
        for place, weight in self.table:
            check_weight(weight, f"of {place}")
        places = [place for place, _ in self.table]
        twice = [place for place in places if places.count(place) > 1]
        if twice:
            raise ValueError(f"layer_table names {twice[0]} twice: name each place once")

    @classmethod
    def of(cls, choice: Layers | str, table: str = "") -> LayerWeights:
        """From a name and the text of a table: entries such as `input 2.1: 0.5`, on lines of their own or after commas."""
        entries = read_entries(table, "layer_table", EXAMPLE)
        return cls(parse_choice(Layers, choice, "layers"), tuple((place_of(name), weight) for name, weight in entries))

    def over(self, layers: Iterable[AttentionLayer]) -> Weights:
        """The weight of each transformer of a model, in running order.

        Args:
            layers: the cross-attentions of the whole U-Net.

        Raises:
            ValueError: a place that the model has not, a name that means nothing in this kind of model.
        """
        there = transformers(layers)
        if self.choice in CURVES:
            curve = CURVES[self.choice]
            return {one: curve(place, len(there)) for place, one in enumerate(there)}
        table = self.table or _named(self.choice, family_of(there))
        missing = [place for place, _ in table if not any(place.holds(one) for one in there)]
        if missing:
            raise ValueError(
                f"layers {self.choice.value!r} has a weight for {missing[0]}, which the model has not: its transformers are "
                f"{', '.join(map(str, there))}. Use names of these, or layers all"
            )
        return {one: _weight(table, one) for one in there}


def in_families(weights: LayerWeights) -> dict[Family, Weights]:
    """What they are in the whole U-Net of each kind that has such layers."""
    found = {}
    for family, layers in LAYERS.items():
        try:
            found[family] = weights.over(layers)
        except ValueError:
            continue  # it has none of that name; a model that is given some is refused with that message
    return found


def _weight(table: Iterable[tuple[Transformer, float]], one: Transformer) -> float:
    holding = [(place.named, weight) for place, weight in table if place.holds(one)]
    return max(holding, key=lambda found: found[0])[1] if holding else 1.0


def _eased(share: float) -> float:
    return LEAST + (1 - LEAST) * share


def _from_middle(place: int, count: int) -> float:
    """0 in the middle of the running order, 1 at its beginning; the last is one short of the end."""
    return abs(place - count / 2) / (count / 2)


CURVES: dict[Layers, Callable[[int, int], float]] = {  # place in running order, how many there are -> weight
    Layers.EASE_IN: lambda place, count: _eased(1 - place / count),
    Layers.EASE_OUT: lambda place, count: _eased(place / count),
    Layers.EASE_IN_OUT: lambda place, count: _eased(1 - _from_middle(place, count)),
    Layers.REVERSE_IN_OUT: lambda place, count: _eased(_from_middle(place, count)),
}

_STYLE = {Family.SDXL: "all: 0, output 2.1: 1", Family.SD15: "input 2: 0, middle: 0, output 2: 0, output 2.2: 1"}
_COMPOSITION = {Family.SDXL: "all: 0, input 2.1: 1", Family.SD15: "all: 0, input 2.0: 0.25, input 2.1: 1"}
TABLES: dict[Layers, dict[Family, str]] = {
    Layers.ALL: dict.fromkeys(Family, "all: 1"),
    # Measured on the demo's U-Net alone (docs/layers.md); for the others it is what the field found, not measured here.
    Layers.LOOK: {**_STYLE, Family.SMALL: "all: 0, input: 1, output 1.1: 1"},
    Layers.LAYOUT: {**_COMPOSITION, Family.SMALL: "all: 0, middle: 1"},
    Layers.WEAK_INPUT: dict.fromkeys(Family, f"input: {WEAK}"),
    Layers.WEAK_MIDDLE: dict.fromkeys(Family, f"middle: {WEAK}"),
    Layers.WEAK_OUTPUT: dict.fromkeys(Family, f"output: {WEAK}"),
    Layers.STRONG_MIDDLE: dict.fromkeys(Family, f"input: {WEAK}, output: {WEAK}"),
    Layers.STYLE_TRANSFER: _STYLE,
    Layers.COMPOSITION: _COMPOSITION,
    Layers.STRONG_STYLE_TRANSFER: {Family.SDXL: "input 2.1: 0", Family.SD15: "input 2: 0"},
    Layers.STYLE_AND_COMPOSITION: {
        Family.SDXL: "all: 0, input 2.1: 1, output 2.1: 1",
        Family.SD15: "input 2.0: 0.25, middle: 0, output 2: 0, output 2.2: 1",
    },
}


def _named(choice: Layers, family: Family) -> tuple[tuple[Transformer, float], ...]:
    tables = TABLES[choice]
    if family not in tables:
        raise ValueError(
            f"layers {choice.value!r} names transformers of {' and '.join(known.value for known in tables)}, this model has "
            f"{family.value}: use another name, or custom with a table"
        )
    return LayerWeights.of(Layers.CUSTOM, tables[family]).table
