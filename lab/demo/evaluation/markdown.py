"""Figures and tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


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
