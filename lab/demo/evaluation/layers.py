"""What each cross-attention of the demo U-Net carries of a reference, and when: each alone, each left out, each part of time.

    python -m lab.demo.evaluation.layers --out FOLDER [--pairs 200] [--adapter FILE] [--weights FOLDER] [--steps 12] [--batch 50]
                              [--precision bfloat16] [--judge FILE] [--only SITUATION] [--report-only]

Pairs, models and judge are those of `lab.demo.evaluation.ablations`, and like there what is done is stored and not done
again. FOLDER/layers.json holds every figure with its 95 % interval; what is printed is the table of docs/layers.md.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from pfv_core.attention.control import PromptControl
from pfv_core.attention.curve import Curve, sampling_curve
from pfv_core.attention.layer_weights import LayerWeights
from pfv_core.attention.weights import PromptWeights

from ...files import save_text
from .. import stack
from .ablation_units import AdapterFile, claim_folder, settings_of, short_hash, units
from .ablations import PRECISIONS, Run
from .conditions import Area, Condition, Row, View, Words
from .experiments import MAIN, MAIN_TOKENS
from .judge import FILE as JUDGE_FILE
from .measures import MEASURES
from .models import load_models
from .pairs import Split
from .store import Store, interval
from .summary import difference

RESULTS = "layers.json"
PLACES = ("input 1.0", "middle", "output 1.0", "output 1.1")  # of the demo U-Net, in running order
EVERYWHERE = ", ".join(PLACES)
NOWHERE = "nowhere"
EDGE = 0.001  # of the sampling, over which a part of it begins and ends
PARTS = {  # of the sampling: where they begin and end
    "first third": (0.0, 1 / 3),
    "second third": (1 / 3, 2 / 3),
    "last third": (2 / 3, 1.0),
    "first half": (0.0, 0.5),
    "last half": (0.5, 1.0),
    "last two thirds": (1 / 3, 1.0),
    "first two thirds": (0.0, 2 / 3),
}
CURVES = ("rising", "falling", "rising_falling", "falling_rising")
COLUMNS = (
    "wall_reference",
    "pattern_reference",
    "layout",
    "wall_text",
    "pattern_text",
    "foreign_color",
    "foreign_shape",
)


@dataclass(frozen=True)
class Situation:
    """What stands against the reference.

    Attributes:
        about: for readers.
        condition: its text, view, region and control; weights are put in.
        every: whether all sets of layers and all parts of the sampling are measured, or each layer alone and left out.
    """

    about: str
    condition: Condition
    every: bool = True


SITUATIONS = {
    "region": Situation(
        "The text names another wall; the image prompt has the wall's region to itself (text_share 0).",
        Condition("layers_region", "", Words.EVERYTHING, View.DROPPED, PromptControl(text_share=0.0), Area.WALL),
    ),
    "visible": Situation(
        "No text, whole frame, and the foreign product is not hidden: what of it comes along.",
        Condition("layers_visible", "", view=View.VISIBLE),
        every=False,
    ),
}


def weightings(every: bool) -> Iterator[tuple[str, PromptWeights]]:
    """(what it is called, weights) of each row."""
    yield EVERYWHERE, PromptWeights()
    yield NOWHERE, PromptWeights(sampling=Curve(((0.0, 0.0),)))
    for count in (1, 2, 3) if every else (1, 3):
        for places in combinations(PLACES, count):
            table = ", ".join(["all: 0", *(f"{place}: 1" for place in places)])
            yield ", ".join(places), PromptWeights(LayerWeights.of("custom", table))
    if every:
        for name, (start, end) in PARTS.items():
            yield name, PromptWeights(sampling=Curve(tuple(_part(start, end))))
        for name in CURVES:
            yield name.replace("_", ", "), PromptWeights(sampling=sampling_curve(name))


def _part(start: float, end: float) -> Iterator[tuple[float, float]]:
    """Points of a curve that is 1 from start to end."""
    if start > 0:
        yield from ((start - EDGE, 0.0), (start, 1.0))
    else:
        yield 0.0, 1.0
    if end < 1:
        yield from ((end - EDGE, 1.0), (end, 0.0))


def conditions(situation: Situation) -> dict[str, Condition]:
    """By what they are called."""
    base = situation.condition
    return {
        label: replace(
            base, name=f"{base.name}_{sha256(repr(weights).encode()).hexdigest()[:8]}", label=label, weights=weights
        )
        for label, weights in weightings(situation.every)
    }


def table(store: Store, rows: dict[str, Condition], columns: Sequence[str], pairs: int) -> dict[str, dict[str, Any]]:
    """By label and measure: value and interval, and of each measure the difference to every layer, pair by pair."""
    whole = store.readings(Row(rows[EVERYWHERE], MAIN), pairs)
    found = {}
    for label, condition in rows.items():
        readings = store.readings(Row(condition, MAIN), pairs)
        if not readings:
            continue
        found[label] = {
            measure: {
                **_figures(asdict(interval(measure, readings))),
                "to_all": _figures(asdict(difference(measure, readings, whole))) if whole else None,  # type: ignore[arg-type]
            }
            for measure in columns
        }
    return found


def _figures(values: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 4) for name, value in values.items()}


def printed(rows: dict[str, dict[str, Any]], columns: Sequence[str]) -> str:
    """As a table of Markdown."""
    heads = [MEASURES[name].label for name in columns]
    lines = [f"| image prompt in | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for label, measures in rows.items():
        cells = [_cell(measures[name], MEASURES[name].is_rate) for name in columns]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(figures: dict[str, Any], is_rate: bool) -> str:
    if figures["value"] is None:
        return "n/a"
    form = ".0%" if is_rate else ".2f"
    low, value, high = (
        None if figures[name] is None else f"{figures[name]:{form}}" for name in ("low", "value", "high")
    )
    return f"{value}" if low is None else f"{value} ({low}-{high})"


def main(arguments: list[str] | None = None) -> None:
    """Measure what was asked for, then print and store all that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results, to be continued")
    parser.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the demo models")
    parser.add_argument("--adapter", type=Path, help="file of the adapter; default the demo's own")
    parser.add_argument("--pairs", type=int, default=200, help="held-out pairs of scenes")
    parser.add_argument("--steps", type=int, default=12, help="of DDIM")
    parser.add_argument("--batch", type=int, default=50, help="pairs in a chunk")
    parser.add_argument("--judge", type=Path, default=JUDGE_FILE, help="file of the judge")
    parser.add_argument("--only", action="append", choices=tuple(SITUATIONS), help="this situation; may be repeated")
    parser.add_argument("--report-only", action="store_true", help="make no images, sum up what is stored")
    parser.add_argument("--precision", choices=PRECISIONS, default=PRECISIONS[0], help="of the sampling")
    options = parser.parse_args(arguments)
    if options.batch < 1 or options.pairs < 1 or options.pairs % options.batch:
        parser.error(f"--pairs is {options.pairs}, expected a multiple of --batch, {options.batch}")
    torch.set_flush_denormal(True)
    file = options.adapter or options.weights / "adapter.safetensors"
    adapter = AdapterFile(file, MAIN, MAIN_TOKENS, 0, f"{file.stem}-{short_hash(file)}")
    settings = settings_of(options.weights, options.judge, options.steps, options.batch, options.precision)
    claim_folder(options.out, settings)
    situations = {name: one for name, one in SITUATIONS.items() if not options.only or name in options.only}
    if not options.report_only:
        rows = [Row(one, MAIN) for situation in situations.values() for one in conditions(situation).values()]
        run = Run(load_models(options.weights, options.judge), settings, options.out)
        run.make(units(rows, [adapter], Split.TEST, options.pairs, options.batch), "layers")
    store = Store(options.out, [adapter], options.batch)
    results = {
        name: table(store, conditions(situation), COLUMNS, options.pairs) for name, situation in situations.items()
    }
    about = {**asdict(settings), "adapter": adapter.identity, "pairs": options.pairs}
    save_text(options.out / RESULTS, json.dumps({"settings": about, "situations": results}, indent=1))
    for name, found in results.items():
        print(f"\n{name}: {SITUATIONS[name].about}\n\n{printed(found, COLUMNS)}")
    print(f"\nwrote {options.out / RESULTS}")


if __name__ == "__main__":
    main()
