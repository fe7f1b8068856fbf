"""Puts the figures of an ablation run into docs/ablations.md.

    python -m tools.write_ablations FOLDER [FILE] [--only EXPERIMENT]

The page's prose is written by hand; each table stands between `<!-- NAME -->` and `<!-- /NAME -->` and is written anew from
FOLDER/results.json. NAME is settings, goals, scores, or the name of an experiment, with `:against_oracle` after it for the
differences to the scene without a foreign product, `:comparisons` for what its rows say pair by pair, and `:settings` for
what it was measured with. `--only`, which may be repeated, leaves all tables of others as they are.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "ablations.md"
PARTS = ("", "against_oracle", "comparisons", "settings")  # of an experiment
RELATIONS = {">=": "at least {}", "<=": "at most {}", ">": "above the scene without it", "not >": "not above it"}
ARROWS = {"higher": " ↑", "lower": " ↓", "nearer to 0": " → 0"}


class PageError(ValueError):
    """A page and results that do not belong together; the message says what to do."""


def written(page: str, results: dict[str, Any], only: Sequence[str] = ()) -> str:
    """The page with its tables made of these results.

    Args:
        page: in Markdown, with markers.
        results: of an ablation run.
        only: the experiments whose tables are made; empty = every table.

    Raises:
        PageError: a marker that is not closed, or of a table that the results do not have.
    """

    def table_of(match: re.Match[str]) -> str:
        name = match[1]
        if only and name.partition(":")[0] not in only:
            return match[0]
        return f"<!-- {name} -->\n{_part(name, results)}\n<!-- /{name} -->"

    new = re.sub(r"<!-- ([a-z_:]+) -->\n.*?<!-- /\1 -->", table_of, page, flags=re.DOTALL)
    opened, closed = (set(re.findall(mark, new)) for mark in (r"<!-- ([a-z_:]+) -->", r"<!-- /([a-z_:]+) -->"))
    if opened != closed:
        raise PageError(f"markers without their counterpart: {sorted(opened ^ closed)}")
    return new


def _part(name: str, results: dict[str, Any]) -> str:
    experiment, _, what = name.partition(":")
    if name == "settings":
        return _settings(results["settings"])
    if name == "goals":
        return _goals(results[name])
    if name == "scores":
        return _scores(results[name])
    if experiment not in results["experiments"] or what not in PARTS:
        known = ["settings", "goals", "scores", *results["experiments"]]
        raise PageError(f"the page asks for a table {name!r}, the results have {known}: correct the marker")
    if what == "comparisons":
        return _comparisons([one for one in results[what] if one["experiment"] == experiment])
    rows = results["experiments"][experiment]["rows"]
    if what == "settings":
        return _settings(results[what] | {"seeds": sorted({seed for row in rows for seed in row["seeds"]})})
    columns = results["experiments"][experiment]["columns"]
    if what:
        rows = [row for row in rows if row.get("against_oracle")]
        columns = list(rows[0]["against_oracle"]) if rows else []
    return _experiment(rows, columns, what or "measures", results["measures"])


def _settings(settings: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, settings["seeds"])) or "none"
    return (
        f"{settings['pairs']} held-out pairs of scenes; adapters of the training seeds {seeds}; {settings['sampler']}; "
        f"classifier-free guidance {settings['guidance']}."
    )


def _goals(goals: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            goal["claim"],
            RELATIONS[goal["relation"]].format(f"{goal['goal']:g}"),
            number(goal["measured"]),
            goal["status"],
        ]
        for goal in goals
    ]
    return markdown_table(["", "goal", "measured", ""], rows)


def _comparisons(comparisons: Sequence[dict[str, Any]]) -> str:
    rows = [[one["claim"], number(one["difference"]), one["verdict"]] for one in comparisons]
    return markdown_table(["", "difference, pair by pair", ""], rows)


def _scores(scores: dict[str, dict[str, Any]]) -> str:
    rows = [
        [name, "n/a" if one["value"] is None else f"{one['value']:.4g}", one["note"]] for name, one in scores.items()
    ]
    return markdown_table(["score", "value", "of what, or why not"], rows)


def _experiment(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], part: str, measures: dict[str, dict[str, str]]
) -> str:
    several = len({row["family"] for row in rows}) > 1
    titles = [f"{measures[name]['label']}{ARROWS.get(measures[name]['better'], '')}" for name in columns]
    body = [
        [
            row["label"],
            *([row["family"]] if several else []),
            str(len(row["seeds"])),
            *(number(row[part].get(name)) for name in columns),
        ]
        for row in rows
    ]
    return markdown_table(["", *(["adapter"] if several else []), "seeds", *titles], body)


def number(measure: dict[str, float] | None) -> str:
    """A value with its interval."""
    if measure is None or measure["value"] is None:
        return "n/a"
    return f"{measure['value']:.3f} ({measure['low']:.3f}-{measure['high']:.3f})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; cells are text in which `|` is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main() -> None:
    """Rewrite the page's tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of an ablation run")
    parser.add_argument("file", type=Path, nargs="?", default=PAGE)
    parser.add_argument("--only", action="append", default=[], metavar="EXPERIMENT", help="may be repeated")
    arguments = parser.parse_args()
    results = json.loads((arguments.folder / "results.json").read_text(encoding="utf-8"))
    page = written(arguments.file.read_text(encoding="utf-8"), results, arguments.only)
    arguments.file.write_text(page, encoding="utf-8")
    print(f"wrote {arguments.file}")


if __name__ == "__main__":
    main()
