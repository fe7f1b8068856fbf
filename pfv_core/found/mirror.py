"""The mirror image of a product on polished ground: what stands above a line, turned over below it and mixed with the ground."""

from __future__ import annotations

from collections.abc import Iterator
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
LEAST_HEIGHT, LEAST = 6, 0.02  # of a mirror image, in pixels, and as a share of what stands out
AROUND = np.arange(
    -12, 13
)  # rows around a line over which it is asked how far apart from the ground is what stands out
FAINTER, STEP = 0.15, 0.15
"""How much nearer to the ground a mirror image is than what stands on it, as a share of how far that is; and how much of that
comes within two rows: what shades off, or lies in light from above, has no such line."""
BEYOND = 0.03
"""Share of what lies below the line that may lie lower than the outline turned over reaches: what is above a label does not stand
on it."""
WINDOW = 5  # rows over which its strength is as good as the same
LOSS, LOSS_OF_FADING, FADED = 0.6, 0.5, 0.3
"""Of its strength, what it may lose from one window of rows to the next: a foot of the product's own ends with all it has. If it
loses little by little, and what is left at the end is less than the last, it fades."""
EXPLAINED, BETTER = 0.5, 0.1
"""Share of what lies below, as its difference from the ground, that the mirror image explains; and how much more that is than
what the foot alone, drawn down, explains, and what stands above, moved down."""
IN_DOUBT, BETTER_IN_DOUBT = 0.85, 0.04  # the same where it may be one
MOVED = range(-2, 3)  # rows by which what is moved down may be off
BESIDE = 2  # pixels above a line where the foot is asked for its colours

Light = NDArray[np.float64]
Rows = NDArray[np.int_]


@dataclass(frozen=True)
class Mirrored:
    """What may be a mirror image.

    Attributes:
        where: (H, W) bool, below a line what stands out, and the outline turned over there; nowhere True = there is none.
        certain: whether it can be told from a part of the product.
    """

    where: Bools
    certain: bool


@dataclass(frozen=True)
class _Mixture:
    """How a mirror image may be mixed with its ground, and what is seen in these terms, (H, W, 3) each.

    Light from a polished ground adds to the ground's own; a drawn one is the picture turned over, laid over the ground as screen
    values. In both the difference from the ground is a share of what is `shown`.
    """

    seen: Light
    ground: Light
    shown: Light


def mirror_image(logs: Logs, mask: Bools) -> Mirrored:
    """The part of what stands out from its ground that is the mirror image of the rest in it.

    Args:
        logs: (H, W, 3), see `shadow.log_light`.
        mask: (H, W), True = stands out.

    Notes: a mirror image comes nearer to the ground across a line, and has the colours above it turned over, mixed with the
    ground about as strongly in each row as in those before. What is explained as well by the foot drawn down, or by what stands
    above moved down, is a part of the product: a foot of another colour, a plinth, the next of a stack. It is certain if the end
    of the picture cuts it off: what ends before, or fades, may be the lower half of a thing whose halves are alike, or clear
    glass, and is in doubt. A plain product with straight sides whose image is cut off looks like a product that is cut off:
    there is none.
    """
    nothing = np.zeros_like(mask)
    rows, columns = (mask.any(axis).nonzero()[0] for axis in (1, 0))
    if len(rows) < 2 * LEAST_HEIGHT:
        return Mirrored(nothing, False)
    light, ground = np.exp(logs) - BLACK, np.maximum(np.exp(carried_under(logs, mask)) - BLACK, 0)
    screen, plain = np.maximum(light, 0) ** GAMMA, ground**GAMMA
    mixtures = (_Mixture(light, ground, light), _Mixture(screen, plain, screen - plain))
    apart = np.abs(screen - plain).sum(-1)
    best = max(_found(mixtures, apart, mask, rows, columns), default=None)
    if best is None:
        return Mirrored(nothing, False)
    certain, _, row, curve = best
    foot = _line(mask, columns, row, curve)
    away = np.arange(len(mask))[:, None] - foot
    above = foot + 1 - away
    outline = mask[np.clip(above, 0, len(mask) - 1), columns] & (above >= 0)
    where = nothing.copy()
    where[:, columns] = (away > 0) & (mask[:, columns] | outline)
    return Mirrored(where, certain)


