"""From stored chunks of an ablation run to tables with confidence intervals, goals and comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ...evaluation import learned
from ...evaluation.statistics import Interval, bootstrap_mean, paired_difference, rate
from ...files import save_text
from ..captions import caption
from ..scenes import sample_pair
from .ablation_units import AdapterFile, Settings, Unit, units
from .chunk import sure_wall
from .claims import COMPARISONS, GLOBALS, GOALS, Comparison, Goal
from .conditions import (
    BOUNDED,
    CEILING,
    CONFLICT,
    IMAGE_ONLY,
    LOUD,
    MAIN,
    NO_ADAPTER,
    SEEING,
    TEXT,
    TEXT_GUIDANCE,
    Experiment,
    Row,
    View,
)
from .measures import AGAINST_ORACLE, MEASURES, Readings, Truth, Values

RESULTS_FILE = "results.json"


class Store:
    """What is stored in a folder of results, for a number of pairs."""

    def __init__(self, out: Path, adapters: Sequence[AdapterFile], pairs: int, batch: int) -> None:
        self.out = out
        self.adapters = adapters
        self.pairs = pairs
        self.batch = batch
        self.truth = Truth([sample_pair(seed) for seed in range(pairs)])
        self._read: dict[tuple[str, str], dict[str, Values] | None] = {}

    def readings(self, row: Row) -> dict[int, Readings]:
        """By seed of the adapter (0 without one), where all chunks are there."""
        found = {}
        for seed, parts in self._units(row).items():
            values = self._values(parts)
            if values is not None:
                oracle_row = Row(IMAGE_ONLY[View.ORACLE], row.family)
                oracle_parts = self._units(oracle_row).get(seed, []) if row.family != NO_ADAPTER else []
                found[seed] = Readings(values, self._values(oracle_parts) if oracle_parts else None, self.truth)
        return found

    def images(self, row: Row, only_first: bool = False) -> Tensor | None:
        """(N, 3, H, W) in 0..1 that are stored of a row's first seed; None where there are none."""
        for parts in self._units(row).values():
            files = [part.file(self.out).with_suffix(".npz") for part in (parts[:1] if only_first else parts)]
            if files and all(file.is_file() for file in files):
                pixels = np.concatenate([np.load(file)["image"] for file in files])
                return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        return None

    def _units(self, row: Row) -> dict[int, list[Unit]]:
        by_seed: dict[int, list[Unit]] = {}
        for unit in units([row], self.adapters, self.pairs, self.batch):
            by_seed.setdefault(unit.adapter.seed if unit.adapter else 0, []).append(unit)
        return by_seed

    def _values(self, parts: Sequence[Unit]) -> dict[str, Values] | None:
        key = (parts[0].condition.name, parts[0].adapter.identity if parts[0].adapter else "")
        if key not in self._read:
            self._read[key] = self._joined(parts) if all(part.done(self.out) for part in parts) else None
        return self._read[key]

    def _joined(self, parts: Sequence[Unit]) -> dict[str, Values]:
        chunks = [json.loads(part.file(self.out).read_text(encoding="utf-8")) for part in parts]
        flat = [
            {**{k: v for k, v in chunk.items() if k not in ("judge", "count")}, **chunk["judge"]} for chunk in chunks
        ]
        return {name: np.concatenate([np.asarray(chunk[name], np.float64) for chunk in flat]) for name in flat[0]}


def interval(measure: str, readings: dict[int, Readings]) -> Interval:
    """A measure over seeds and pairs."""
    values = np.stack([MEASURES[measure].of(one) for one in readings.values()])
    return (rate if MEASURES[measure].is_rate else bootstrap_mean)(values)


def difference(measure: str, first: dict[int, Readings], second: dict[int, Readings]) -> Interval | None:
    """A measure's difference, pair by pair, over the seeds that both have; None where they share none."""
    shared = [seed for seed in first if seed in second]
    if not shared:
        return None
    one, other = ([MEASURES[measure].of(side[seed]) for seed in shared] for side in (first, second))
    return paired_difference(np.stack(one), np.stack(other))


