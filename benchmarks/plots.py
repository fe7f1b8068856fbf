"""Pictures of the figures. Needs matplotlib, the `bench` extra."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .measure import Figure, Measured

OURS = "ours"
COLOURS = {OURS: "#2a7f62", "ComfyUI_IPAdapter_plus": "#b5532a", "diffusers": "#5a6fb0"}
PLOTTED = {  # figure -> what its plot says
    "hook": "One hook call, to the text attention alone",
    "hook_sizes": "The same at smaller images",
    "unet_hooks": "All hooks inside a U-Net, to its own attention",
    "encoder": "Image encoder, to encoding everything",
    "apply": "Applying an adapter, s",
    "memory": "Memory, MB",
}


def draw(figures: Iterable[tuple[Figure, dict[str, str]]], folder: Path) -> list[Path]:
    """One bar chart for each figure of `PLOTTED` that was measured: bars are medians, whiskers quartiles, ticks demands.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the message says how to get it.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("plots need matplotlib: pip install -r requirements/bench.txt") from error
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for figure, about in figures:
        if figure.name in PLOTTED:
            bars = [measured for measured in figure.measured if measured.who in ("hooks", *COLOURS, "unpatched")]
            canvas = Canvas(figsize=(9, 0.9 + 0.21 * len(bars)), layout="constrained")
            axes = canvas.add_subplot()
            _bars(axes, bars, logarithmic=figure.name in ("apply", "memory"))
            axes.set_title(f"{PLOTTED[figure.name]}\n{about['machine']}, {about['date']}", fontsize=9, loc="left")
            file = folder / f"benchmark_{figure.name}.png"
            canvas.savefig(file, dpi=90)
            written.append(file)
    return written


def _bars(axes: Any, bars: Sequence[Measured], logarithmic: bool) -> None:
    """One bar a line, those of a case together, first case on top."""
    for row, one in enumerate(bars):
        who = _whose(one)
        whiskers = None
        if one.low is not None and one.high is not None:
            whiskers = [[max(one.value - one.low, 0.0)], [max(one.high - one.value, 0.0)]]
        axes.barh(row, one.value, xerr=whiskers, color=COLOURS.get(who, "#888888"), height=0.75)
        end = one.value if one.high is None else max(one.value, one.high)
        axes.text(end, row, f" {one.value:.3g}", va="center", fontsize=7)
        if one.at_most is not None:
            axes.plot([one.at_most] * 2, [row - 0.45, row + 0.45], color="black", linewidth=1.5)
    axes.set_yticks(range(len(bars)), [f"{one.case}   {_whose(one)}" for one in bars], fontsize=7)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    if logarithmic:
        axes.set_xscale("log")
    elif all(one.unit == "x" for one in bars):
        axes.axvline(1.0, color="#888888", linewidth=0.8, linestyle="--")


def _whose(one: Measured) -> str:
    """A column may hold everybody's hooks; then the case names them."""
    if one.who != "hooks":
        return one.who
    return next((name for name in COLOURS if name in one.case), OURS)
