"""What is read from an ablation run's stored values: the columns of its tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ...evaluation.metrics import tint_towards
from .judge import CLASSES, NONE
from .pairs import NAMED, PAIRS, Scene, grouped, labels, product_of, wall_of

Values = NDArray[np.float64]


PRODUCT, WALL, FOREIGN, REFERENCE = "product", "wall", "foreign product", "reference's wall"
"""What pairs may have in common."""


@dataclass(frozen=True)
class Truth:
    """What is known of the pairs: (P,) indices of A's and B's attributes."""

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
    def groups(self) -> dict[str, NDArray[np.int_]]:
        """What pairs have in common: product and wall of A, product and wall of B."""
        return {
            PRODUCT: grouped([product_of(first) for first, _ in self.pairs]),
            WALL: grouped([wall_of(first) for first, _ in self.pairs]),
            FOREIGN: grouped([product_of(second) for _, second in self.pairs]),
            REFERENCE: grouped([wall_of(second) for _, second in self.pairs]),
        }


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

    def is_reference(self, *names: str) -> Values:
        """(P,) 1 where the judge reads all these attributes as in B."""
        return self._equal(self.truth.reference, names)

    def _equal(self, expected: dict[str, Values], names: Sequence[str]) -> Values:
        return np.all([self.values[name] == expected[name] for name in names], axis=0).astype(np.float64)

    def tint(self, area: str) -> Values:
        """(P,) shift of an area's colour towards the foreign product's, against the oracle."""
        if self.oracle is None:
            return np.full(len(self.values[area]), math.nan)
        color, without, foreign = (
            torch.from_numpy(values) for values in (self.values[area], self.oracle[area], self.values["foreign_rgb"])
        )
        return tint_towards(color, without, foreign).numpy()

    def where_patterned(self, name: str) -> Values:
        """(P,) what was stored, NaN where B's wall is plain: it has no layout and no edges to follow."""
        return np.where(self.truth.reference["pattern"] == _PLAIN, math.nan, self.values[name])

    def where_plain(self, name: str) -> Values:
        """(P,) what was stored, NaN where B's wall has a pattern: what is off by some pixels of it would count as a rim."""
        return np.where(self.truth.reference["pattern"] == _PLAIN, self.values[name], math.nan)

    def all_three(self) -> Values:
        """(P,) 1 where product colour and table are the text's and the wall's colour is the reference's."""
        return self.is_wanted("product_color", "table") * self.is_reference("wall_color")


@dataclass(frozen=True)
class Measure:
    """A column: what it is called, whether it is a rate, what is better, how it is had, the names of the groups of `Truth` that
    it is read of, and how many digits it is shown with."""

    label: str
    is_rate: bool
    better: str
    of: Callable[[Readings], Values]
    read_of: tuple[str, ...]
    digits: int = 3

    def groups(self, truth: Truth) -> list[NDArray[np.int_]]:
        """As `lab.evaluation.statistics` takes them."""
        return [truth.groups[name] for name in self.read_of]


def _rate(label: str, better: str, of: Callable[[Readings], Values], *read_of: str) -> Measure:
    return Measure(label, True, better, of, read_of)


def _mean(label: str, better: str, of: Callable[[Readings], Values], *read_of: str, digits: int = 3) -> Measure:
    return Measure(label, False, better, of, read_of, digits)


def _stored(label: str, better: str, name: str, *read_of: str) -> Measure:
    return _mean(label, better, lambda readings: readings.values[name], *read_of)


def _before_plain(label: str, better: str, name: str, digits: int = 3) -> Measure:
    return _mean(f"{label}, plain walls", better, lambda readings: readings.where_plain(name), PRODUCT, digits=digits)


def _of_text(label: str, *names: str) -> Measure:
    return _rate(
        f"{label} = text", "higher", lambda readings: readings.is_wanted(*names), *_read_of(names, PRODUCT, WALL)
    )


def _of_reference(label: str, *names: str) -> Measure:
    read_of = _read_of(names, FOREIGN, REFERENCE)
    return _rate(f"{label} = reference", "higher", lambda readings: readings.is_reference(*names), *read_of)


def _foreign(label: str, *names: str) -> Measure:
    return _rate(f"{label} = foreign", "lower", lambda readings: readings.is_reference(*names), FOREIGN)


def _read_of(names: Sequence[str], product: str, wall: str) -> list[str]:
    """The groups that attributes belong to; a table belongs to none."""
    return [group for group, of in zip((product, wall), PAIRS, strict=True) if set(of).intersection(names)]


_PLAIN = NAMED["pattern"].index("plain")
_NO_PRODUCT = CLASSES["product_color"].index(NONE)

MEASURES = {
    "all_text": _of_text("all five", *CLASSES),
    "product_text": _of_text("product colour", "product_color"),
    "table_text": _of_text("table", "table"),
    "wall_text": _of_text("wall colour", "wall_color"),
    "pattern_text": _of_text("pattern", "pattern"),
    "shape_text": _of_text("shape", "shape"),
    "wall_reference": _of_reference("wall colour", "wall_color"),
    "pattern_reference": _of_reference("pattern", "pattern"),
    "table_reference": _of_reference("table", "table"),
    "all_three": _rate("product, table and wall all right", "higher", Readings.all_three, PRODUCT, REFERENCE),
    "foreign_color": _foreign("product colour", "product_color"),
    "foreign_shape": _foreign("shape", "shape"),
    "foreign_object": _foreign("colour and shape", "product_color", "shape"),
    "no_product": _rate(
        "no product", "", lambda r: (r.values["product_color"] == _NO_PRODUCT).astype(np.float64), PRODUCT
    ),
    "tint": _mean("wall tint towards the foreign colour", "nearer to 0", lambda r: r.tint("wall_rgb"), FOREIGN),
    "tint_upper": _mean("tint of the upper 28 %", "nearer to 0", lambda r: r.tint("upper_rgb"), FOREIGN),
    "foreign_share": _stored("foreign-coloured pixels", "lower", "foreign_share", FOREIGN),
    "palette": _stored("palette distance to the reference's wall", "lower", "palette", REFERENCE),
    "palette_other": _stored("palette distance to another reference's wall", "", "palette_other", REFERENCE),
    "region": _stored("wall pixels nearer to the reference than to A", "higher", "region", REFERENCE),
    "layout": _mean(
        "light and dark lie as on the reference's wall", "higher", lambda r: r.where_patterned("layout"), REFERENCE
    ),
    "sharpness": _stored("sharpness of the picture to the true one's", "nearer to 1", "sharpness", WALL),
    "wall_sharpness": _mean(
        "sharpness of the wall to the reference's",
        "nearer to 1",
        lambda r: r.where_patterned("wall_sharpness"),
        REFERENCE,
    ),
    "halo_plain": _before_plain("halo: share of the ring around the product", "lower", "halo"),
    "halo_strength_plain": _before_plain("how far the ring has gone to the product's colour", "lower", "halo_strength"),
    "ring_plain": _before_plain("dB in the ring", "higher", "ring_psnr", digits=1),
}
AGAINST_ORACLE = ("foreign_color", "foreign_shape", "foreign_object", "foreign_share")
