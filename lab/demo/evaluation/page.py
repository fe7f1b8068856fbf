"""The page that says what an ablation run showed, in Markdown: every figure and every verdict on it is the run's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from .advice import advice
from .earlier import against_earlier
from .markdown import claims_table, markdown_table, number

Results = dict[str, Any]

RELATIONS = {
    ">=": "at least {}",
    "<=": "at most {}",
    "=": "within {}",
}
ARROWS = {"higher": " ↑", "lower": " ↓", "nearer to 0": " → 0", "nearer to 1": " → 1"}
PICTURES = {  # after which tables: file beside the page, and what it shows
    "mepa": ("ablations.jpg", "The first test pairs: what the text names, the reference, and what comes out"),
    "ad": (
        "ablations_ad.jpg",
        "Four test pairs, with and without PFV, with and without the depth mask, one noise each",
    ),
}
HOW = """\
A pair is two scenes that share no product colour, shape, wall colour, pattern or table. Scenes are of combinations that no
training on such scenes saw (U-Net and autoencoder began with weights that were trained on flat drawings of all of them): a
part of the pairs of product colour and shape, and of wall colour and pattern, is held out (`lab/demo/splits.py`). Rivals and
MEPA were tried at several strengths with the first training of their adapter on {development} development pairs, of other
seeds and other held-out combinations than the test pairs; the one that did best there is in the tables, measured on the test
pairs with every training (the balance with the first). All readings are kept, in
[readings/ablations.zip](readings/ablations.zip).

One noise for each pair, the same under all conditions. What a picture shows is read by a small classifier (`judge`). It reads
blurred pictures too, so sharpness, halo and the decibels around a product are measured against the true picture, and what the
true picture gives through the autoencoder, and blurred, stands beside them as yardsticks. Halo and decibels count before
plain walls alone, the smaller part of the pairs: a pattern that lies some pixels off would count as the product's rim. Halo is
measured towards the ad's own product: of the other product's look it says nothing.

In brackets: 95 % intervals over trainings and pairs, Student's with the variance of both ways; Wilson's for rates, with as
many trials as that variance leaves. The test pairs have ten combinations of a product and ten of a wall, so pairs are not as
many looks as there are pairs: an interval is the widest of those that take each pair as one draw, and all pairs of the product,
or of the wall, that is read; where all or none hit it is of the pairs. The column *seeds* says how many trainings a row
has; with one, the interval says nothing of other trainings. Claims about the numbers of tokens compare the first training of
each. A claim holds where its p, corrected for all claims of its table (Holm), is below 0.05; so its interval alone may leave
out 0. A difference of rates counts as none where two one-sided tests at 5 % show it to be within {margin:g}; so few pairs can
hardly show that.

`eq3` is the paper's compression, trained with the zeroed embedding of Eq. 1, `eq3_c16_drop` the same trained with dropped
tokens; `resampler` is the public adapters'; `ipadapter_c16` a resampler trained for as many steps without masks and regions."""


def page(results: Results) -> str:
    """The whole page for what `summarize` returned."""
    settings = results["settings"]
    seeds = ", ".join(map(str, settings["seeds"])) or "none"
    parts = [
        "# What the demo models show",
        f"Measured by `{command(results)}`, written by `python -m tools.write_ablations`: adapters of the "
        f"training seeds {seeds}; {settings['sampler']}, {settings['precision']}; guidance {settings['guidance']}.",
        HOW.format(development=settings["development"], margin=settings["margin"]),
        "## When MEPA helps, and when not",
        advice(results),
        "## What was wanted, and what came out",
        _goals(results["goals"], results["measures"]),
        "## Against the demo before",
        against_earlier(results),
    ]
    for name, experiment in results["experiments"].items():
        parts += _experiment(name, experiment, results)
    parts += ["## The judge", _judge(results["judge"])]
    return "\n\n".join(parts) + "\n"


