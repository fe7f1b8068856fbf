"""The HTML report of an ablation run: one file with all its pictures."""

from __future__ import annotations

from html import escape
from typing import Any

from torch import Tensor

from pfv_core.reference.preview import patch_grid_preview

from ...evaluation.page import contact_sheet, interval_plot, page, table
from ...files import save_text
from ..captions import caption
from .chunk import Chunk, Models
from .conditions import (
    BOUNDED,
    CEILING,
    CONFLICT,
    IMAGE_ONLY,
    IP_ADAPTER,
    LINEAR,
    LOUD,
    MAIN,
    NO_ADAPTER,
    RESAMPLER,
    SEEING,
    TEXT,
    Condition,
    Row,
    View,
)
from .summary import Store

REPORT_FILE = "report.html"
SHEET_ROWS = 6
TITLES = {
    "text": "Text",
    "pfv": "Partially visible references",
    "pooled": "Partially visible references, one pooled embedding",
    "mepa": "Text against image",
    "no_conflict": "Text and image agree",
    "compression": "Image tokens",
    "balance": "Text and image in balance",
}
LEAD = {  # measure that is plotted, and the goal on its axis
    "text": ("all_text", None),
    "pfv": ("tint", 0.01),
    "pooled": ("tint", 0.01),
    "mepa": ("all_three", 0.93),
    "no_conflict": ("all_three", None),
    "compression": ("pattern_reference", None),
    "balance": ("all_text", None),
}
_CLASS = {
    "met": "good",
    "met, not certain": "fair",
    "missed, not certain": "fair",
    "missed": "bad",
    "not measured": "soft",
}
_CLASS |= {"holds": "good", "cannot be told apart": "fair", "the reverse holds": "bad"}


def write_report(store: Store, results: dict[str, Any], models: Models) -> None:
    """Write report.html beside the results that it shows."""
    text = report(store, results, models)
    save_text(store.out / REPORT_FILE, text)


def report(store: Store, results: dict[str, Any], models: Models) -> str:
    """The page for what `summarize` returned."""
    chunk = Chunk(models, 0, min(SHEET_ROWS, store.pairs, store.batch))
    parts = [_head(results["settings"]), _goals(results["goals"]), _comparisons(results["comparisons"])]
    for name, experiment in results["experiments"].items():
        parts.append(_experiment(name, experiment, results["measures"]))
        parts += [f"<h3>{escape(title)}</h3>{sheet}" for title, sheet in _sheets(name, store, chunk)]
    parts += [_scores(results["scores"]), _judge(results["judge"])]
    return page("PFV and MEPA, measured", "".join(parts))


def _head(settings: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, settings["seeds"])) or "none"
    return (
        "<h1>PFV and MEPA, measured on the demo models</h1>"
        f"<p>{settings['pairs']} held-out pairs of scenes, adapters of seeds {escape(seeds)}; "
        f"{escape(settings['sampler'])}; classifier-free guidance {escape(settings['guidance'])}. One noise for each "
        "pair, the same under all conditions. Brackets are 95 % intervals over seeds and pairs: the two-way bootstrap, "
        "and Wilson's for rates.</p>"
    )


def _goals(goals: list[dict[str, Any]]) -> str:
    rows = []
    for goal in goals:
        wanted = {
            ">": "above the oracle's",
            "not >": "not above the oracle's",
        }.get(goal["relation"], f"{'≥' if goal['relation'] == '>=' else '≤'} {goal['goal']:g}")
        rows.append([escape(goal["claim"]), wanted, _number(goal["measured"]), _mark(goal["status"])])
    return "<h2>Goals</h2>" + table(["what", "goal", "measured", ""], rows)


def _comparisons(comparisons: list[dict[str, Any]]) -> str:
    rows = [
        [
            escape(one["claim"]),
            _number(one["difference"]),
            _mark(one["verdict"]),
            f'<span class="soft">{escape(" ".join(one["first"]))} minus {escape(" ".join(one["second"]))}</span>',
        ]
        for one in comparisons
    ]
    return "<h2>Comparisons, pair by pair</h2>" + table(["claim", "difference", "", "rows"], rows)


def _experiment(name: str, experiment: dict[str, Any], measures: dict[str, Any]) -> str:
    columns = experiment["columns"]
    parts = [f"<h2>{escape(TITLES[name])}</h2><p>{escape(experiment['about'])}</p>"]
    if experiment["rows"]:
        parts.append(_plot(name, experiment["rows"], measures))
        header = [
            "",
            "adapter",
            "seeds",
            *(f"{measures[one]['label']}{_arrow(measures[one]['better'])}" for one in columns),
        ]
        rows = [
            [
                escape(row["label"]),
                escape(_adapter_name(row)),
                str(len(row["seeds"])),
                *(_number(row["measures"][one]) for one in columns),
            ]
            for row in experiment["rows"]
        ]
        parts.append(table(header, rows))
        parts.append(_against_oracle(experiment["rows"], measures))
    parts += [
        f'<p class="bad">Not here: {escape(one["label"])} {escape(one["family"])}: {escape(one["why"])}</p>'
        for one in experiment["missing"]
    ]
    return "".join(parts)


