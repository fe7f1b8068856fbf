"""What a neighbour's method is measured with: ways of making pictures, tables of them, and chunks stored as they come.

`neighbour_refadgen`, `neighbour_strict_id` and `neighbours_together` are the commands. What has a strength is tried at several on
the development scenes with the first training, and measured on the test scenes at the one that did best there. Killed and started
again, a command goes on; `--begin` takes the readings of an earlier run, such as docs/readings/neighbours.zip, and adds to them.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from ...evaluation.statistics import (
    EQUIVALENCE_LEVEL,
    LEVEL,
    Groups,
    hit_difference,
    mean_interval,
    paired_difference,
    rate,
)
from ...files import save_atomically, save_text
from .. import stack
from ..splits import Split
from .ablation_units import claim_folder, settings_of, short_hash, stored_trainings
from .ablations import PRECISIONS, autocast
from .claims import MARGIN
from .judge import FILE as JUDGE_FILE
from .markdown import claims_table, markdown_table, number
from .models import Models, load_models
from .pairs import grouped, seeds_of
from .readings import NO_TRAINING, RESULTS
from .summary import Difference, plain, verdicts

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
        many: of more test scenes than the others, with the first training alone.
    """

    name: str
    title: str
    about: str
    ways: tuple[Way, ...]
    columns: tuple[str, ...]
    many: bool = False

    def of_many(self) -> Table:
        """The same of many scenes."""
        return replace(self, name=f"{self.name}_many", title=f"{self.title}: many scenes", many=True)


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

    def trainings(self, way: Way, split: Split, first: bool = False) -> list[Trained]:
        """What a way is measured with: all there are; the first one where that is asked for, or strengths are chosen."""
        return self.trained_of(way)[: 1 if first or split is Split.DEVELOPMENT else None]

    def file(self, way: Way, trained: Trained, split: Split, start: int) -> Path:
        """Where the values of a chunk are; the first test chunk's pictures lie beside them as .npz."""
        return self.folder / way.name / trained.identity / f"{split.value}_{start:05d}.json"

    def values(self, way: Way, split: Split, scenes: int, first: bool = False) -> dict[int, dict[str, Values]]:
        """By seed of the trainings, see there, where all chunks of a way are there."""
        found = {}
        for trained in self.trainings(way, split, first):
            files = [self.file(way, trained, split, start) for start in seeds_of(split, scenes)[:: self.batch]]
            if all(file.is_file() for file in files):
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

    def make(self, ways: Sequence[Way], split: Split, scenes: int, title: str, first: bool = False) -> None:
        """The pictures of ways, chunk by chunk, each way once; with the first training, or all."""
        units = [
            (start, way, trained)
            for start in seeds_of(split, scenes)[:: self.store.batch]
            for way in dict.fromkeys(ways)
            for trained in self.store.trainings(way, split, first)
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


def summarize(plan: Plan, store: Store, scenes: Scenes) -> dict[str, Any]:
    """Tables, sweeps and claims of what is stored."""
    tables = {}
    for table in plan.tables:
        of_table, rows, missing = _OfTable(plan, store, scenes, table), [], []
        for way in table.ways:
            chosen = store.chosen(way, scenes.development)
            values = {} if chosen is None else of_table.values(chosen)
            if chosen is None or not values:
                wanted = " and ".join(f"{family}_seed*.safetensors" for family in way.families)
                missing.append(way.label if store.trained_of(way) else f"{way.label}: no {wanted}")
                continue
            cells = {
                name: of_table.cell(name, [one[name] for one in values.values()])
                for name in table.columns
                if all(name in one for one in values.values())
            }
            known = {"way": way.name, "made_as": chosen.name, "label": chosen.label}
            rows.append({**known, "seeds": sorted(values) if way.families else [], "measures": cells})
        swept = {way.label: store.tried(way, scenes.development) for way in table.ways if way.scales}
        sweeps = {label: {f"{scale:g}": value for scale, value in tried.items()} for label, tried in swept.items()}
        tables[table.name] = {"scenes": of_table.count, "rows": rows, "missing": missing, "sweeps": sweeps}
    differences = [_difference(plan, store, claim, scenes) for claim in plan.claims]
    claims = [
        {"claim": claim.text, "measure": claim.measure, "difference": None if one.found is None else plain(one.found)}
        | said
        for claim, one, said in zip(plan.claims, differences, verdicts(differences), strict=True)
    ]
    return {"tables": tables, "claims": claims}


class _OfTable:
    """What is stored of a table's scenes."""

    def __init__(self, plan: Plan, store: Store, scenes: Scenes, table: Table) -> None:
        self.plan, self.store, self.table, self.count = plan, store, table, scenes.of(table)
        self.development = scenes.development
        in_common = plan.in_common(Split.TEST, seeds_of(Split.TEST, self.count))
        self._groups = {name: grouped(things) for name, things in in_common.items()}

    def values(self, chosen: Way) -> dict[int, dict[str, Values]]:
        """By seed of the training."""
        return self.store.values(chosen, Split.TEST, self.count, self.table.many)

    def cell(self, measure: str, values: Sequence[Values]) -> dict[str, Any]:
        """An interval over seeds and scenes, and of how many scenes it is: those where the measure is defined."""
        estimate = rate if self.plan.measures[measure].is_rate else mean_interval
        found = estimate(np.stack(values), groups=self.groups(measure))
        return {**plain(found), "scenes": int((~np.isnan(np.stack(values))).any(0).sum())}

    def groups(self, measure: str) -> Groups:
        """Of the scenes, for a measure."""
        return [self._groups[name] for name in self.plan.measures[measure].read_of]

    def side_by_side(self, ways: Sequence[Way], measure: str) -> tuple[Values, Values] | None:
        """(S, P) of two ways, of the trainings that both have; what takes no trained file stands beside each. None where there
        is none, or the measure was not read of them."""
        chosen = [self.store.chosen(way, self.development) for way in ways]
        sides = [{} if way is None else _read(self.values(way), measure) for way in chosen]
        trained = [set(side) for way, side in zip(ways, sides, strict=True) if way.families]
        seeds = sorted(set.intersection(*trained)) if trained else [NO_FILE.seed]
        if not all(sides) or not seeds:
            return None
        first, second = (
            np.stack([side[seed if way.families else NO_FILE.seed] for seed in seeds])
            for way, side in zip(ways, sides, strict=True)
        )
        return first, second


def _difference(plan: Plan, store: Store, claim: Claim, scenes: Scenes) -> Difference:
    """Of two ways, scene by scene."""
    (table,) = (one for one in plan.tables if one.name == claim.table)
    ways = [next(one for one in table.ways if one.name == name) for name in (claim.first, claim.second)]
    of_table, is_rate = _OfTable(plan, store, scenes, table), plan.measures[claim.measure].is_rate
    stacked, margin = of_table.side_by_side(ways, claim.measure), MARGIN if is_rate else None
    if stacked is None:
        return Difference(None, None, margin)
    difference, groups = hit_difference if is_rate else paired_difference, of_table.groups(claim.measure)
    found, narrow = (difference(*stacked, level, groups) for level in (LEVEL, EQUIVALENCE_LEVEL))
    return Difference(found, narrow, margin)


def _read(values: dict[int, dict[str, Values]], measure: str) -> dict[int, Values]:
    return {seed: of_training[measure] for seed, of_training in values.items() if measure in of_training}


def page(plan: Plan, results: dict[str, Any]) -> str:
    """What was measured, in Markdown."""
    measures = {name: asdict(one) for name, one in plan.measures.items()}
    settings = results["settings"]
    parts = [
        f"# {plan.title}",
        f"Measured by `python -m lab.demo.evaluation.{plan.name}`: {results['scenes']} test scenes"
        + (
            f", strengths chosen with the first training on {results['development']} development scenes"
            if plan.chooses
            else ""
        )
        + f"; DDIM, {settings['steps']} steps, {settings['precision']}.",
        plan.about,
        "## What was claimed",
        claims_table(results["claims"], measures, "scene"),
    ]
    for table in plan.tables:
        found = results["tables"][table.name]
        parts += _table(table, found, measures, measures[plan.chosen_by]["label"])
    return "\n\n".join(parts) + "\n"


def _table(table: Table, found: dict[str, Any], measures: dict[str, dict[str, Any]], chosen_by: str) -> Iterator[str]:
    scenes = found["scenes"]
    yield f"## {table.title}"
    yield f"The same of {scenes} test scenes, with the first training." if table.many else table.about
    better = [measures[name]["better"] for name in table.columns]
    titles = [
        measures[name]["label"] + (f" ({word})" if word else "")
        for name, word in zip(table.columns, better, strict=True)
    ]
    rows = [
        [row["label"], str(len(row["seeds"]) or "")] + [_shown(row, name, measures, scenes) for name in table.columns]
        for row in found["rows"]
    ]
    yield markdown_table(["", "trainings", *titles], rows)
    for label, tried in found["sweeps"].items():
        if tried and not table.many:
            told = ", ".join(f"{s}: {v:.3f}" for s, v in tried.items())
            yield f"{label}, on the development scenes, by {chosen_by}: {told}.{_at_an_end(tried)}"
    if found["missing"]:
        yield "Not measured: " + "; ".join(found["missing"]) + "."


def _shown(row: dict[str, Any], name: str, measures: dict[str, dict[str, Any]], scenes: int) -> str:
    """A cell; in square brackets of how many scenes, where it is not of all."""
    cell = row["measures"].get(name)
    said = number(cell, measures[name])
    return said if cell is None or cell["scenes"] == scenes else f"{said} [{cell['scenes']}]"


def _at_an_end(tried: dict[str, float]) -> str:
    """A word where the strength that did best has no stronger, or weaker, one beside it."""
    best = max(tried, key=lambda scale: (tried[scale], -abs(float(scale) - 1)))
    ends = [scale for scale in (min(tried, key=float), max(tried, key=float)) if scale == best]
    return f" The best, {best}, is the last that was tried: a further one might do better." if ends else ""


def counted(plan: Plan, seeds: int, scenes: Scenes) -> str:
    """How many pictures it takes with so many trainings of each file, as a table."""
    known: dict[tuple[str, Split, int], int] = {}
    lines, total = ["| table | pictures |", "|---|---|"], 0
    for table in plan.tables:
        trainings = 1 if table.many else seeds
        parts = [
            *((one, Split.DEVELOPMENT, scenes.development, 1) for way in table.ways for one in way.tried),
            *((way, Split.TEST, scenes.of(table), trainings if way.families else 1) for way in table.ways),
        ]
        pictures = 0
        for way, split, count, of_way in parts:
            for key in ((way.name, split, training) for training in range(of_way)):
                pictures += plan.images_of(way) * max(count - known.get(key, 0), 0)
                known[key] = max(count, known.get(key, 0))
        lines.append(f"| {table.name} | {pictures:,} |")
        total += pictures
    return "\n".join([*lines, f"| all | {total:,} |"])


def _parser(plan: Plan, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of what was trained, {family}_seed{n}.safetensors")
    parser.add_argument("--out", type=Path, help="folder of the results, to be continued")
    parser.add_argument("--begin", type=Path, help="readings of an earlier run with the same settings, to add to")
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the demo models")
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="file of the judge")
    parser.add_argument("--pairs", type=int, default=100, help="test scenes")
    if plan.chooses:
        parser.add_argument("--development", type=int, default=40, help="scenes that strengths are chosen on")
    else:
        parser.set_defaults(development=0)
    if plan.has_many:
        parser.add_argument("--many", type=int, default=500, help="test scenes of the tables of many (%(default)s)")
    else:
        parser.set_defaults(many=0)
    parser.add_argument("--batch", type=int, default=20, help="scenes in a chunk")
    parser.add_argument("--steps", type=int, default=12, help="of DDIM")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the sampling")
    parser.add_argument("--only", action="append", choices=[table.name for table in plan.tables], help="this table")
    parser.add_argument("--report-only", action="store_true", help="make no pictures, sum up what is stored")
    parser.add_argument("--count", action="store_true", help="make no pictures, say how many one training takes")
    return parser


def run_command(plan: Plan, description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for, then sum up all that is stored."""
    parser = _parser(plan, description)
    options = parser.parse_args(arguments)
    asked = ["pairs", *(["many"] if plan.has_many else []), *(["development"] if plan.chooses else [])]
    for name in asked:
        if getattr(options, name) < 1 or getattr(options, name) % options.batch:
            parser.error(f"--{name} is {getattr(options, name)}, expected a multiple of --batch, {options.batch}")
    scenes = Scenes(options.pairs, options.many, options.development)
    if options.count:
        print(counted(plan, 1, scenes))
        return
    if options.out is None:
        parser.error("--out is needed: where the results go")
    torch.set_flush_denormal(True)
    settings = settings_of(options.weights, options.judge, options.steps, options.batch, options.precision)
    claim_folder(options.out, settings, options.begin, plan.with_controlnet, plan.name)
    families = sorted({family for table in plan.tables for way in table.ways for family in way.families})
    files = {} if options.models is None else find_trained(options.models, families)
    store = Store(options.out, plan.name, files, options.batch, plan.chosen_by, plan.derived)
    if not options.report_only:
        run = Run(plan.maker(load_models(options.weights, options.judge), options.steps), store, options.precision)
        for table in plan.tables:
            if options.only is None or table.name in options.only:
                tried = [one for way in table.ways for one in way.tried]
                run.make(tried, Split.DEVELOPMENT, scenes.development, table.name)
                chosen = [store.chosen(way, scenes.development) for way in table.ways]
                ways = [way for way in chosen if way is not None]
                run.make(ways, Split.TEST, scenes.of(table), table.name, table.many)
    results = summarize(plan, store, scenes)
    results |= {"settings": asdict(settings), "scenes": scenes.test, "development": scenes.development}
    results["trained"] = sorted(store.identities.values())
    plain = json.loads(json.dumps(results), parse_constant=lambda _nan: None)
    save_text(options.out / f"{plan.name}.json", json.dumps(plain, indent=1))
    save_text(options.out / f"{plan.name}.md", page(plan, plain))
    print(f"wrote {options.out / plan.name}.md and {plan.name}.json")