def command(results: Results) -> str:
    """What measures the same again."""
    settings = results["settings"]
    pairs = (f"--pairs {name}={experiment['pairs']}" for name, experiment in results["experiments"].items())
    return (
        f"python -m lab.demo.evaluation.ablations --out FOLDER --precision {settings['precision']} "
        f"--development {settings['development']} {' '.join(pairs)}"
    )


def _experiment(name: str, experiment: dict[str, Any], results: Results) -> Iterator[str]:
    measures = results["measures"]
    yield f"## {experiment['title']}"
    yield f"{experiment['about']} {experiment['pairs']} test pairs."
    if experiment["rows"]:
        yield _rows(experiment["rows"], experiment["columns"], "measures", measures)
    if experiment["sweeps"]:
        yield "On the development pairs, by strength (product, table and wall all right; the best one is in the table above):"
        yield _sweeps(experiment["sweeps"], measures)
    compared = [row for row in experiment["rows"] if row.get("against_oracle")]
    if compared:
        yield "The same, pair by pair, against the scene without its product:"
        yield _rows(compared, list(compared[0]["against_oracle"]), "against_oracle", measures)
    comparisons = [one for one in results["comparisons"] if one["experiment"] == name and one["difference"]]
    if comparisons:
        yield claims_table(comparisons, measures, "pair")
    if experiment["rows"] and name in PICTURES:
        file, text = PICTURES[name]
        yield f"![{text}]({file})"
    if experiment["missing"]:
        yield _missing(experiment["missing"])


def _missing(missing: Sequence[dict[str, str]]) -> str:
    reasons: dict[str, list[str]] = {}
    for one in missing:
        reasons.setdefault(f"{one['why']} ({one['family']})" if one["family"] else one["why"], []).append(one["label"])
    return "Not here:\n" + "\n".join(f"* {why}: {'; '.join(labels)}" for why, labels in reasons.items())


def _goals(goals: Sequence[dict[str, Any]], measures: Results) -> str:
    rows = [
        [
            goal["claim"],
            ("difference " if goal["is_difference"] else "") + RELATIONS[goal["relation"]].format(f"{goal['goal']:g}"),
            number(goal["measured"], measures[goal["measure"]]),
            goal["status"],
        ]
        for goal in goals
    ]
    return markdown_table(["", "goal", "measured", ""], rows)


def _rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], part: str, measures: Results) -> str:
    several = len({row["family"] for row in rows}) > 1
    titles = [f"{measures[name]['label']}{ARROWS.get(measures[name]['better'], '')}" for name in columns]
    body = [
        [
            row["label"],
            *([row["family"]] if several else []),
            str(len(row["seeds"])) if row["family"] else "",
            *(number(row[part].get(name), measures[name]) for name in columns),
        ]
        for row in rows
    ]
    return markdown_table(["", *(["adapter"] if several else []), "seeds", *titles], body)


def _sweeps(sweeps: Sequence[dict[str, Any]], measures: Results) -> str:
    scales = sorted({scale for sweep in sweeps for scale in sweep["tried"]}, key=float)
    rows = []
    for sweep in sweeps:
        tried = [sweep["tried"].get(scale) for scale in scales]
        best = "not chosen yet" if sweep["best"] is None else f"{sweep['best']:g}"
        end = ", an end of what was tried" if sweep["at_end"] else ""
        cells = ["" if one is None else f"{one['value']:.{measures['all_three']['digits']}f}" for one in tried]
        rows.append([sweep["label"], sweep["family"], *cells, best + end])
    return markdown_table(["", "adapter", *scales, "best"], rows)


def _judge(accuracy: dict[str, dict[str, str]]) -> str:
    if not accuracy:
        return "Its file says nothing of its accuracy."
    names = list(next(iter(accuracy.values())))
    rows = [[way, *(row[name] for name in names)] for way, row in accuracy.items()]
    return "Accuracy on scenes it did not learn from.\n\n" + markdown_table(["", *names], rows)
