"""Pieces of self-contained HTML pages: the frame, tables, pictures, interval plots."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image
from torch import Tensor

JPEG_QUALITY = 88
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #5d6671; --line: #d9dee3; --paper: #fff; --tile: #f5f7f9;
  --good: #1a7f4b; --fair: #9a6a00; --bad: #b3261e; --mark: #2f6db5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #9aa4af; --line: #363d45; --paper: #14171a;
  --tile: #1d2226; --good: #5fc48d; --fair: #dcae4a; --bad: #f0857d; --mark: #7fb2ea; } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 72rem;
  margin: 0 auto; padding: 2rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; } h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; } p { max-width: 46rem; } .soft { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .35rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td small { color: var(--soft); white-space: nowrap; }
.good { color: var(--good); font-weight: 600; } .fair { color: var(--fair); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; } .sheet td, .sheet th { padding: .2rem; border: 0; text-align: center;
  font-size: .75rem; max-width: 8rem; } .sheet img { width: 7.2rem; height: 7.2rem; border-radius: 4px; display: block; }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; font: 13px system-ui, sans-serif; }
"""


def page(title: str, body: str, script: str = "", style: str = "") -> str:
    """A whole document; `body` and `script` are HTML and JavaScript as they are."""
    tail = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>'
        f"<style>{_STYLE}{style}</style><body>{body}{tail}</body></html>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML as they are."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(image: Tensor) -> str:
    """(3, H, W) in 0..1 -> a data URI."""
    pixels = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def contact_sheet(columns: Sequence[tuple[str, Tensor]], captions: Sequence[str]) -> str:
    """Columns of (N, 3, H, W) images under their titles; a caption before each row."""
    head = "".join(f"<th>{escape(title)}</th>" for title, _ in columns)
    rows = []
    for index, caption in enumerate(captions):
        tiles = "".join(
            f'<td><img alt="{escape(title)}: {escape(caption)}" src="{picture(images[index])}"></td>'
            for title, images in columns
        )
        rows.append(f"<tr><th>{escape(caption)}</th>{tiles}</tr>")
    return f'<div class="wide"><table class="sheet"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def interval_plot(
    rows: Sequence[tuple[str, float, float, float]], span: tuple[float, float], goal: float | None
) -> str:
    """Rows of (label, value, low, high) as dots with their intervals on one axis; a goal is a dashed line."""
    left, right, step = 330, 860, 26
    height = step * len(rows) + 40
    low, high = span

    def x(value: float) -> float:
        return left + (right - left) * (min(max(value, low), high) - low) / (high - low)

    parts = [f'<svg viewBox="0 0 {right + 60} {height}" width="{right + 60}" role="img">']
    for tick in (low + (high - low) * part / 4 for part in range(5)):
        parts.append(
            f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 28}" stroke="var(--line)"/>'
            f'<text x="{x(tick):.1f}" y="{height - 10}" text-anchor="middle">{tick:.3g}</text>'
        )
    if goal is not None:
        parts.append(
            f'<line x1="{x(goal):.1f}" x2="{x(goal):.1f}" y1="4" y2="{height - 28}" stroke="var(--good)" '
            'stroke-dasharray="5 4"/>'
        )
    for index, (label, value, lower, upper) in enumerate(rows):
        y = step * index + 18
        parts.append(
            f'<text x="{left - 12}" y="{y + 4}" text-anchor="end">{escape(label)}</text>'
            f'<line x1="{x(lower):.1f}" x2="{x(upper):.1f}" y1="{y}" y2="{y}" stroke="var(--mark)" stroke-width="3"/>'
            f'<circle cx="{x(value):.1f}" cy="{y}" r="5" fill="var(--mark)"/>'
            f'<text x="{right + 8}" y="{y + 4}">{value:.3f}</text>'
        )
    return "".join(parts) + "</svg>"
