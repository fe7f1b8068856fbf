"""What is read from an ablation run's stored values: the columns of its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...evaluation.metrics import tint_towards
from ..scenes import ATTRIBUTES, Scene, labels
from .judge import CLASSES, NONE

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """What is known of the pairs: (P,) indices of A's and B's attributes, and (P, 3) colours of B's product."""

    pairs: list[tuple[Scene, Scene]]

    @cached_property
    def wanted(self) -> dict[str, Values]:
        """Attributes of A."""
        return {name: value.numpy() for name, value in labels([first for first, _ in self.pairs]).items()}

    @cached_property
    def reference(self) -> dict[str, Values]:
        """Attributes of B."""
        return {name: value.numpy() for name, value in labels([second for _, second in self.pairs]).items()}

    @cached_property
    def foreign(self) -> Tensor:
        """(P, 3) colour of B's product."""
        return torch.tensor([second.product_rgb for _, second in self.pairs])


@dataclass(frozen=True)
class Readings:
    """What was stored of all pairs under one condition with one adapter.

    Attributes:
        values: by name (P,) or (P, 3); the judge's readings under their attribute.
        oracle: the same of the condition without a foreign product, if that was measured.
        truth: of the pairs.
    """

    values: dict[str, Values]
    oracle: dict[str, Values] | None
    truth: Truth

    def is_wanted(self, *names: str) -> Values:
        """(P,) 1 where the judge reads all these attributes as in A."""
        return self._equal(self.truth.wanted, names)

    def is_reference(self, *names: str, shift: int = 0) -> Values:
        """(P,) 1 where the judge reads all these attributes as in B, or in the B of `shift` pairs before."""
        return self._equal({name: np.roll(self.truth.reference[name], shift) for name in names}, names)

    def _equal(self, expected: dict[str, Values], names: Sequence[str]) -> Values:
        return np.all([self.values[name] == expected[name] for name in names], axis=0).astype(np.float64)

    def tint(self, area: str) -> Values:
        """(P,) shift of an area's colour towards the foreign product's, against the oracle."""
        if self.oracle is None:
            return np.full(len(self.values[area]), math.nan)
        colors = (torch.from_numpy(self.values[area]), torch.from_numpy(self.oracle[area]))
        return tint_towards(*colors, self.truth.foreign).numpy()

    def all_three(self) -> Values:
        """(P,) 1 where product colour and table are the text's and the wall's colour is the reference's."""
        return self.is_wanted("product_color", "table") * self.is_reference("wall_color")


@dataclass(frozen=True)
class Measure:
    """A column: what it is called, whether it is a rate, what is better, and how it is had."""

    label: str
    is_rate: bool
    better: str
    of: Callable[[Readings], Values]


def _rate(label: str, better: str, of: Callable[[Readings], Values]) -> Measure:
    return Measure(label, True, better, of)


def _stored(label: str, better: str, name: str) -> Measure:
    return Measure(label, False, better, lambda readings: readings.values[name])


_PLAIN = ATTRIBUTES["pattern"].index("plain")


def _layout(readings: Readings) -> Values:
    """A plain wall has no layout to follow."""
    plain = readings.truth.reference["pattern"] == _PLAIN
    return np.where(plain, math.nan, readings.values["layout"])


_NO_PRODUCT = CLASSES["product_color"].index(NONE)

MEASURES = {
    "product_text": _rate("product colour = text", "higher", lambda r: r.is_wanted("product_color")),
    "table_text": _rate("table = text", "higher", lambda r: r.is_wanted("table")),
    "wall_text": _rate("wall colour = text", "higher", lambda r: r.is_wanted("wall_color")),
    "pattern_text": _rate("pattern = text", "higher", lambda r: r.is_wanted("pattern")),
    "shape_text": _rate("shape = text", "higher", lambda r: r.is_wanted("shape")),
    "all_text": _rate("all five = text", "higher", lambda r: r.is_wanted(*CLASSES)),
    "wall_reference": _rate("wall colour = reference", "higher", lambda r: r.is_reference("wall_color")),
    "pattern_reference": _rate("pattern = reference", "higher", lambda r: r.is_reference("pattern")),
    "tint": Measure("wall tint towards the foreign colour", False, "nearer to 0", lambda r: r.tint("wall_rgb")),
    "tint_upper": Measure("tint of the upper 28 %", False, "nearer to 0", lambda r: r.tint("upper_rgb")),
    "foreign_color": _rate("product colour = foreign", "lower", lambda r: r.is_reference("product_color")),
    "foreign_shape": _rate("shape = foreign", "lower", lambda r: r.is_reference("shape")),
    "foreign_object": _rate("colour and shape = foreign", "lower", lambda r: r.is_reference("product_color", "shape")),
    "foreign_color_chance": _rate(
        "chance: colour of another pair", "", lambda r: r.is_reference("product_color", shift=1)
    ),
    "foreign_shape_chance": _rate("chance: shape of another pair", "", lambda r: r.is_reference("shape", shift=1)),
    "foreign_share": _stored("foreign-coloured pixels", "lower", "foreign_share"),
    "leak_ratio": _stored("leak ratio", "lower", "leak_ratio"),
    "no_product": _rate("no product", "", lambda r: (r.values["product_color"] == _NO_PRODUCT).astype(np.float64)),
    "palette": _stored("palette distance to the reference's wall", "lower", "palette"),
    "palette_other": _stored("palette distance to another reference's wall", "", "palette_other"),
    "region": _stored("wall pixels nearer to the reference than to A", "higher", "region"),
    "layout": Measure("light and dark lie as on the reference's wall", False, "higher", _layout),
    "all_three": _rate("product, table and wall all right", "higher", lambda r: r.all_three()),
}
AGAINST_ORACLE = ("foreign_color", "foreign_shape", "foreign_object", "leak_ratio", "foreign_share")