def _against_oracle(rows: list[dict[str, Any]], measures: dict[str, Any]) -> str:
    compared = [row for row in rows if row.get("against_oracle")]
    if not compared:
        return ""
    names = list(compared[0]["against_oracle"])
    body = [
        [escape(row["label"]), escape(_adapter_name(row)), *(_number(row["against_oracle"][name]) for name in names)]
        for row in compared
    ]
    header = ["", "adapter", *(measures[name]["label"] for name in names)]
    return "<h3>Difference to the same scene without its product</h3>" + table(header, body)


def _plot(name: str, rows: list[dict[str, Any]], measures: dict[str, Any]) -> str:
    measure, goal = LEAD[name]
    shown = [row for row in rows if row["measures"][measure]["value"] is not None]
    if not shown:
        return ""
    points = [
        (f"{row['label']}{' · ' + row['family'] if row['family'] else ''}", *_triple(row["measures"][measure]))
        for row in shown
    ]
    ends = [end for point in points for end in point[2:]]
    span = (0.0, 1.0) if min(ends) >= 0 and max(ends) > 0.5 else (min(0.0, *ends), max(0.02, *ends))
    return f"<h3>{escape(measures[measure]['label'])}</h3>{interval_plot(points, span, goal)}"


def _triple(measure: dict[str, float]) -> tuple[float, float, float]:
    return measure["value"], measure["low"], measure["high"]


def _sheets(name: str, store: Store, chunk: Chunk) -> list[tuple[str, str]]:
    """Titles and contact sheets of a table."""
    captions = [caption(scene) for scene in chunk.wanted]
    drawn = chunk.wanted_drawn.image.permute(0, 3, 1, 2)
    reference, view = ("reference", chunk.shown(View.VISIBLE)[0]), ("what PFV shows", _pfv_view(chunk))
    if name == "text":
        columns = [("scene, drawn", drawn), *_columns(store, ((CEILING, NO_ADAPTER), (TEXT, NO_ADAPTER)))]
        return [("Text alone", contact_sheet(columns, captions))]
    if name in ("pfv", "pooled"):
        sheets = []
        for family in (MAIN, RESAMPLER) if name == "pfv" else (LINEAR,):
            columns = _columns(store, tuple((condition, family) for condition in IMAGE_ONLY.values()))
            if columns:
                labels = [f"pair {index}" for index in range(len(captions))]
                sheets.append((f"Image prompt alone, {family}", contact_sheet([reference, view, *columns], labels)))
        return sheets
    if name == "mepa":
        region = chunk.region[:, None].expand(-1, 3, -1, -1)
        columns = _columns(store, (*((condition, MAIN) for condition in CONFLICT), (CONFLICT[-1], IP_ADAPTER)))
        fixed = [("scene of the text", drawn), reference, view, ("region", region)]
        return [("Text against image", contact_sheet([*fixed, *columns], captions))] if columns else []
    if name == "balance":
        of_family = ((LOUD, MAIN), (SEEING, RESAMPLER), (BOUNDED, MAIN))
        columns = _columns(store, tuple((condition, family) for rows, family in of_family for condition in rows))
        fixed = [("scene of the text", drawn), reference, view]
        return [("Balanced branches", contact_sheet([*fixed, *columns], captions))] if columns else []
    return []


def _columns(store: Store, rows: tuple[tuple[Condition, str], ...]) -> list[tuple[str, Tensor]]:
    """What is stored of these, titled."""
    found = ((condition, family, store.images(Row(condition, family), only_first=True)) for condition, family in rows)
    return [
        (f"{condition.label}, {family}" if family == IP_ADAPTER else condition.label, images)
        for condition, family, images in found
        if images is not None
    ]


def _pfv_view(chunk: Chunk) -> Tensor:
    image, patch_mask, _ = chunk.shown(View.DROPPED)
    return patch_grid_preview(image, patch_mask.hidden_pixels(), patch_mask.geometry)


def _scores(scores: dict[str, dict[str, Any]]) -> str:
    rows = [
        [escape(name), "&ndash;" if score["value"] is None else f"{score['value']:.4g}", escape(score["note"])]
        for name, score in scores.items()
    ]
    return "<h2>Scores of public networks</h2>" + table(["score", "value", "of what, or why not"], rows)


def _judge(accuracy: dict[str, dict[str, str]]) -> str:
    if not accuracy:
        return '<h2>The judge</h2><p class="bad">Its file says nothing of its accuracy.</p>'
    names = list(next(iter(accuracy.values())))
    rows = [[escape(way), *(escape(row[name]) for name in names)] for way, row in accuracy.items()]
    return "<h2>The judge</h2><p>Accuracy on held-out scenes, with 95 % intervals.</p>" + table(["", *names], rows)


def _number(measure: dict[str, Any] | None) -> str:
    if measure is None or measure["value"] is None:
        return "&ndash;"
    return f"{measure['value']:.3f} <small>({measure['low']:.3f} to {measure['high']:.3f})</small>"


def _mark(status: str) -> str:
    return f'<span class="{_CLASS[status]}">{escape(status)}</span>'


def _arrow(better: str) -> str:
    return {"higher": " ↑", "lower": " ↓", "nearer to 0": " → 0"}.get(better, "")


def _adapter_name(row: dict[str, Any]) -> str:
    return row["family"] or "&ndash;"
