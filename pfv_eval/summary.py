"""From stored chunks of an ablation run to tables with confidence intervals, goals and comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from pfv_demo.captions import caption
from pfv_demo.scenes import Scene, labels, sample_pair

from . import learned
from .ablations import AdapterFile, Settings, Unit, sure_wall, units
from .conditions import (
    BOUNDED,
    CEILING,
    CONFLICT,
    COPYING,
    IMAGE_ONLY,
    IP_ADAPTER,
    LOUD,
    MAIN,
    NO_ADAPTER,
    NUM_TOKENS,
    RESAMPLER,
    TEXT,
    TEXT_GUIDANCE,
    Condition,
    Experiment,
    Row,
    View,
)
from .files import save_text
from .judge import CLASSES, NONE
from .metrics import tint_towards
from .statistics import Interval, bootstrap_mean, paired_difference, rate

RESULTS_FILE = "results.json"
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
    "all_three": _rate("product, table and wall all right", "higher", lambda r: r.all_three()),
}
AGAINST_ORACLE = ("foreign_color", "foreign_shape", "foreign_object", "leak_ratio", "foreign_share")


@dataclass(frozen=True)
class Goal:
    """What must be reached: `measure` of a row at least or at most `goal`; against the oracle if so said."""

    claim: str
    experiment: str
    condition: str
    family: str
    measure: str
    relation: str
    goal: float
    against_oracle: bool = False


_VISIBLE, _DROPPED = IMAGE_ONLY[View.VISIBLE].name, IMAGE_ONLY[View.DROPPED].name
GOALS = (
    Goal("the text sets the product's colour", "text", TEXT.name, NO_ADAPTER, "product_text", ">=", 0.98),
    Goal("the text sets the table", "text", TEXT.name, NO_ADAPTER, "table_text", ">=", 0.98),
    Goal("the text sets the wall's colour", "text", TEXT.name, NO_ADAPTER, "wall_text", ">=", 0.98),
    Goal("the text sets the wall's pattern", "text", TEXT.name, NO_ADAPTER, "pattern_text", ">=", 0.93),
    Goal("the text sets the product's shape", "text", TEXT.name, NO_ADAPTER, "shape_text", ">=", 0.85),
    Goal("the image prompt sets the wall's colour", "pfv", _DROPPED, MAIN, "wall_reference", ">=", 0.95),
    Goal("the image prompt sets the wall's pattern", "pfv", _DROPPED, MAIN, "pattern_reference", ">=", 0.60),
    Goal("a visible foreign product tints the wall", "pfv", _VISIBLE, MAIN, "tint", ">=", 0.08),
    Goal("PFV: a hidden one does not", "pfv", _DROPPED, MAIN, "tint", "<=", 0.01),
    Goal("the resampler copies a visible product's shape", "pfv", _VISIBLE, RESAMPLER, "foreign_shape", ">", 0.0, True),
    Goal("PFV: not a hidden one's", "pfv", _DROPPED, RESAMPLER, "foreign_shape", "not >", 0.0, True),
    Goal("MEPA's output gate under conflict", "mepa", "conflict_output_0", MAIN, "all_three", ">=", 0.93),
)


@dataclass(frozen=True)
class Comparison:
    """Whether the first of two rows of an experiment has more of a measure than the second."""

    experiment: str
    claim: str
    measure: str
    first: tuple[str, str]
    second: tuple[str, str]


def _balanced(title: str, rows: Sequence[Condition], family: str, measure: str) -> tuple[Comparison, ...]:
    """What each balance gains over the branch as it is, and both over the normalisation alone."""
    plain, std_norm, time, both = (row.name for row in rows)
    pairs = {"std_norm does better": (std_norm, plain), "time_weighting does better": (time, plain)}
    pairs |= {"both do better": (both, plain), "both do better than std_norm alone": (both, std_norm)}
    return tuple(
        Comparison("balance", f"{title}: {claim}", measure, (first, family), (second, family))
        for claim, (first, second) in pairs.items()
    )


_GLOBALS = tuple(condition.name for condition in CONFLICT if condition.name.startswith("conflict_global"))
COMPARISONS = (
    Comparison(
        "pfv", "a visible product tints more than one hidden by PFV", "tint", (_VISIBLE, MAIN), (_DROPPED, MAIN)
    ),
    *(
        Comparison("pfv", f"{what} tints more than PFV", "tint", (IMAGE_ONLY[view].name, MAIN), (_DROPPED, MAIN))
        for view, what in (
            (View.ZEROED, "the zeroed embedding of Eq. 1"),
            (View.BLURRED, "blurring"),
            (View.BLACKED, "blacking out"),
            (View.GREYED, "filling with grey"),
        )
    ),
    Comparison(
        "mepa",
        "Eq. 6 as printed does better than the best whole-frame scale under conflict",
        "all_three",
        ("conflict_query_0", MAIN),
        ("best global", MAIN),
    ),
    Comparison(
        "mepa",
        "the output gate does better than Eq. 6 as printed",
        "all_three",
        ("conflict_output_0", MAIN),
        ("conflict_query_0", MAIN),
    ),
    Comparison(
        "mepa",
        "the output gate does better than an IP-Adapter with an attention mask",
        "all_three",
        ("conflict_output_0", MAIN),
        ("conflict_output_1", IP_ADAPTER),
    ),
    *(
        Comparison(
            "compression",
            f"Eq. 3 with {count} tokens keeps more of the wall's {what} than the resampler",
            measure,
            (_DROPPED, f"eq3_c{count}"),
            (_DROPPED, f"resampler_c{count}"),
        )
        for what, measure in (("colour", "wall_reference"), ("pattern", "pattern_reference"))
        for count in NUM_TOKENS
    ),
    *_balanced("a branch three times as loud", LOUD, MAIN, "all_text"),
    *_balanced("a resampler that copies the product", COPYING, RESAMPLER, "product_text"),
    *_balanced("in its region", BOUNDED, MAIN, "all_three"),
)


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
    if table.name == "pfv":
        oracle = store.readings(Row(IMAGE_ONLY[View.ORACLE], row.family))
        differences = {name: difference(name, readings, oracle) for name in AGAINST_ORACLE}
        result["against_oracle"] = {name: _plain(found) for name, found in differences.items() if found is not None}
    return result


def _plain(interval: Interval) -> dict[str, float]:
    return {name: round(value, 5) for name, value in asdict(interval).items() if name in ("value", "low", "high")}


def _row_of(condition: str, family: str) -> Row:
    every = (CEILING, TEXT, *IMAGE_ONLY.values(), *CONFLICT, *LOUD, *COPYING, *BOUNDED)
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
    for name in _GLOBALS:
        readings = store.readings(_row_of(name, MAIN))
        if readings:
            means[name] = interval(measure, readings).value
    return max(means, key=lambda name: means[name]) if means else _GLOBALS[1]


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
