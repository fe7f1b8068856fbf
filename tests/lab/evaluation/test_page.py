"""The page of a run and its advice: every figure is the run's, and what is not there is said."""

from __future__ import annotations

import pytest

from lab.demo.evaluation.advice import ADVICE, advice
from lab.demo.evaluation.claims import COMPARISONS
from lab.demo.evaluation.markdown import markdown_table, number
from lab.demo.evaluation.page import page

PLAIN = {"label": "tint", "better": "nearer to 0", "digits": 3}
INTERVAL = {"value": 0.25, "low": 0.1, "high": 0.4}


def goal(claim: str, relation: str, number: float, **found: object) -> dict:
    asked = {"claim": claim, "measure": "tint", "relation": relation, "goal": number}
    return {**asked, "is_difference": False, "measured": None, "status": "not measured", **found}


def results(verdicts: dict[str, str] | None = None) -> dict:
    """One table of two rows, and MEPA's comparisons with the given verdicts by the start of their claims."""
    comparisons = [
        {
            "experiment": one.experiment,
            "claim": one.claim,
            "measure": "all_three",
            "difference": INTERVAL if verdict != "not measured" else None,
            "verdict": verdict,
        }
        for one in COMPARISONS
        if one.experiment in ("mepa", "no_conflict")
        for verdict in [next((v for claim, v in (verdicts or {}).items() if claim in one.claim), "holds")]
    ]
    return {
        "settings": {
            "steps": 3,
            "seeds": [0, 2],
            "sampler": "DDIM, 3 steps",
            "precision": "float32",
            "guidance": "3 where there is a text",
            "development": 40,
            "margin": 0.03,
        },
        "judge": {"with product": {"shape": "0.998"}},
        "goals": [
            goal("it holds", ">=", 0.2, measured=INTERVAL, status="met"),
            goal("equal", "=", 0.03, is_difference=True),
        ],
        "comparisons": comparisons,
        "measures": {
            "tint": PLAIN,
            "all_three": {**PLAIN, "label": "all", "better": "higher"},
            "psnr": {"label": "dB", "better": "", "digits": 1},
        },
        "experiments": {
            "pfv": {
                "title": "Leaks",
                "about": "What leaks?",
                "pairs": 120,
                "columns": ["tint", "psnr"],
                "rows": [
                    {
                        "condition": "one",
                        "label": "shown",
                        "family": "",
                        "seeds": [0],
                        "measures": {"tint": INTERVAL, "psnr": INTERVAL},
                    },
                    {
                        "condition": "two",
                        "label": "hidden | dropped",
                        "family": "b",
                        "seeds": [0, 2],
                        "measures": {"tint": INTERVAL, "psnr": {"value": None}},
                        "against_oracle": {"tint": {"value": 0.5, "low": None, "high": None}},
                    },
                ],
                "sweeps": [
                    {
                        "label": "one",
                        "family": "a",
                        "tried": {"10": INTERVAL, "2": INTERVAL},
                        "best": 10.0,
                        "at_end": True,
                    },
                    {"label": "two", "family": "b", "tried": {"0.5": INTERVAL}, "best": None, "at_end": False},
                ],
                "missing": [
                    {"label": "first", "family": "c", "why": "no adapter"},
                    {"label": "second", "family": "c", "why": "no adapter"},
                    {"label": "third", "family": "", "why": "not measured yet"},
                ],
            }
        },
    }


def test_the_page_of_a_run():
    text = page(results())
    assert text.startswith("# What the demo models show\n")
    assert "adapters of the training seeds 0, 2; DDIM, 3 steps, zero" not in text
    assert "training seeds 0, 2; DDIM, 3 steps, float32; guidance 3 where there is a text" in text.replace("\n", " ")
    lines = text.splitlines()
    at = lines.index("## Leaks")
    assert lines[at + 2 : at + 8] == [
        "What leaks? 120 test pairs.",
        "",
        "|  | adapter | seeds | tint → 0 | dB |",
        "| --- | --- | --- | --- | --- |",
        "| shown |  |  | 0.250 (0.100 to 0.400) | 0.2 (0.1 to 0.4) |",
        "| hidden \\| dropped | b | 2 | 0.250 (0.100 to 0.400) | n/a |",
    ]
    assert "|  | adapter | 0.5 | 2 | 10 | best |" in lines  # in the order of numbers
    assert "| one | a |  | 0.250 | 0.250 | 10, an end of what was tried |" in lines
    assert "| two | b | 0.250 |  |  | not chosen yet |" in lines
    assert "| hidden \\| dropped | 2 | 0.500 |" in lines
    assert "| it holds | at least 0.2 | 0.250 (0.100 to 0.400) | met |" in lines
    assert "| equal | difference within 0.03 | n/a | not measured |" in lines
    assert "* no adapter (c): first; second" in lines
    assert "* not measured yet: third" in lines


@pytest.mark.parametrize("verdict", ADVICE["no_conflict"])
def test_advice_without_conflict_is_the_verdict_against_a_masked_ip_adapter(verdict):
    lines = advice(results({"an IP-Adapter": verdict})).splitlines()
    assert lines[1].startswith(f"* {ADVICE['no_conflict'][verdict]}")


def test_advice_under_conflict_is_the_weakest_verdict_against_any_rival():
    for rival in ("the whole frame", "an IP-Adapter", "its own adapter"):
        first = advice(results({rival: "cannot be told apart"})).splitlines()[0]
        assert first.startswith(f"* {ADVICE['mepa']['cannot be told apart']}")
        assert f"MEPA does better than {rival}" in first
    assert advice(results()).splitlines()[0].startswith(f"* {ADVICE['mepa']['holds']}")
    as_printed = advice(results({"Eq. 6 as printed": "the reverse holds"})).splitlines()[0]
    assert as_printed.startswith(f"* {ADVICE['mepa']['holds']}")  # MEPA itself, with another gate


def test_what_the_other_table_says_does_not_count():
    mixed = results()
    for one in mixed["comparisons"]:
        if one["experiment"] == "no_conflict":
            one["verdict"] = "the reverse holds"
    first, second = advice(mixed).splitlines()
    assert first.startswith(f"* {ADVICE['mepa']['holds']}")
    assert second.startswith(f"* {ADVICE['no_conflict']['the reverse holds']}")


def test_one_rival_that_was_not_measured_leaves_the_advice_open():
    first = advice(results({"an IP-Adapter": "not measured"})).splitlines()[0]
    assert first == f"* {ADVICE['mepa']['not measured']}"
    without = results()
    without["comparisons"] = []
    assert advice(without).splitlines() == [f"* {ADVICE[name]['not measured']}" for name in ("mepa", "no_conflict")]


def test_numbers_and_cells():
    assert number(None, PLAIN) == "n/a"
    assert number({"value": None, "low": None, "high": None}, PLAIN) == "n/a"
    assert number({"value": 0.5, "low": None, "high": None}, PLAIN) == "0.500"
    assert number(INTERVAL, PLAIN) == "0.250 (0.100 to 0.400)"
    assert markdown_table(["a"], [["x|y"]]) == "| a |\n| --- |\n| x\\|y |"
