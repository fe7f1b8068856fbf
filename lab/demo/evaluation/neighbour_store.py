"""Pictures of the neighbours' methods and what was measured of them, made and stored in chunks as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ...files import save_atomically, save_text
from ..splits import Split
from .ablation_units import short_hash, stored_trainings
from .ablations import autocast
from .neighbour_plan import Derived, Files, Maker, Values, Way
from .pairs import seeds_of
from .readings import NO_TRAINING, RESULTS


@dataclass(frozen=True)
class Trained:
    """What a way takes of one seed of the training: its files, None where there are only results made with them, and the
    name of those results."""

    files: Files | None
    seed: int
    identity: str


NO_FILE = Trained({}, 0, NO_TRAINING)


def find_trained(folder: Path, families: Sequence[str]) -> dict[str, dict[int, Path]]:
    """The files of each family in a folder, by seed."""
    found: dict[str, dict[int, Path]] = {family: {} for family in families}
    for path in folder.glob("*.safetensors"):
        match = re.fullmatch(r"(.+)_seed(\d+)", path.stem)
        if match and match[1] in found:
            found[match[1]][int(match[2])] = path
    return found


@cache
def _identity(path: Path) -> str:
    """Name and content of a file."""
    return f"{path.stem}-{short_hash(path)}"


class Store:
    """What is stored of a plan in a folder of results.

    Args:
        out: the folder; of several plans, whose ways may have the same names.
        plan: its name.
        trained: files by family and seed.
        batch: scenes in a chunk.
        chosen_by, derived: see `Plan`.

    Raises:
        AblationError: there are results of two trainings of one family and seed, and the file of neither.
    """

    def __init__(
        self,
        out: Path,
        plan: str,
        trained: dict[str, dict[int, Path]],
        batch: int,
        chosen_by: str,
        derived: Mapping[str, Derived] | None = None,
    ) -> None:
        self.folder, self.trained, self.batch, self.chosen_by = out / RESULTS / plan, trained, batch, chosen_by
        self.derived = derived or {}
        files = {(family, seed): _identity(path) for family, of in trained.items() for seed, path in of.items()}
        self.identities = stored_trainings(self.folder, files) | files

    def trained_of(self, way: Way) -> list[Trained]:
        """What a way is measured with: of each seed that all of its families have, as files or as results."""
        if not way.families:
            return [NO_FILE]
        of_families = [{seed for name, seed in self.identities if name == family} for family in way.families]
        return [self._training(way, seed) for seed in sorted(set.intersection(*of_families))]

    def _training(self, way: Way, seed: int) -> Trained:
        paths = {family: self.trained.get(family, {}).get(seed) for family in way.families}
        files = {family: path for family, path in paths.items() if path is not None}
        names = "+".join(self.identities[family, seed] for family in way.families)
        return Trained(files if len(files) == len(paths) else None, seed, names)

    def trainings(self, way: Way, split: Split, scenes: int, one: bool = False) -> list[Trained]:
        """What a way is measured with: all there are, the first where strengths are chosen. Where `one` is asked for it is the
        first that all scenes are stored of, else the first whose files are here."""
        every = self.trained_of(way)
        if split is Split.DEVELOPMENT:
            return every[:1]
        if not one:
            return every
        stored = [trained for trained in every if self._is_stored(way, trained, split, scenes)]
        return (stored or [trained for trained in every if trained.files is not None])[:1]

    def _files(self, way: Way, trained: Trained, split: Split, scenes: int) -> list[Path]:
        return [self.file(way, trained, split, start) for start in seeds_of(split, scenes)[:: self.batch]]

    def _is_stored(self, way: Way, trained: Trained, split: Split, scenes: int) -> bool:
        return all(file.is_file() for file in self._files(way, trained, split, scenes))

    def file(self, way: Way, trained: Trained, split: Split, start: int) -> Path:
        """Where the values of a chunk are; the first test chunk's pictures lie beside them as .npz."""
        return self.folder / way.name / trained.identity / f"{split.value}_{start:05d}.json"

    def values(self, way: Way, split: Split, scenes: int, one: bool = False) -> dict[int, dict[str, Values]]:
        """By seed of the trainings, see there, where all chunks of a way are there."""
        found = {}
        for trained in self.trainings(way, split, scenes, one):
            if self._is_stored(way, trained, split, scenes):
                files = self._files(way, trained, split, scenes)
                parts = [json.loads(file.read_text(encoding="utf-8")) for file in files]
                read = set.intersection(*map(set, parts))  # earlier chunks may hold what is derived now
                stored = {name: np.concatenate([np.asarray(part[name], np.float64) for part in parts]) for name in read}
                derived = {
                    name: one.formula(*(stored[of] for of in one.of))
                    for name, one in self.derived.items()
                    if stored.keys() >= set(one.of)
                }
                found[trained.seed] = stored | derived
        return found

    def tried(self, way: Way, development: int) -> dict[float, float]:
        """By strength, what it did on the development scenes."""
        found = {}
        for one in way.tried:
            values = self.values(one, Split.DEVELOPMENT, development)
            if values:
                found[one.scale] = float(np.nanmean(np.stack([each[self.chosen_by] for each in values.values()])))
        return found

    def chosen(self, way: Way, development: int) -> Way | None:
        """A way as it is, or at the strength that did best, of equals the one nearest to 1; None where one is missing."""
        if not way.scales:
            return way
        tried = self.tried(way, development)
        if len(tried) < len(way.scales):
            return None
        return way.at(max(way.scales, key=lambda scale: (tried[scale], -abs(scale - 1))))


class Run:
    """Makes what is not stored yet."""

    def __init__(self, maker: Maker, store: Store, precision: str) -> None:
        self.maker, self.store, self.precision = maker, store, precision

    def make(self, ways: Sequence[Way], split: Split, scenes: int, title: str, one: bool = False) -> None:
        """The pictures of ways, chunk by chunk, each way once; with one training, or all."""
        units = [
            (start, way, trained)
            for start in seeds_of(split, scenes)[:: self.store.batch]
            for way in dict.fromkeys(ways)
            for trained in self.store.trainings(way, split, scenes, one)
            if trained.files is not None and not self.store.file(way, trained, split, start).is_file()
        ]
        begun, chunk = -1, None
        for start, way, trained in tqdm(units, f"{title}, {split.value}", mininterval=10, disable=not units):
            if start != begun:
                begun, chunk = start, self.maker.chunk(split, start, self.store.batch)
            self._make(chunk, way, trained, split, start)

    def _make(self, chunk: Any, way: Way, trained: Trained, split: Split, start: int) -> None:
        assert trained.files is not None
        with autocast(self.precision):
            image = self.maker.make(chunk, way, trained.files).float()
        file = self.store.file(way, trained, split, start)
        if split is Split.TEST and start == 0:
            pixels = (image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).numpy()
            save_atomically(file.with_suffix(".npz"), lambda path: _save_images(path, pixels))
        values = {name: value.double().tolist() for name, value in self.maker.measure(chunk, way, image).items()}
        save_text(file, json.dumps(values))


def _save_images(path: Path, pixels: NDArray[np.uint8]) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, image=pixels)