def summarize(
    store: Store, settings: Settings, tables: Sequence[Experiment], judge: Path, clip: Path | None = None
) -> dict[str, Any]:
    """Sum up what is stored, and write it to results.json.

    Args:
        store: of the results; those count that are there for all its pairs.
        settings: of the run.
        tables: experiments to report.
        judge: file of the judge; its accuracy is told.
        clip: folder of a CLIP model, for the CLIP score.

    Returns:
        What results.json holds: settings, experiments with rows and what is missing, goals, comparisons, scores.
    """
    results = {
        "settings": {
            **asdict(settings),
            "pairs": store.pairs,
            "seeds": sorted({adapter.seed for adapter in store.adapters}),
            "guidance": f"{TEXT_GUIDANCE:g} where there is a text, else none",
            "sampler": f"DDIM, {settings.steps} steps, zero terminal SNR",
            "adapters": [adapter.identity for adapter in store.adapters],
        },
        "judge": _accuracy(judge),
        "measures": {name: {"label": one.label, "better": one.better} for name, one in MEASURES.items()},
        "experiments": {table.name: _table(store, table) for table in tables},
        "goals": [_goal(store, goal) for goal in GOALS],
        "comparisons": [_comparison(store, comparison) for comparison in COMPARISONS],
        "scores": _scores(store, clip),
    }
    plain = json.loads(json.dumps(results), parse_constant=lambda _nan: None)
    save_text(store.out / RESULTS_FILE, json.dumps(plain, indent=1))
    return plain


def _table(store: Store, table: Experiment) -> dict[str, Any]:
    rows, missing = [], []
    for row in table.rows:
        readings = store.readings(row)
        if not readings:
            known = row.family == NO_ADAPTER or any(adapter.family == row.family for adapter in store.adapters)
            why = "not measured yet" if known else f"no adapter {row.family}_seed*.safetensors"
            missing.append(
                {"condition": row.condition.name, "label": row.condition.label, "family": row.family, "why": why}
            )
            continue
        rows.append(_row(store, table, row, readings))
    return {"about": table.about, "columns": list(table.measures), "rows": rows, "missing": missing}


def _row(store: Store, table: Experiment, row: Row, readings: dict[int, Readings]) -> dict[str, Any]:
    result: dict[str, Any] = {
        "condition": row.condition.name,
        "label": row.condition.label,
        "family": row.family,
        "tokens": next((adapter.tokens for adapter in store.adapters if adapter.family == row.family), None),
        "seeds": sorted(readings),
        "pairs": store.pairs,
        "measures": {name: _plain(interval(name, readings)) for name in table.measures},
    }
    if table.name in ("pfv", "pooled"):
        oracle = store.readings(Row(IMAGE_ONLY[View.ORACLE], row.family))
        differences = {name: difference(name, readings, oracle) for name in AGAINST_ORACLE}
        result["against_oracle"] = {name: _plain(found) for name, found in differences.items() if found is not None}
    return result


def _plain(interval: Interval) -> dict[str, float]:
    return {name: round(value, 5) for name, value in asdict(interval).items() if name in ("value", "low", "high")}


def _row_of(condition: str, family: str) -> Row:
    every = (CEILING, TEXT, *IMAGE_ONLY.values(), *CONFLICT, *LOUD, *SEEING, *BOUNDED)
    return Row(next(one for one in every if one.name == condition), family)


def _goal(store: Store, goal: Goal) -> dict[str, Any]:
    readings = store.readings(_row_of(goal.condition, goal.family))
    found: Interval | None = None
    if goal.against_oracle:
        found = difference(goal.measure, readings, store.readings(Row(IMAGE_ONLY[View.ORACLE], goal.family)))
    elif readings:
        found = interval(goal.measure, readings)
    if found is not None and math.isnan(found.value):
        found = None
    return {
        **asdict(goal),
        "measured": None if found is None else _plain(found),
        "status": "not measured" if found is None else status(found, goal.relation, goal.goal),
    }


