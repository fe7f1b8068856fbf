"""A picture of weights: a bar for each transformer of a kind of U-Net, and a line over the sampling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .curve import Curve
from .layer_weights import Weights
from .unet_layout import Side

WIDTH, HEIGHT = 384, 96  # pixels of a panel
MARGIN = 8
GAP = 4  # between two bars
PAPER, GRID = 1.0, 0.8
LINE = (0.15, 0.15, 0.2)
COLOURS = {Side.INPUT: (0.15, 0.55, 0.85), Side.MIDDLE: (0.9, 0.55, 0.15), Side.OUTPUT: (0.25, 0.65, 0.35)}


def weights_preview(layers: Sequence[Weights], curve: Curve) -> Tensor:
    """Panels below one another: the bars of each kind of U-Net, in running order, then the curve.

    Args:
        layers: per kind of U-Net, the weight of each transformer.
        curve: over the sampling.

    Returns:
        (1, 3, height, 384), 0..1. Input blocks are blue, the middle orange, output blocks green. The grey line is weight 1; a
        panel with a higher weight is drawn so that the highest fits.
    """
    panels = [_bars(weights) for weights in layers]
    return torch.cat([*panels, _line(curve)], 1)[None]


def _panel(highest: float) -> tuple[Tensor, float]:
    """An empty (3, HEIGHT, WIDTH) with a line at weight 1, and how many pixels high that is."""
    unit = (HEIGHT - 2 * MARGIN) / max(1.0, highest)
    panel = torch.full((3, HEIGHT, WIDTH), PAPER)
    panel[:, HEIGHT - MARGIN, :] = GRID
    panel[:, HEIGHT - MARGIN - round(unit), :] = GRID
    return panel, unit


def _bars(weights: Weights) -> Tensor:
    panel, unit = _panel(max(weights.values()))
    step = (WIDTH - 2 * MARGIN) / len(weights)
    for place, (transformer, weight) in enumerate(weights.items()):
        left, right = MARGIN + round(place * step), MARGIN + round((place + 1) * step) - GAP
        assert transformer.side is not None
        top = HEIGHT - MARGIN - max(1, round(weight * unit))  # a weight of 0 is a line, so that its place is seen
        panel[:, top : HEIGHT - MARGIN, left:right] = torch.tensor(COLOURS[transformer.side]).view(3, 1, 1)
    return panel


def _line(curve: Curve) -> Tensor:
    panel, unit = _panel(max(weight for _, weight in curve.points))
    across = WIDTH - 2 * MARGIN
    rows = [HEIGHT - MARGIN - round(curve.at(column / (across - 1)) * unit) for column in range(across)]
    for column, (row, following) in enumerate(zip(rows, [*rows[1:], rows[-1]], strict=True)):
        top, bottom = min(row, following), max(row, following)
        panel[:, top - 1 : bottom + 1, MARGIN + column] = torch.tensor(LINE).view(3, 1)
    return panel