def _found(
    mixtures: tuple[_Mixture, ...], apart: Light, mask: Bools, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> Iterator[tuple[bool, float, int, float]]:
    """Whether it is certain, how like a mirror image it is, and row and curve of the line above each."""
    for row, curve in product(range(rows[0] + LEAST_HEIGHT, rows[-1] - LEAST_HEIGHT + 2), CURVES):
        foot = _line(mask, columns, row, curve)
        fainter, step = _falls(apart, mask, columns, foot)
        if fainter < FAINTER or step < STEP:
            continue
        found = _likeness(mixtures, mask, columns, foot, rows[0])
        if found is not None:
            likeness, certain = found
            yield certain, likeness + fainter, row, curve


def _line(mask: Bools, columns: NDArray[np.intp], row: int, curve: float) -> Rows:
    """The last row of a foot in each column, lowest in its middle."""
    standing = mask[row - BESIDE].nonzero()[0] if mask[row - BESIDE].any() else columns
    middle, half = (standing[0] + standing[-1]) / 2, max((standing[-1] - standing[0]) / 2, 1)
    rise = curve * 2 * half * np.clip(((columns - middle) / half) ** 2, 0, 1)
    return np.rint(np.maximum(row - rise, BESIDE)).astype(int)


def _falls(apart: Light, mask: Bools, columns: NDArray[np.intp], foot: Rows) -> tuple[float, float]:
    """How much nearer to the ground what stands out comes across a line, and how much of that within two rows beside it."""
    rows = foot + AROUND[:, None]
    inside = mask[np.clip(rows, 0, len(mask) - 1), columns] & (rows >= 0) & (rows < len(mask))
    values = np.where(inside, apart[np.clip(rows, 0, len(mask) - 1), columns], 0).sum(1) / np.maximum(inside.sum(1), 1)
    middle = len(AROUND) // 2
    fainter = 1 - values[middle + 1 : middle + 5].mean() / max(values[middle - 5 : middle - 1].mean(), 1e-6)
    steps = (values[:-2] - values[2:])[middle - 5 : middle + 4]
    return float(fainter), float(steps.max() / max(values[:middle].mean(), 1e-6))


def _likeness(
    mixtures: tuple[_Mixture, ...], mask: Bools, columns: NDArray[np.intp], foot: Rows, top: int
) -> tuple[float, bool] | None:
    """How much of what lies below a line is the mirror image of what stands above it, and whether that is certain."""
    reach = int(foot.max() - top)
    height = min(len(mask) - 1 - int(foot.max()), reach)
    if height < LEAST_HEIGHT:
        return None
    away = np.arange(1, height + 1)[:, None]
    below, above = foot + away, np.maximum(foot + 1 - away, 0)
    is_below, is_above = mask[below, columns], mask[above, columns]
    seen = is_below.any(1)
    everything = (mask[:, columns] & (np.arange(len(mask))[:, None] > foot)).sum()
    if is_below.sum() < max(LEAST * mask.sum(), (1 - BEYOND) * everything):
        return None
    asked, last = (is_below | is_above)[..., None], int(seen.nonzero()[0][-1]) + 1
    found = None
    for one in mixtures:
        changed, shown = (one.seen - one.ground)[below, columns] * asked, one.shown[:, columns]
        strength, explained = _explained(changed, one.shown[above, columns] * asked)
        begins = float(np.median(strength[: max(WINDOW, last // 3)]))
        if explained < EXPLAINED or begins <= 0:
            continue
        before, after = strength[: -WINDOW - 1], strength[WINDOW + 1 :]
        loss = float(((before - after) / np.maximum(before, begins)).max(initial=0))
        if loss > LOSS:
            continue
        is_left = strength[-WINDOW:].mean() >= FADED * begins
        fades = not is_left and loss <= LOSS_OF_FADING
        is_cut_off = is_left and height < reach and bool(mask[-1].any())
        others = [one.shown[foot - BESIDE, columns][None]]
        others += [shown[np.clip(top + by + away[:, 0] - 1, 0, len(mask) - 1)] for by in MOVED]
        better = explained - max(_explained(changed, other * asked)[1] for other in others)
        certain = is_cut_off and better >= BETTER
        in_doubt = (
            better >= BETTER_IN_DOUBT if is_cut_off else explained >= IN_DOUBT and (fades or better >= BETTER_IN_DOUBT)
        )
        if (certain or in_doubt) and (found is None or explained > found[0]):
            found = explained, certain
    return found


def _explained(changed: Light, shape: Light) -> tuple[Light, float]:
    """(rows,): how much of a shape, (rows, columns, 3), each row has; and the share of what has changed that this explains."""

    def over_rows(values: Light) -> Light:
        summed: Light = ndimage.uniform_filter1d(values.sum((1, 2)), WINDOW, mode="nearest")
        return summed

    strength: Light = over_rows(changed * shape) / (over_rows(shape**2) + 1e-9)
    left = ((changed - strength[:, None, None] * shape) ** 2).sum()
    return strength, float(1 - left / max((changed**2).sum(), 1e-9))
