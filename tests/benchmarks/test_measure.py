"""Interleaving, ratios, and what the tables say of them. Nothing here looks at a clock."""

from __future__ import annotations

import json

import pytest

from benchmarks import report
from benchmarks.measure import Figure, Measured, absolute, interleaved, quartiles, ratio


def test_contestants_run_there_and_back_again():
    order = []
    contestants = {name: lambda name=name: order.append(name) for name in "abc"}
    interleaved(contestants, 2, lambda contestant: contestant() or 1.0, warm_up=0)
    assert "".join(order) == "abccba"


def test_warm_up_is_run_and_not_counted():
    calls = []
    seconds = interleaved({"a": lambda: calls.append(1)}, 3, lambda contestant: contestant() or len(calls), warm_up=2)
    assert len(calls) == 5
    assert seconds == {"a": [3, 4, 5]}


def test_each_contestant_gets_its_own_seconds():
    seconds = interleaved({"a": lambda: 1.0, "b": lambda: 5.0}, 3, lambda contestant: contestant(), warm_up=0)
    assert seconds == {"a": [1.0] * 3, "b": [5.0] * 3}


def test_no_round_is_an_error():
    with pytest.raises(ValueError, match="rounds is 0, expected 1 or more"):
        interleaved({"a": lambda: None}, 0, lambda contestant: 1.0)


def test_ratio_is_of_medians_and_its_quartiles_are_of_pairs():
    """A slow spell that hits both in one round widens neither."""
    measured = ratio("case", "ours", [2.0, 4.0, 40.0], [1.0, 2.0, 20.0], at_most=2.0)
    assert (measured.value, measured.low, measured.high) == (2.0, 2.0, 2.0)
    assert ratio("case", "ours", [8.0, 8.0], [2.0, 2.0], scale=0.25).value == 1.0


def test_quartiles():
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0)


@pytest.mark.parametrize(("value", "at_most", "met"), [(0.9, 0.9, True), (0.91, 0.9, False), (5.0, None, None)])
def test_met(value, at_most, met):
    assert Measured("case", "ours", value, at_most=at_most).met is met


def test_absolute_in_milliseconds():
    assert absolute("case", "ours", [0.002, 0.004, 0.003], unit="ms").value == pytest.approx(3.0)


@pytest.fixture
def figure():
    cells = [
        Measured("small", "ours", 0.8, 0.7, 0.9, at_most=0.9, stretch=0.5),
        Measured("small", "peer", 2.0),
        Measured("large", "ours", 1.5, at_most=1.0),
    ]
    return Figure("name", "A figure", "How.", cells)


def test_table_has_a_row_for_each_case_and_says_what_is_met(figure):
    lines = report.markdown(figure).splitlines()
    assert lines[4] == "| a figure | ours | peer | must be | stretch | met |"
    assert lines[6:] == [
        "| small | 0.80 [0.70-0.90] | 2 | 0.90 | 0.50 | yes |",
        "| large | 1.50 |  | 1 |  | **no** |",
    ]


def test_summary_shows_the_worst_case(figure):
    assert report.summary([figure]).splitlines()[2] == "| A figure | large | 1.50 | 1 | **no** |  |"


def test_saving_keeps_other_figures_and_other_text(figure, tmp_path):
    (tmp_path / "results.md").write_text("# Results\n\nBefore.\n")
    report.save(tmp_path, [figure], {"date": "first"})
    page = tmp_path / "results.md"
    page.write_text(page.read_text() + "\n## After\n")
    other = Figure("other", "Another", "How.", [Measured("case", "ours", 3.0, unit="")])
    everything = report.save(tmp_path, [other], {"date": "second"})
    text = page.read_text()
    assert [name.name for name, _ in everything] == ["name", "other"]
    assert everything[0] == (figure, {"date": "first"})
    assert text.index("Before.") < text.index("### A figure") < text.index("### Another") < text.index("## After")
    assert text.count("### A figure") == text.count(report.BEGIN) == text.count(report.END) == 1
    assert json.loads((tmp_path / "results.json").read_text())["other"]["about"] == {"date": "second"}
