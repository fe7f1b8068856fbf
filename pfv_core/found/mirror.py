"""The mirror image of a product on polished ground: what stands above a line, turned over below it and mixed with the ground."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .ground import Bools
from .shadow import BLACK, Logs, carried_under

GAMMA = 1 / 2.2  # from light to what a screen is told
CURVES = (0.0, 0.04, 0.08)
"""How far the foot's line rises to its ends, as a share of its width: a round foot seen from above."""
NEAR, BENDS = 4, np.arange(-0.04, 0.06, 0.02)  # pixels, and curves, within which a sharper line is looked for
STRETCHES = (1.0, 1.15)  # height of a mirror image, of that of what it shows
BESIDE = 2  # pixels above a line where the foot is asked for its colours
ACROSS = np.arange(4)  # pixels from a line that are compared across it
LEAST_HEIGHT, LEAST = 6, 0.02  # of a mirror image, in pixels, and as a share of what stands out
WINDOW = 5  # rows over which its strength is as good as the same
WITHIN, SEEN = 0.93, 0.7
"""Share of what lies below the line that is within the outline turned over; of the outline in these rows, what is seen."""
STRENGTH = (0.08, 0.62)  # of a mirror image just below the line: polished stone has 0.1 to 0.4, black acrylic 0.5
EXPLAINED, BETTER = 0.5, 0.04
"""Share of what lies below, as its difference from the ground, that the mirror image explains; and how much more that is than
what the foot alone, drawn down, explains: a foot of the product's own goes on as it is."""
LOSS, LOSS_OF_FADING, FADED = 0.65, 0.4, 0.3
"""Of its strength, what it may lose from one window of rows to the next: a foot of the product's own ends with all it has. If it
does so little by little, and what is left at the end is less than the last, it fades."""
FAINTER = 0.15  # how much nearer to the ground it is than what stands above the line, as a share

Light = NDArray[np.float64]


@dataclass(frozen=True)
class _Mixture:
    """How a mirror image may be mixed with its ground, and what is seen in these terms, (H, W, 3) each.

    Light from a polished ground adds to the ground's own; a drawn one is the picture turned over, laid over the ground as screen
    values. In both the difference from the ground is a share of what is `mirrored`.
    """

    seen: Light
    ground: Light
    mirrored: Light


def mirror_image(logs: Logs, mask: Bools) -> Bools:
    """The part of what stands out from its ground that is the mirror image of the rest in it.

    Args:
        logs: (H, W, 3), see `shadow.log_light`.
        mask: (H, W), True = stands out.

    Returns:
        (H, W), True = mirror image: what stands out below a line, and the outline turned over there. It comes nearer to the
        ground across the line, is within the outline turned over, has its colours, mixed with the ground, and does not end at
        once. What goes on as it is at the foot is none: a foot of another colour, a plinth.

    Notes: how strong it is may change from row to row. A mirror image of a plain product with straight sides looks like a foot of
    its own in another colour, and stays.
    """
    nothing = np.zeros_like(mask)
    rows, columns = (mask.any(axis).nonzero()[0] for axis in (1, 0))
    if len(rows) < 2 * LEAST_HEIGHT:
        return nothing
    light, ground = np.exp(logs) - BLACK, np.maximum(np.exp(carried_under(logs, mask)) - BLACK, 0)
    shown, plain = np.maximum(light, 0) ** GAMMA, ground**GAMMA
    mixtures = (_Mixture(light, ground, light), _Mixture(shown, plain, shown - plain))
    apart = np.abs(shown - plain).sum(-1)
    best, line, height = 0.0, (0, 0.0), 1.0
    for row, curve in product(range(rows[0] + LEAST_HEIGHT, rows[-1] - LEAST_HEIGHT + 2), CURVES):
        foot = _line(mask, columns, row, curve)
        if foot is None or (fainter := _fainter(apart, mask, columns, foot)) < FAINTER:
            continue
        for stretch in STRETCHES:
            likeness = _likeness(mixtures, mask, columns, foot, stretch, rows[0]) + fainter
            if likeness > best:
                best, line, height = likeness, (row, curve), stretch
    if best == 0:
        return nothing
    foot = _sharpest(shown, mask, columns, *line)
    away = np.arange(len(mask))[:, None] - foot
    above = _turned_over(foot, away, height)
    turned_over = mask[np.clip(above, 0, len(mask) - 1), columns] & (above >= 0)
    mirrored = nothing.copy()
    mirrored[:, columns] = (away > 0) & (mask[:, columns] | turned_over)
    return mirrored


