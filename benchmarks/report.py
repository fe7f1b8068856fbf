"""Figures as text, JSON and Markdown tables."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .measure import Figure, Measured

BEGIN, END = "<!-- begin: written by python -m benchmarks -->", "<!-- end: written by python -m benchmarks -->"


def markdown(figure: Figure) -> str:
    """A figure as a section: one row for each case, one column for each contestant, and what was demanded."""
    columns = list(dict.fromkeys(measured.who for measured in figure.measured))
    demanded = any(measured.at_most is not None for measured in figure.measured)
    head = [figure.title.split(":")[0].lower(), *columns, *(("must be", "stretch", "met") if demanded else ())]
    lines = [f"### {figure.title}", "", figure.how, "", _row(head), _row(["---"] * len(head))]
    for case in dict.fromkeys(measured.case for measured in figure.measured):
        cells = {measured.who: measured for measured in figure.measured if measured.case == case}
        row = [case, *(_cell(cells[who]) if who in cells else "" for who in columns)]
        lines.append(_row(row + (_demand(cells.values()) if demanded else [])))
    return "\n".join(lines) + "\n"


def summary(figures: Sequence[Figure]) -> str:
    """What was demanded, and whether it is met, worst case of each figure first."""
    lines = [_row(["figure", "case", "measured", "must be", "met", "stretch"]), _row(["---"] * 6)]
    for figure in figures:
        demanded = [measured for measured in figure.measured if measured.at_most is not None]
        if demanded:
            worst = max(demanded, key=lambda measured: measured.value / max(measured.at_most or 0.0, 1e-9))
            stretch = "" if worst.stretch is None else _number(worst.stretch, worst.unit)
            must = _number(worst.at_most or 0.0, worst.unit)
            cells = [figure.title, worst.case, _cell(worst), must, _yes(worst.met), stretch]
            lines.append(_row(cells))
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The kind of machine, in words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = _processor()
    features = torch.backends.cpu.get_cpu_capability()
    threads = torch.get_num_threads()
    return f"{os.cpu_count()} cores of {name} ({features}), no GPU, torch {torch.__version__}, {threads} thread(s)"


def _processor() -> str:
    """The processor's own name where the system tells it (Linux), else the architecture."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def save(folder: Path, figures: Sequence[Figure], about: Mapping[str, str]) -> list[tuple[Figure, dict[str, str]]]:
    """Write results.json and the section of results.md; figures of an earlier run that were not measured now stay.

    Args:
        folder: where results.json and results.md are, or will be.
        figures: what was measured now.
        about: machine, date and options of this run; kept with each figure.

    Returns:
        Every figure that the files hold now, in order, with what is known about its run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "results.json"
    kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    kept |= {figure.name: asdict(figure) | {"about": dict(about)} for figure in figures}
    file.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    everything = [_read(name, entry) for name, entry in kept.items()]
    page = folder / "results.md"
    before, after = _around(page.read_text(encoding="utf-8") if page.is_file() else "# Results\n\n")
    page.write_text(f"{before}{BEGIN}\n\n{_section(everything)}\n{END}{after}", encoding="utf-8")
    return everything


def _section(everything: Sequence[tuple[Figure, dict[str, str]]]) -> str:
    parts = ["## What it must be, and what it is\n", summary([figure for figure, _ in everything]), "## Figures\n"]
    for figure, about in everything:
        parts.append(markdown(figure))
        parts.append("*" + "; ".join(f"{key}: {value}" for key, value in about.items()) + "*\n")
    return "\n".join(parts)


def _read(name: str, entry: Mapping[str, Any]) -> tuple[Figure, dict[str, str]]:
    measured = [Measured(**one) for one in entry["measured"]]
    return Figure(name, entry["title"], entry["how"], measured), dict(entry["about"])


def _around(page: str) -> tuple[str, str]:
    """The text before and after the written section; a page without one gets it at the end."""
    if BEGIN not in page:
        return page, "\n"
    return page[: page.index(BEGIN)], page[page.index(END) + len(END) :]


def _demand(cells: Any) -> list[str]:
    for measured in cells:
        if measured.at_most is not None:
            stretch = "" if measured.stretch is None else _number(measured.stretch, measured.unit)
            return [_number(measured.at_most, measured.unit), stretch, _yes(measured.met)]
    return ["", "", ""]


def _cell(measured: Measured) -> str:
    value = _number(measured.value, measured.unit)
    if measured.low is None or measured.high is None:
        return value
    return f"{value} [{_bare(measured.low)}-{_bare(measured.high)}]"


def _number(value: float, unit: str) -> str:
    return _bare(value) + ("" if unit in ("", "x") else f" {unit}")


def _bare(value: float) -> str:
    if value and abs(value) < 0.01:
        return f"{value:.1e}"
    return f"{value:.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:.2f}"


def _yes(met: bool | None) -> str:
    return "yes" if met else "**no**"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
