"""Figures and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LEAST_P = 0.001  # a smaller one is not told


def number(measure: dict[str, float] | None, about: dict[str, Any]) -> str:
    """A value with its interval, where it has one."""
    if measure is None or measure["value"] is None:
        return "n/a"
    digits = about["digits"]
    value = f"{measure['value']:.{digits}f}"
    if measure["low"] is None or measure["high"] is None:
        return value
    return f"{value} ({measure['low']:.{digits}f} to {measure['high']:.{digits}f})"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; cells are text in which `|` is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def claims_table(claims: Sequence[dict[str, Any]], measures: dict[str, Any], paired: str) -> str:
    """What was claimed of differences, and what `summary.verdicts` says; `paired` is what of both sides stands side by side."""
    rows = [
        [
            one["claim"],
            measures[one["measure"]]["label"],
            number(one["difference"], measures[one["measure"]]),
            "" if one["p"] is None else f"{one['p']:.3f}" if one["p"] >= LEAST_P else f"< {LEAST_P:g}",
            one["verdict"],
        ]
        for one in claims
    ]
    return markdown_table(["", "of", f"difference, {paired} by {paired}", "p", ""], rows)
