"""Writes docs/ablations.md, its pictures and the README's table anew from a run of `lab.demo.evaluation.ablations`.

    python -m tools.write_ablations FOLDER [--root FOLDER]

The page is the run's own, every figure and verdict on it from FOLDER/results.json; the readings that these are of become
docs/readings/ablations.zip, which the next run begins with (`--begin`). In the README the table between `<!-- measured -->` and
`<!-- /measured -->` is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.demo.evaluation.markdown import markdown_table
from lab.demo.evaluation.page import page
from lab.demo.evaluation.readings import pack

from .draw_ablations import draw
from .files import save_text

ROOT = Path(__file__).resolve().parent.parent
READINGS = "docs/readings/ablations.zip"
MARKED = re.compile(r"(<!-- measured -->\n).*?(\n<!-- /measured -->)", re.DOTALL)
JOINED = "product, table and wall right in one picture, where the text names another wall / leaves it to the reference"
ADS = ("ad_dropped_masked", "ad_visible_masked", "ad_dropped_whole", "ad_visible_whole")
TRUE_ADS = ("ad_decoded", "ad_light")
AD_ROWS = (
    "with PFV and depth mask / without PFV / without the depth mask / with neither; the true ad's through the autoencoder / in "
    "another light"
)
SURROUNDINGS = ("wall_reference", "pattern_reference", "table_reference")
VIEWS = ("image_visible", "image_dropped", "image_oracle")

Results = dict[str, Any]


class MarkerError(ValueError):
    """A README without the place for the table; the message says what to do."""


def with_table(readme: str, results: Results) -> str:
    """The README with the table of these results.

    Raises:
        MarkerError: it has not exactly one place for it.
    """
    found = len(MARKED.findall(readme))
    if found != 1:
        raise MarkerError(
            f"README.md has {found} tables between <!-- measured --> and <!-- /measured -->, expected 1: put the two lines "
            "around the table of what the demo models show"
        )
    return MARKED.sub(lambda match: match[1] + readme_table(results) + match[2], readme)


def readme_table(results: Results) -> str:
    """The figures that the README shows."""
    walls = [
        _cell(results, "pfv", "image_dropped", "eq3_c16", name) for name in ("wall_reference", "pattern_reference")
    ]
    rows = [
        [
            "the text alone sets product, shape, wall, pattern and table, all five",
            _cell(results, "text", "text", "", "all_text"),
        ],
        [
            "its pictures' sharpness; the true ones' through the autoencoder",
            "; ".join(_cell(results, "text", condition, "", "sharpness") for condition in ("text", "ceiling")),
        ],
        ["an image prompt alone sets the wall's colour; its pattern", "; ".join(walls)],
        [
            "the same with guidance",
            "; ".join(_cell(results, "guided", "image_dropped_guided", "eq3_c16", name) for name in SURROUNDINGS[:2]),
        ],
        [
            "a resampler copies the reference's foreign product, shape and colour: visible / hidden by PFV / never there",
            _views(results, "resampler_c16", "foreign_object"),
        ],
        [
            "the paper's compression copies its shape: visible / hidden by PFV / never there",
            _views(results, "eq3_c16", "foreign_shape"),
        ],
        ["the same, trained with dropped tokens", _views(results, "eq3_c16_drop", "foreign_shape")],
        *_fusion_rows(results),
        [f"an ad's halo before plain walls, {AD_ROWS}", _ads(results, "halo_plain")],
        ["decibels in the ring around its product, likewise", _ads(results, "ring_plain")],
        [
            "wall's colour, pattern and table of an ad as the reference's",
            "; ".join(_cell(results, "ad", ADS[0], "eq3_c16", name) for name in SURROUNDINGS),
        ],
    ]
    return markdown_table(["held-out combinations", "measured"], rows)


def _fusion_rows(results: Results) -> Iterator[list[str]]:
    """Each way at the strength that did best, with and without conflict."""
    agreeing = {(_way(row), row["family"]): row for row in _rows(results, "no_conflict")}
    for row in _rows(results, "mepa"):
        sides = [row, agreeing.get((_way(row), row["family"]))]
        values = ["n/a" if one is None else f"{one['measures']['all_three']['value']:.3f}" for one in sides]
        yield [f"{_way(row)} ({row['family']}): {JOINED}", " / ".join(values)]


def _way(row: dict[str, Any]) -> str:
    """A row's label without its strength."""
    label: str = row["label"]
    return label.partition(", scale ")[0]


def _views(results: Results, family: str, measure: str) -> str:
    return " / ".join(_cell(results, "pfv", view, family, measure) for view in VIEWS)


def _ads(results: Results, measure: str) -> str:
    """What the four ads have, and the true ones."""
    made, true = (
        " / ".join(_cell(results, "ad", condition, family, measure) for condition in conditions)
        for conditions, family in ((ADS, "eq3_c16"), (TRUE_ADS, ""))
    )
    return f"{made}; {true}"


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
    """Write page, readings, pictures and table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of an ablation run")
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="of the repository whose README.md and docs/ are written"
    )
    options = parser.parse_args(arguments)
    results = json.loads((options.folder / "results.json").read_text(encoding="utf-8"))
    readme = options.root / "README.md"
    new = with_table(readme.read_text(encoding="utf-8"), results)  # refused before anything is written
    save_text(options.root / "docs" / "ablations.md", page(results))
    pack(options.folder, options.root / READINGS, results["settings"]["adapters"])
    drawn = draw(options.folder, results, options.root / "docs")
    save_text(readme, new)
    pictures = ", ".join(drawn) or "no pictures (the run has not those of every row)"
    print(f"wrote docs/ablations.md, {READINGS}, {pictures} and the table of README.md in {options.root}")


if __name__ == "__main__":
    main()
