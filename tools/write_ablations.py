"""Writes docs/ablations.md, its pictures and the README's tables anew from a run of `lab.demo.evaluation.ablations`.

    python -m tools.write_ablations FOLDER [--root FOLDER]

The page is the run's own, every figure and verdict on it from FOLDER/results.json; the readings that these are of become
docs/readings/ablations.zip, which the next run begins with (`--begin`). In the README the tables between `<!-- measured -->` and
`<!-- /measured -->` are replaced.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lab.demo.evaluation.markdown import markdown_table
from lab.demo.evaluation.page import page
from lab.demo.evaluation.readings import pack

from .draw_ablations import draw
from .files import save_text
from .marked import between_marks

ROOT = Path(__file__).resolve().parent.parent
READINGS = "docs/readings/ablations.zip"
ADS = {
    "with PFV and depth mask": "ad_dropped_masked",
    "without PFV": "ad_visible_masked",
    "without the depth mask": "ad_dropped_whole",
    "with neither": "ad_visible_whole",
}
TRUE_ADS = {"the true ad, encoded and decoded": "ad_decoded", "the same in another light": "ad_light"}
WALL = ("wall_reference", "pattern_reference")
VIEWS = {"visible": "image_visible", "hidden by PFV": "image_dropped", "never there": "image_oracle"}

Results = dict[str, Any]


def with_tables(readme: str, results: Results) -> str:
    """The README with the tables of these results; MarkerError where it has not exactly one place for them."""
    return between_marks(readme, "measured", readme_tables(results))


def readme_tables(results: Results) -> str:
    """The figures that the README shows."""
    tables = (_joined_table(results), _copied_table(results), _ads_table(results), _pictures_table(results))
    return "\n\n".join(tables)


def _joined_table(results: Results) -> str:
    """Each way at the strength that did best, with and without conflict."""
    agreeing = {(_way(row), row["family"]): row for row in _rows(results, "no_conflict")}
    rows = []
    for row in _rows(results, "mepa"):
        sides = [row, agreeing.get((_way(row), row["family"]))]
        values = ["n/a" if one is None else f"{one['measures']['all_three']['value']:.3f}" for one in sides]
        rows.append([_way(row), *values])
    title = "product, table and wall right in one picture, where"
    return markdown_table([title, "the text names another wall", "the text leaves the wall to the reference"], rows)


def _way(row: dict[str, Any]) -> str:
    """A row's label without its strength."""
    label: str = row["label"]
    return label.partition(", scale ")[0]


def _copied_table(results: Results) -> str:
    rows = [
        ["by a resampler, its shape and colour", *_views(results, "resampler_c16", "foreign_object")],
        ["by the paper's compression, its shape", *_views(results, "eq3_c16", "foreign_shape")],
        ["by the same, trained with dropped tokens", *_views(results, "eq3_c16_drop", "foreign_shape")],
    ]
    return markdown_table(["the reference's foreign product is copied", *VIEWS], rows)


def _views(results: Results, family: str, measure: str) -> list[str]:
    return [_cell(results, "pfv", view, family, measure) for view in VIEWS.values()]


def _ads_table(results: Results) -> str:
    rows = [
        [label, *_ads(results, measure)]
        for label, measure in (("halo", "halo_plain"), ("dB in the ring around its product", "ring_plain"))
    ]
    return markdown_table(["an ad before a plain wall", *ADS, *TRUE_ADS], rows)


def _ads(results: Results, measure: str) -> list[str]:
    """What the four ads have, and the true ones."""
    return [
        _cell(results, "ad", condition, family, measure)
        for conditions, family in ((ADS, "eq3_c16"), (TRUE_ADS, ""))
        for condition in conditions.values()
    ]


def _pictures_table(results: Results) -> str:
    cells = [
        ("the text alone sets product, shape, wall, pattern and table, all five", "text", "text", "", ["all_text"]),
        ("sharpness of its pictures", "text", "text", "", ["sharpness"]),
        ("sharpness of the true pictures, encoded and decoded", "text", "ceiling", "", ["sharpness"]),
        ("an image prompt alone sets the wall's colour; its pattern", "pfv", VIEWS["hidden by PFV"], "eq3_c16", WALL),
        ("the same with guidance", "guided", "image_dropped_guided", "eq3_c16", WALL),
        (
            "an ad's wall has the reference's colour; its pattern; its table",
            "ad",
            ADS["with PFV and depth mask"],
            "eq3_c16",
            [*WALL, "table_reference"],
        ),
    ]
    rows = [
        [label, "; ".join(_cell(results, name, condition, family, measure) for measure in measures)]
        for label, name, condition, family, measures in cells
    ]
    return markdown_table(["held-out combinations", "measured"], rows)


def _cell(results: Results, name: str, condition: str, family: str, measure: str) -> str:
    """A value without its interval."""
    for row in _rows(results, name):
        if (row["condition"], row["family"]) == (condition, family):
            value, digits = row["measures"][measure]["value"], results["measures"][measure]["digits"]
            return "n/a" if value is None else f"{value:.{digits}f}"
    return "n/a"


def _rows(results: Results, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = results["experiments"].get(name, {"rows": []})["rows"]
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Write page, readings, pictures and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of an ablation run")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="of the repository whose README.md and docs/ are written"
    )
    options = parser.parse_args(arguments)
    results = json.loads((options.folder / "results.json").read_text(encoding="utf-8"))
    readme = options.root / "README.md"
    new = with_tables(readme.read_text(encoding="utf-8"), results)  # refused before anything is written
    save_text(options.root / "docs" / "ablations.md", page(results))
    pack(options.folder, options.root / READINGS, results["settings"]["adapters"])
    drawn = draw(options.folder, results, options.root / "docs")
    save_text(readme, new)
    pictures = ", ".join(drawn) or "no pictures (the run has not those of every row)"
    print(f"wrote docs/ablations.md, {READINGS}, {pictures} and the tables of README.md in {options.root}")


if __name__ == "__main__":
    main()
