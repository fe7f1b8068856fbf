"""What a folder of results holds: the readings of a row, its pictures, and which strength of a sweep did best."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...evaluation.statistics import Interval, mean_interval, rate
from .ablation_units import AdapterFile, Unit, adapters_of, units
from .conditions import Row, Sweep, View
from .experiments import IMAGE_ONLY, NO_ADAPTER
from .measures import MEASURES, Readings, Truth, Values
from .pairs import Split, sample_pair, seeds_of

CHOSEN_BY = "all_three"  # a sweep's strength does best where this is highest


class Store:
    """What is stored in a folder of results."""

    def __init__(self, out: Path, adapters: Sequence[AdapterFile], batch: int) -> None:
        self.out = out
        self.adapters = adapters
        self.batch = batch
        self._read: dict[Path, dict[str, Values]] = {}

    def readings(
        self, row: Row, pairs: int, split: Split = Split.TEST, seeds: int | None = None
    ) -> dict[int, Readings]:
        """By seed of the adapter (0 without one), where all of its chunks are there."""
        oracle = Row(IMAGE_ONLY[View.ORACLE], row.family)
        found = {}
        for adapter in adapters_of(row, self.adapters, seeds):
            values = self._values(row, adapter, split, pairs)
            if values is not None:
                without = None if row.family == NO_ADAPTER else self._values(oracle, adapter, split, pairs)
                found[adapter.seed if adapter else 0] = Readings(values, without, truth_of(split, pairs))
        return found

    def tried(self, sweep: Sweep, development: int) -> dict[float, Interval]:
        """By strength, what it did on the development pairs with the family's first adapter."""
        found = {}
        for scale in sweep.scales:
            readings = self.readings(sweep.at(scale), development, Split.DEVELOPMENT, seeds=1)
            if readings:
                found[scale] = interval(CHOSEN_BY, readings)
        return found

    def best(self, sweep: Sweep, development: int) -> Row | None:
        """The strength that did best on the development pairs, of equals the one nearest to 1; None where one is missing."""
        tried = self.tried(sweep, development)
        if len(tried) < len(sweep.scales):
            return None
        return sweep.at(max(sweep.scales, key=lambda scale: (tried[scale].value, -abs(scale - 1))))

    def chosen(self, row: Row | Sweep, development: int) -> Row | None:
        """A row as it is; of a sweep the best one."""
        return row if isinstance(row, Row) else self.best(row, development)

    def images(self, row: Row) -> NDArray[np.uint8] | None:
        """(N, H, W, 3) of the first test pairs, of a row's first adapter; None where there are none."""
        for adapter in adapters_of(row, self.adapters):
            file = Unit(row.condition, adapter, Split.TEST, 0).file(self.out).with_suffix(".npz")
            if file.is_file():
                images: NDArray[np.uint8] = np.load(file)["image"]
                return images
        return None

    def _values(self, row: Row, adapter: AdapterFile | None, split: Split, pairs: int) -> dict[str, Values] | None:
        parts = units([row], [adapter] if adapter else [], split, pairs, self.batch)
        if not all(part.done(self.out) for part in parts):
            return None
        chunks = [self._chunk(part.file(self.out)) for part in parts]
        return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}

    def _chunk(self, file: Path) -> dict[str, Values]:
        if file not in self._read:
            content = json.loads(file.read_text(encoding="utf-8"))
            flat = {**content.pop("judge"), **content}
            self._read[file] = {name: np.asarray(value, np.float64) for name, value in flat.items()}
        return self._read[file]


@cache
def truth_of(split: Split, pairs: int) -> Truth:
    """Of the first pairs of a split."""
    return Truth([sample_pair(seed, split) for seed in seeds_of(split, pairs)])


def interval(measure: str, readings: dict[int, Readings]) -> Interval:
    """A measure over seeds and pairs."""
    values = np.stack([MEASURES[measure].of(one) for one in readings.values()])
    groups = MEASURES[measure].groups(next(iter(readings.values())).truth)
    return (rate if MEASURES[measure].is_rate else mean_interval)(values, groups=groups)
