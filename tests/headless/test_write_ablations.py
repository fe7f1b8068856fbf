"""The tables of docs/ablations.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pfv_mepa.tools.write_ablations import PAGE, PageError, markdown_table, number, written

INTERVAL = {"value": 0.25, "low": 0.1, "high": 0.4}
RESULTS = {
    "settings": {"pairs": 7, "seeds": [0, 2], "sampler": "DDIM, 3 steps", "guidance": "3 where there is a text"},
    "goals": [{"claim": "it holds", "relation": ">=", "goal": 0.2, "measured": INTERVAL, "status": "met"}],
    "comparisons": [
        {"experiment": "pfv", "claim": "one beats two", "difference": None, "verdict": "not measured"},
        {"experiment": "mepa", "claim": "three beats four", "difference": INTERVAL, "verdict": "holds"},
    ],
    "scores": {"FID": {"value": None, "note": "no weights"}},
    "measures": {"tint": {"label": "tint", "better": "nearer to 0"}, "wall": {"label": "wall", "better": "higher"}},
    "experiments": {
        "pfv": {
            "columns": ["tint", "wall"],
            "rows": [
                {"label": "shown", "family": "a", "seeds": [0], "measures": {"tint": INTERVAL, "wall": INTERVAL}},
                {
                    "label": "hidden | dropped",
                    "family": "b",
                    "seeds": [0, 2],
                    "measures": {"tint": INTERVAL, "wall": {"value": None}},
                    "against_oracle": {"tint": INTERVAL},
                },
            ],
        }
    },
}


def test_tables_replace_what_stands_between_their_markers_and_nothing_else():
    page = "# Title\n<!-- pfv -->\nold\nlines\n<!-- /pfv -->\nprose\n<!-- goals -->\n<!-- /goals -->\n"
    new = written(page, RESULTS)
    assert new.splitlines() == [
        "# Title",
        "<!-- pfv -->",
        "|  | adapter | seeds | tint → 0 | wall ↑ |",
        "| --- | --- | --- | --- | --- |",
        "| shown | a | 1 | 0.250 (0.100-0.400) | 0.250 (0.100-0.400) |",
        "| hidden \\| dropped | b | 2 | 0.250 (0.100-0.400) | n/a |",
        "<!-- /pfv -->",
        "prose",
        "<!-- goals -->",
        "|  | goal | measured |  |",
        "| --- | --- | --- | --- |",
        "| it holds | at least 0.2 | 0.250 (0.100-0.400) | met |",
        "<!-- /goals -->",
    ]
    assert written(new, RESULTS) == new


def test_differences_settings_comparisons_and_scores():
    page = "".join(
        f"<!-- {name} -->\n<!-- /{name} -->\n"
        for name in ("pfv:against_oracle", "settings", "pfv:comparisons", "scores")
    )
    new = written(page, RESULTS)
    assert "| hidden \\| dropped | 2 | 0.250 (0.100-0.400) |" in new
    assert "shown" not in new
    assert "7 held-out pairs of scenes; adapters of the training seeds 0, 2; DDIM, 3 steps; classifier-free" in new
    assert "| one beats two | n/a | not measured |" in new
    assert "three beats four" not in new
    assert "| FID | n/a | no weights |" in new


def test_only_the_tables_of_the_experiments_asked_for_are_written():
    page = "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in ("goals", "mepa", "pfv:settings", "pfv"))
    results = RESULTS | {"settings": RESULTS["settings"] | {"seeds": [0, 2, 5]}}
    new = written(page, results, ["pfv"])
    assert new.startswith(
        "<!-- goals -->\nold\n<!-- /goals -->\n<!-- mepa -->\nold\n<!-- /mepa -->\n<!-- pfv:settings -->\n7 h"
    )
    assert "of the training seeds 0, 2; DDIM" in new  # those that its rows have
    assert "| shown | a |" in new


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- pfv -->\nno end\n", "markers without their counterpart: .'pfv'."),
        ("<!-- other -->\n<!-- /other -->\n", "the page asks for a table 'other', the results have"),
        ("<!-- pfv:nothing -->\n<!-- /pfv:nothing -->\n", "the page asks for a table 'pfv:nothing'"),
    ],
)
def test_a_page_that_does_not_fit_says_so(page, message):
    with pytest.raises(PageError, match=message):
        written(page, RESULTS)


def test_the_shipped_page_has_markers_that_close():
    text = Path(PAGE).read_text(encoding="utf-8")
    opened = re.findall(r"<!-- ([a-z_:]+) -->", text)
    assert opened
    assert opened == re.findall(r"<!-- /([a-z_:]+) -->", text)


def test_numbers_and_cells():
    assert number(None) == "n/a"
    assert number(INTERVAL) == "0.250 (0.100-0.400)"
    assert markdown_table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |"