def _sharpest(shown: Light, mask: Bools, columns: NDArray[np.intp], row: int, curve: float) -> NDArray[np.int_]:
    """Of the lines near one, that across which the picture changes most."""
    step = np.zeros(mask.shape)
    step[:-1] = np.abs(np.diff(shown, axis=0)).sum(-1) * (mask[:-1] & mask[1:])
    near = [row + by for by in range(-NEAR, NEAR + 1) if 0 <= row + by < len(mask)]
    bent = np.unique(np.clip(curve + BENDS, 0, None))
    lines = [line for one in product(near, bent) if (line := _line(mask, columns, *one)) is not None]
    return max(lines, key=lambda line: float(step[line, columns].sum()))


def _line(mask: Bools, columns: NDArray[np.intp], row: int, curve: float) -> NDArray[np.int_] | None:
    """The row in each column of a line that ends a foot, lowest in its middle."""
    standing = mask[row - BESIDE].nonzero()[0]
    if len(standing) < 2 * BESIDE:
        return None
    middle, half = (standing[0] + standing[-1]) / 2, (standing[-1] - standing[0]) / 2
    rise = curve * 2 * half * np.clip(((columns - middle) / half) ** 2, 0, 1)
    return np.rint(row - rise).astype(int)


def _turned_over(foot: NDArray[np.int_], away: NDArray[np.int_], stretch: float) -> NDArray[np.int_]:
    """The rows that are seen so many rows below a foot's last one."""
    return np.rint(foot + 0.5 - (away - 0.5) / stretch).astype(int)


def _fainter(apart: Light, mask: Bools, columns: NDArray[np.intp], foot: NDArray[np.int_]) -> float:
    """How much less apart from the ground what stands out is just below a line than just above it, as a share."""

    def mean_of(rows: NDArray[np.int_]) -> float:
        rows = np.clip(foot + rows[:, None], 0, len(mask) - 1)
        inside = mask[rows, columns]
        return float(apart[rows, columns][inside].mean()) if inside.any() else 0.0

    return 1 - mean_of(ACROSS + 1) / max(mean_of(-ACROSS - 2), 1e-6)


def _likeness(
    mixtures: tuple[_Mixture, ...],
    mask: Bools,
    columns: NDArray[np.intp],
    foot: NDArray[np.int_],
    stretch: float,
    top: int,
) -> float:
    """How much of what lies below a line is the mirror image of what stands above it; less than -1 where it is none."""
    none = -2.0
    height = int(min(len(mask) - 1 - foot.max(), stretch * (foot.max() - top)))
    if height < LEAST_HEIGHT:
        return none
    away = np.arange(1, height + 1)[:, None]
    below, above = foot + away, np.maximum(_turned_over(foot, away, stretch), 0)
    is_below, is_above = mask[below, columns], mask[above, columns]
    here = is_below.any(1)
    both = (is_below & is_above).sum()
    if (
        is_below.sum() < LEAST * mask.sum()
        or both < WITHIN * is_below.sum()
        or both < SEEN * max(is_above[here].sum(), 1)
    ):
        return none
    asked = (is_below | is_above)[..., None]
    found = none
    for one in mixtures:
        changed = (one.seen - one.ground)[below, columns] * asked
        strength, explained = _explained(changed, one.mirrored[above, columns] * asked)
        _, by_foot = _explained(changed, one.mirrored[foot - BESIDE, columns][None] * asked)
        begins = float(np.median(strength[: max(WINDOW, height // 3)]))
        if explained < EXPLAINED or not STRENGTH[0] <= begins <= STRENGTH[1]:
            continue
        before, after = strength[: -WINDOW - 1], strength[WINDOW + 1 :]
        loss = ((before - after) / np.maximum(before, begins)).max(initial=0)
        fades = loss <= LOSS_OF_FADING and strength[-WINDOW:].mean() < FADED * begins
        if loss <= LOSS and (fades or explained - by_foot >= BETTER):
            found = max(found, explained)
    return found


def _explained(changed: Light, shape: Light) -> tuple[Light, float]:
    """(rows,): how much of a shape, (rows, columns, 3), each row has; and the share of what has changed that this explains."""

    def over_rows(values: Light) -> Light:
        summed: Light = ndimage.uniform_filter1d(values.sum((1, 2)), WINDOW, mode="nearest")
        return summed

    strength: Light = over_rows(changed * shape) / (over_rows(shape**2) + 1e-9)
    left = ((changed - strength[:, None, None] * shape) ** 2).sum()
    return strength, float(1 - left / max((changed**2).sum(), 1e-9))
