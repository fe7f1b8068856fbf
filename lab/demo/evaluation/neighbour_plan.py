"""What a neighbour's method is measured with: ways of making pictures, tables of them, and what is claimed of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..splits import Split
from .models import Models

Files = Mapping[str, Path]
"""Trained files of one seed by family."""

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """One way of making pictures.

    Attributes:
        name: of its results.
        label: for readers.
        how: the method's own settings of it.
        families: of the trained files that it takes, {family}_seed{n}.safetensors; those of one seed at a time.
        scale: its strength.
        scales: strengths that are tried; of these the best one is measured.
    """

    name: str
    label: str
    how: Any
    families: tuple[str, ...] = ()
    scale: float = 1.0
    scales: tuple[float, ...] = ()

    def at(self, scale: float) -> Way:
        """The way at one strength."""
        return replace(
            self, name=f"{self.name}_at_{scale:g}", label=f"{self.label}, scale {scale:g}", scale=scale, scales=()
        )

    @property
    def tried(self) -> tuple[Way, ...]:
        """At each of its strengths."""
        return tuple(self.at(scale) for scale in self.scales)


@dataclass(frozen=True)
class Table:
    """Ways side by side, and the measures that are its columns.

    Attributes:
        many: of more test scenes than the others, with one training of each way.
    """

    name: str
    title: str
    about: str
    ways: tuple[Way, ...]
    columns: tuple[str, ...]
    many: bool = False

    def of_many(self, *names: str) -> Table:
        """The same of many scenes, or of its ways those of these names; KeyError where it has none of a name."""
        known = {way.name: way for way in self.ways}
        ways = tuple(known[name] for name in names) or self.ways
        return replace(self, name=f"{self.name}_many", title=f"{self.title}: many scenes", ways=ways, many=True)


@dataclass(frozen=True)
class Scenes:
    """How many scenes there are.

    Attributes:
        test: of a table, with every training.
        many: of a table of many.
        development: that strengths are chosen on.
    """

    test: int
    many: int
    development: int

    def of(self, table: Table) -> int:
        """Test scenes of a table."""
        return self.many if table.many else self.test


@dataclass(frozen=True)
class Column:
    """A column: what it is called, what is better, whether it is 0 or 1 for each scene, how many digits it is shown with, and the
    names of what of the scenes it is read of, keys of `Plan.in_common`."""

    label: str
    better: str = ""
    is_rate: bool = False
    digits: int = 3
    read_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Derived:
    """A measure that follows from others: which, and how. It is not stored, so that it is always today's."""

    of: tuple[str, ...]
    formula: Callable[..., Values]


@dataclass(frozen=True)
class Claim:
    """That a measure is more for one way of a table than for another."""

    text: str
    table: str
    measure: str
    first: str
    second: str


class Maker(Protocol):
    """Makes and measures the pictures of a method."""

    def chunk(self, split: Split, start: int, count: int) -> Any:
        """Held-out scenes, with what all ways make of them."""

    def make(self, chunk: Any, way: Way, files: Files) -> Tensor:
        """(P * n, 3, H, W) in 0..1: n pictures of P scenes each, the first of every scene first; in the running autocast."""

    def measure(self, chunk: Any, way: Way, image: Tensor) -> dict[str, Tensor]:
        """By measure (P,), NaN where it is not defined."""


@dataclass(frozen=True)
class Plan:
    """All of a method that is measured.

    Attributes:
        name: of the command's module.
        title, about: of its page.
        tables, measures, claims: see there; measures by their names in the tables.
        chosen_by: the measure by which a strength is chosen, more = better.
        maker: of the models and the steps of the sampling.
        images_of: how many pictures a way makes of a scene; 0 = none is sampled.
        in_common: by name what each scene of these seeds may have in common with others.
        takes_controlnet: whether a way is made with the depth ControlNet.
        derived: measures that follow from others, by name.
    """

    name: str
    title: str
    about: str
    tables: tuple[Table, ...]
    measures: dict[str, Column]
    claims: tuple[Claim, ...]
    chosen_by: str
    maker: Callable[[Models, int], Maker]
    images_of: Callable[[Way], int]
    in_common: Callable[[Split, range], dict[str, list[Hashable]]]
    takes_controlnet: Callable[[Way], bool] = lambda _way: False
    derived: Mapping[str, Derived] = field(default_factory=dict)

    @property
    def chooses(self) -> bool:
        """Whether any way has strengths to choose from."""
        return any(way.scales for table in self.tables for way in table.ways)

    @property
    def has_many(self) -> bool:
        """Whether any table is of many scenes."""
        return any(table.many for table in self.tables)

    @property
    def with_controlnet(self) -> set[str]:
        """Names of the ways that are made with the depth ControlNet, at each of their strengths."""
        ways = [way for table in self.tables for way in table.ways if self.takes_controlnet(way)]
        return {one.name for way in ways for one in (way, *way.tried)}
