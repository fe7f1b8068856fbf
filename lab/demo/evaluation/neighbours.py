"""Sums up what was measured of a neighbour's method, writes its page, and is the commands' common part.

`neighbour_refadgen`, `neighbour_strict_id` and `neighbours_together` are the commands, `measure_neighbours` is all three. What
has a strength is tried at several on the development scenes with the first training, and measured on the test scenes at the one
that did best there. Killed and started again, a command goes on; `--begin` takes the readings of an earlier run, such as
docs/readings/neighbours.zip, and adds to them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...evaluation.statistics import (
    EQUIVALENCE_LEVEL,
    LEVEL,
    Groups,
    hit_difference,
    mean_interval,
    paired_difference,
    rate,
)
from ...files import save_text
from .. import stack
from ..splits import Split
from .ablation_units import claim_folder, settings_of
from .ablations import PRECISIONS
from .claims import MARGIN
from .judge import FILE as JUDGE_FILE
from .markdown import claims_table, markdown_table, number
from .models import load_models
from .neighbour_plan import Claim, Plan, Scenes, Table, Values, Way
from .neighbour_store import NO_FILE, Run, Store, find_trained
from .pairs import grouped, seeds_of
from .summary import Difference, plain, verdicts


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
        """(S, P) of two ways, of the trainings that both have, or of many scenes the one of each; what takes no trained file
        stands beside each. None where there is none, or the measure was not read of them."""
        chosen = [self.store.chosen(way, self.development) for way in ways]
        sides = [{} if way is None else _read(self.values(way), measure) for way in chosen]
        if self.table.many:
            if not all(sides) or (ways[0].families == ways[1].families and sides[0].keys() != sides[1].keys()):
                return None  # of one file's ways the trainings would differ, too
            first, second = (np.stack([*side.values()]) for side in sides)
            return first, second
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
    yield f"The same of {scenes} test scenes, with one training of each row." if table.many else table.about
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


def _parser(plans: Sequence[Plan], description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder of what was trained, {family}_seed{n}.safetensors")
    parser.add_argument("--out", type=Path, help="folder of the results, to be continued")
    parser.add_argument("--begin", type=Path, help="readings of an earlier run with the same settings, to add to")
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the demo models")
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="file of the judge")
    parser.add_argument("--pairs", type=int, default=100, help="test scenes")
    if any(plan.chooses for plan in plans):
        parser.add_argument("--development", type=int, default=40, help="scenes that strengths are chosen on")
    else:
        parser.set_defaults(development=0)
    if any(plan.has_many for plan in plans):
        parser.add_argument("--many", type=int, default=500, help="test scenes of the tables of many (%(default)s)")
    else:
        parser.set_defaults(many=0)
    parser.add_argument("--batch", type=int, default=20, help="scenes in a chunk")
    parser.add_argument("--steps", type=int, default=12, help="of DDIM")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the sampling")
    if len(plans) == 1:
        names = [table.name for table in plans[0].tables]
        parser.add_argument("--only", action="append", choices=names, help="this table")
    else:
        parser.set_defaults(only=None)
    parser.add_argument("--report-only", action="store_true", help="make no pictures, sum up what is stored")
    parser.add_argument("--count", action="store_true", help="make no pictures, say how many one training takes")
    return parser


def run_plans(plans: Sequence[Plan], description: str | None, arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for of each plan, then sum up all that is stored."""
    parser = _parser(plans, description)
    options = parser.parse_args(arguments)
    for name in ("pairs", "many", "development"):
        count = getattr(options, name)
        if parser.get_default(name) and (count < 1 or count % options.batch):
            parser.error(f"--{name} is {count}, expected a multiple of --batch, {options.batch}")
    scenes = Scenes(options.pairs, options.many, options.development)
    if options.count:
        print("\n\n".join(counted(plan, 1, scenes) for plan in plans))
        return
    if options.out is None:
        parser.error("--out is needed: where the results go")
    torch.set_flush_denormal(True)
    for plan in plans:
        _run(plan, options, scenes)


def _run(plan: Plan, options: argparse.Namespace, scenes: Scenes) -> None:
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
