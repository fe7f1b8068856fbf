"""The outline of least cost between two sets of pixels, and what a set of pixels encloses."""

from __future__ import annotations

from itertools import product

import numpy as np
from scipy import ndimage

from .ground import Bools, Floats

STEP = 0.35  # of the primal-dual iteration: its square times 8, the norm of the gradient, is below 1
ITERATIONS = 150
EDGE_AT = 0.08  # step of colour at which an outline costs a third
CHEAPEST = 0.05  # share of the cost that is left at the sharpest edge
ACROSS = 2  # pixels on both sides of an outline between which a colour changes, or does not
UNSEEN = 0.03  # step of colour that is none


def edge_costs(lab: Floats) -> tuple[Floats, Floats]:
    """What an outline costs between each pixel and the next down, and across: each (H, W), CHEAPEST..1, low at edges."""
    costs = []
    for axis in (0, 1):
        cost = np.ones(lab.shape[:2], np.float32)
        step = (np.diff(lab, axis=axis) ** 2).sum(-1)
        cost[(slice(0, -1), slice(None))[:: 1 if axis == 0 else -1]] = CHEAPEST + (1 - CHEAPEST) * np.exp(
            -step / EDGE_AT**2
        )
        costs.append(cost)
    return costs[0], costs[1]


def least_cut(against: Floats, costs: tuple[Floats, Floats], weight: float) -> Bools:
    """The set of pixels whose sum of `against`, plus its outline's cost, is least.

    Args:
        against: (H, W): what it costs to take a pixel; below 0 = what it gains.
        costs: of the outline, see `edge_costs`.
        weight: of the outline: one pixel of it, where there is no edge, against one pixel of `against`.

    Returns:
        (H, W) bool, True = taken.

    Notes: the minimum cut as a convex problem, total variation with values in 0..1, whose answer cut at one half is the
    least cut's (Chan, Esedoglu and Nikolova 2006); solved by the primal-dual iteration of Chambolle and Pock (2011), whose
    cost is linear in the pixels.
    """
    down, across = (weight * cost for cost in costs)
    share = (against < 0).astype(np.float32)
    ahead = share.copy()
    flow_down, flow_across = np.zeros_like(share), np.zeros_like(share)
    for _ in range(ITERATIONS):
        flow_down[:-1] += STEP * np.diff(ahead, axis=0)
        flow_across[:, :-1] += STEP * np.diff(ahead, axis=1)
        np.clip(flow_down, -down, down, out=flow_down)
        np.clip(flow_across, -across, across, out=flow_across)
        gain = flow_down + flow_across - against
        gain[1:] -= flow_down[:-1]
        gain[:, 1:] -= flow_across[:, :-1]
        moved = np.clip(share + STEP * gain, 0, 1)
        ahead, share = 2 * moved - share, moved
    return share > 0.5


def edgeless(lab: Floats, mask: Bools, aside: Bools) -> float:
    """Of a mask's outline, 0..1, the share across which no colour changes; not counted where it lies at what is `aside`, or at
    the picture's end."""
    pixels, bare = 0, 0
    inside = np.s_[
        ACROSS + 1 : -ACROSS - 1, ACROSS + 1 : -ACROSS - 1
    ]  # what a roll brings from the other end is not asked
    for axis, step in product((0, 1), (1, -1)):
        last = (mask & ~np.roll(mask | aside, -step, axis))[inside]
        before, after = (np.roll(lab, by, axis)[inside] for by in (step * (ACROSS - 1), -step * ACROSS))
        pixels += int(last.sum())
        bare += int((last & (np.linalg.norm(before - after, axis=-1) < UNSEEN)).sum())
    return bare / max(pixels, 1)


def between(mask: Bools, axis: int) -> Bools:
    """(H, W), True outside the mask where it lies on both sides, down (0) or across (1)."""
    before = np.maximum.accumulate(mask, axis)
    after = np.flip(np.maximum.accumulate(np.flip(mask, axis), axis), axis)
    inside: Bools = before & after & ~mask
    return inside


def enclosed(mask: Bools) -> Bools:
    """(H, W), True outside the mask where it lies both above and below, or both left and right."""
    return between(mask, 0) | between(mask, 1)


def without_dust(mask: Bools, share: float) -> tuple[Bools, int]:
    """A mask without its parts that are smaller than a share of the largest, and the number of parts that stay."""
    places, count = ndimage.label(mask)
    if count == 0:
        return mask, 0
    sizes = np.bincount(places.ravel())
    sizes[0] = 0
    kept = sizes >= share * sizes.max()
    kept[0] = False
    return kept[places], int(kept.sum())
