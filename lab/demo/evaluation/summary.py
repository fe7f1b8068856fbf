"""From stored chunks of an ablation run to tables with confidence intervals, goals and comparisons."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from ...evaluation.statistics import (
    EQUIVALENCE_LEVEL,
    LEVEL,
    Interval,
    equivalent,
    hit_difference,
    holm,
    paired_difference,
)
from ...files import save_text
from .ablation_units import Settings
from .claims import COMPARISONS, GOALS, MARGIN, Comparison, Goal
from .conditions import TEXT_GUIDANCE, Experiment, Row, Sweep, View
from .experiments import IMAGE_ONLY, NO_ADAPTER
from .measures import AGAINST_ORACLE, MEASURES, Readings
from .store import Store, interval

RESULTS_FILE = "results.json"
ORACLE = IMAGE_ONLY[View.ORACLE]


def difference(
    measure: str, first: dict[int, Readings], second: dict[int, Readings], level: float = LEVEL
) -> Interval | None:
    """A measure's difference, pair by pair, over the seeds that both have; None where they share none, or it is not defined."""
    shared = [seed for seed in first if seed in second]
    if not shared:
        return None
    one, other = (np.stack([MEASURES[measure].of(side[seed]) for seed in shared]) for side in (first, second))
    groups = MEASURES[measure].groups(first[shared[0]].truth)
    found = (hit_difference if MEASURES[measure].is_rate else paired_difference)(one, other, level, groups)
    return _defined(found)


def _defined(found: Interval) -> Interval | None:
    """None where a measure has no value on any pair."""
    return None if math.isnan(found.value) else found


def summarize(
    store: Store, settings: Settings, tables: Sequence[Experiment], judge: Path, development: int
) -> dict[str, Any]:
    """Sum up what is stored, and write it to results.json.

    Args:
        store: of the results; those count that are there for all pairs of their table.
        settings: of the run.
        tables: experiments to report.
        judge: file of the judge; its accuracy is told.
        development: pairs that sweeps are chosen on.

    Returns:
        What results.json holds: settings, experiments with rows, sweeps and what is missing, goals, comparisons.
    """
    summary = Summary(store, {table.name: table for table in tables}, development)
    results = {
        "settings": {
            **asdict(settings),
            "development": development,
            "seeds": sorted({adapter.seed for adapter in store.adapters}),
            "guidance": f"{TEXT_GUIDANCE:g} where there is a text or a table says so, else none",
            "sampler": f"DDIM, {settings.steps} steps, zero terminal SNR",
            "adapters": [adapter.identity for adapter in store.adapters],
            "margin": MARGIN,
        },
        "judge": _accuracy(judge),
        "measures": {
            name: {"label": one.label, "better": one.better, "digits": one.digits} for name, one in MEASURES.items()
        },
        "experiments": {table.name: summary.table(table) for table in tables},
        "goals": [summary.goal(goal) for goal in GOALS if goal.experiment in summary.tables],
        "comparisons": [one for table in tables for one in summary.comparisons(table)],
    }
    plain: dict[str, Any] = json.loads(json.dumps(results), parse_constant=lambda _nan: None)
    save_text(store.out / RESULTS_FILE, json.dumps(plain, indent=1))
    return plain