def status(found: Interval, relation: str, goal: float) -> str:
    """`met` or `missed`, and `, not certain` where the interval reaches over the goal.

    `not >` asks that nothing shows: it is met where the interval does not lie above the goal.
    """
    if relation == "not >":
        return "missed" if found.low > goal else "met"
    if relation == ">":
        return "met" if found.low > goal else "met, not certain" if found.value > goal else "missed"
    sign = 1 if relation == ">=" else -1
    worst, best = sorted((sign * found.low, sign * found.high))
    value, goal = sign * found.value, sign * goal
    if value >= goal:
        return "met" if worst >= goal else "met, not certain"
    return "missed" if best < goal else "missed, not certain"


def _comparison(store: Store, comparison: Comparison) -> dict[str, Any]:
    first, second = comparison.first, comparison.second
    if second[0] == "best global":
        second = (_best_global(store, comparison.measure), second[1])
    found = difference(comparison.measure, *(store.readings(_row_of(*side)) for side in (first, second)))
    if found is not None and math.isnan(found.value):
        found = None
    verdict = "not measured"
    if found is not None:
        verdict = "holds" if found.low > 0 else "the reverse holds" if found.high < 0 else "cannot be told apart"
    return {
        "experiment": comparison.experiment,
        "claim": comparison.claim,
        "measure": comparison.measure,
        "first": first,
        "second": second,
        "difference": None if found is None else _plain(found),
        "verdict": verdict,
    }


def _best_global(store: Store, measure: str) -> str:
    """The whole-frame scale that does best; the middle one where none was measured."""
    means = {}
    for name in GLOBALS:
        readings = store.readings(_row_of(name, MAIN))
        if readings:
            means[name] = interval(measure, readings).value
    return max(means, key=lambda name: means[name]) if means else GLOBALS[1]


def _scores(store: Store, clip: Path | None) -> dict[str, dict[str, Any]]:
    """Scores of public networks, with the reason where there is none."""
    made, real = (store.images(Row(condition, NO_ADAPTER)) for condition in (TEXT, CEILING))
    scores: dict[str, learned.Score] = {}
    if made is None or real is None:
        why = learned.not_computed("the images of table text are not there yet")
        scores |= {f"{name}, text alone against scenes": why for name in ("FID", "KID", "IS")}
        scores["CLIP score, text alone"] = why
    else:
        found = learned.quality_scores(real, made)
        scores |= {f"{name}, text alone against scenes": score for name, score in found.items()}
        captions = [caption(first) for first, _ in store.truth.pairs][: len(made)]
        scores["CLIP score, text alone"] = learned.clip_score_of_folder(made, captions, clip)
    scores |= _distances(store)
    return {name: {"value": score.value, "note": score.note} for name, score in scores.items()}


def _distances(store: Store) -> dict[str, learned.Score]:
    """LPIPS of what a reference with its product makes against what the oracle makes, on the first chunk."""
    oracle = store.images(Row(IMAGE_ONLY[View.ORACLE], MAIN), only_first=True)
    scores = {}
    for view in (View.VISIBLE, View.DROPPED):
        made = store.images(Row(IMAGE_ONLY[view], MAIN), only_first=True)
        for title, masked in (("LPIPS", False), ("LPIPS on the wall", True)):
            name = f"{title}, {IMAGE_ONLY[view].label} against the oracle"
            if made is None or oracle is None:
                scores[name] = learned.not_computed("the images of table pfv are not there yet")
                continue
            scores[name] = learned.perceptual_distance(oracle, made, sure_wall(len(made)) if masked else None)
    return scores


def _accuracy(judge: Path) -> dict[str, Any]:
    """What the judge's file says of its accuracy on held-out scenes."""
    with safe_open(judge, framework="pt") as content:
        metadata = content.metadata() or {}
    accuracy: dict[str, Any] = json.loads(metadata.get("accuracy", "{}"))
    return accuracy