class Summary:
    """Tables, goals and comparisons of a store."""

    def __init__(self, store: Store, tables: dict[str, Experiment], development: int) -> None:
        self.store, self.tables, self.development = store, tables, development

    def readings(self, table: Experiment, row: Row | Sweep | None) -> dict[int, Readings]:
        """Of a table's row; none where its sweep was not chosen yet."""
        chosen = self.store.chosen(row, self.development) if row is not None else None
        return {} if chosen is None else self.store.readings(chosen, table.pairs, seeds=table.seeds)

    def table(self, table: Experiment) -> dict[str, Any]:
        """Rows that are there, what its sweeps tried, and what is missing."""
        rows, missing = [], []
        for row in table.rows:
            readings = self.readings(table, row)
            if readings:
                rows.append(self._row(table, row, readings))
            else:
                missing.append({**_named(row), "why": self._why(row)})
        return {
            "title": table.title,
            "about": table.about,
            "pairs": table.pairs,
            "columns": list(table.measures),
            "rows": rows,
            "sweeps": [self._sweep(sweep) for sweep in table.sweeps],
            "missing": missing,
        }

    def _row(self, table: Experiment, row: Row | Sweep, readings: dict[int, Readings]) -> dict[str, Any]:
        chosen = self.store.chosen(row, self.development)
        assert chosen is not None
        result: dict[str, Any] = {
            **_named(chosen),
            "seeds": sorted(readings),
            "measures": {name: plain(interval(name, readings)) for name in table.measures},
        }
        never_there = Row(ORACLE, row.family)
        if never_there in table.rows and chosen != never_there:
            oracle = self.readings(table, never_there)
            differences = {name: difference(name, readings, oracle) for name in AGAINST_ORACLE}
            result["against_oracle"] = {name: plain(found) for name, found in differences.items() if found is not None}
        return result

    def _why(self, row: Row | Sweep) -> str:
        known = row.family == NO_ADAPTER or any(adapter.family == row.family for adapter in self.store.adapters)
        return "not measured yet" if known else f"no adapter {row.family}_seed*.safetensors"

    def _sweep(self, sweep: Sweep) -> dict[str, Any]:
        tried, best = self.store.tried(sweep, self.development), self.store.best(sweep, self.development)
        scale = None if best is None else float(best.condition.control.image_scale)
        return {
            **_named(sweep),
            "tried": {f"{scale:g}": plain(found) for scale, found in tried.items()},
            "best": scale,
            "at_end": scale is not None and scale in (sweep.scales[0], sweep.scales[-1]),
        }

    def goal(self, goal: Goal) -> dict[str, Any]:
        """What a goal asks, what was measured, and whether it is met."""
        table = self.tables[goal.experiment]
        readings = self.readings(table, goal.row)
        if goal.against is not None:
            level = EQUIVALENCE_LEVEL if goal.relation == "=" else LEVEL
            found = difference(goal.measure, readings, self.readings(table, goal.against), level)
        else:
            found = _defined(interval(goal.measure, readings)) if readings else None
        return {
            "claim": goal.claim,
            "experiment": goal.experiment,
            "measure": goal.measure,
            "relation": goal.relation,
            "goal": goal.goal,
            "is_difference": goal.against is not None,
            "measured": None if found is None else plain(found),
            "status": "not measured" if found is None else status(found, goal.relation, goal.goal),
        }

    def comparisons(self, table: Experiment) -> list[dict[str, Any]]:
        """The differences of rows of a table that something is claimed of, and what they say together."""
        claims = [one for one in COMPARISONS if one.experiment == table.name]
        differences = [self._difference(table, claim) for claim in claims]
        return [
            {
                "experiment": claim.experiment,
                "claim": claim.claim,
                "measure": claim.measure,
                "difference": None if one.found is None else plain(one.found),
                **said,
            }
            for claim, one, said in zip(claims, differences, verdicts(differences), strict=True)
        ]

    def _difference(self, table: Experiment, claim: Comparison) -> Difference:
        first, second = (self.readings(table, side) for side in (claim.first, claim.second))
        found, narrow = (difference(claim.measure, first, second, level) for level in (LEVEL, EQUIVALENCE_LEVEL))
        return Difference(found, narrow, MARGIN if MEASURES[claim.measure].is_rate else None)


def status(found: Interval, relation: str, goal: float) -> str:
    """`met` or `missed`, and `, not certain` where the interval reaches over the goal; of an equality `not shown` there.

    Args:
        found: for "=" at EQUIVALENCE_LEVEL.
        relation: ">=", "<=", or "=": within -goal..goal, as two one-sided tests show it.
    """
    if relation == "=":
        if equivalent(found, goal):
            return "met"
        return "missed" if found.low > goal or found.high < -goal else "not shown"
    sign = 1 if relation == ">=" else -1
    worst, best = sorted((sign * found.low, sign * found.high))
    value, goal = sign * found.value, sign * goal
    if value >= goal:
        return "met" if worst >= goal else "met, not certain"
    return "missed" if best < goal else "missed, not certain"


@dataclass(frozen=True)
class Difference:
    """Of which it is claimed that the first is more.

    Attributes:
        found: at LEVEL; None = not measured.
        narrow: the same at EQUIVALENCE_LEVEL.
        margin: what would not matter; None = any difference does.
    """

    found: Interval | None
    narrow: Interval | None
    margin: float | None


def verdicts(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """What the claims of a table say: of each its p, corrected for how many they are, and its verdict."""
    corrected = holm([math.nan if one.found is None else one.found.p for one in differences])
    return [
        {"p": None if one.found is None else round(p, 5), "verdict": _verdict(one, p)}
        for one, p in zip(differences, corrected, strict=True)
    ]


def _verdict(one: Difference, p: float) -> str:
    if one.found is None or one.narrow is None:
        return "not measured"
    if p < 1 - LEVEL:
        return "holds" if one.found.value > 0 else "the reverse holds"
    is_none = one.margin is not None and equivalent(one.narrow, one.margin)
    return "equal within the margin" if is_none else "cannot be told apart"


def _named(row: Row | Sweep) -> dict[str, str]:
    condition = row.condition if isinstance(row, Row) else row.plain
    return {"condition": condition.name, "label": condition.label, "family": row.family}


def plain(interval: Interval) -> dict[str, float]:
    """What a page tells of it."""
    return {name: round(value, 5) for name, value in asdict(interval).items() if name in ("value", "low", "high")}


def _accuracy(judge: Path) -> dict[str, Any]:
    """What the judge's file says of its accuracy on held-out scenes."""
    with safe_open(judge, framework="pt") as content:
        metadata = content.metadata() or {}
    accuracy: dict[str, Any] = json.loads(metadata.get("accuracy", "{}"))
    return accuracy
