"""Which sides of a picture something touches: where a border is not of the ground that the other three show."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .ground import SIDES, Bools, Floats, border, distance_to_ground, shown_ground

STRANGE_FROM = 0.08  # distance from the ground of the other sides
TOUCHES_FROM = 0.02  # share of a side: less is a speck
NO_GROUND_FROM = 0.4  # share of the whole border that no other side explains


def borders_touched(mask: Bools) -> tuple[str, ...]:
    """The sides of a picture at which a mask (H, W), True = product, lies along more than TOUCHES_FROM of their length."""
    lines = {"top": mask[0], "bottom": mask[-1], "left": mask[:, 0], "right": mask[:, -1]}
    return tuple(side for side, line in lines.items() if line.mean() > TOUCHES_FROM)


def strange_stretches(lab: Floats) -> dict[str, list[float]]:
    """For each side of a picture (H, W, 3), see `to_lab`, the stretches that no other side explains, as shares of its length.

    One stretch is something that is cut off there. Several are a pattern, such as stripes, of which the other sides show a part.
    """
    size = (lab.shape[0], lab.shape[1])
    found = {}
    for side in SIDES:
        far = distance_to_ground(lab, shown_ground(lab, tuple(other for other in SIDES if other != side)))
        across = 0 if side in ("top", "bottom") else 1
        outermost = np.where(border(size, (side,)), far, np.inf).min(across)  # all the way through the border's strip
        places, _ = ndimage.label(outermost > STRANGE_FROM)
        lengths = np.bincount(places)[1:] / len(outermost)
        found[side] = [float(length) for length in lengths if length > TOUCHES_FROM]
    return found


def is_without_ground(stretches: dict[str, list[float]]) -> bool:
    """Whether so much of the border is strange to the rest of it that nothing is ground."""
    return sum(sum(lengths) for lengths in stretches.values()) / len(SIDES) > NO_GROUND_FROM


def sides_touched(stretches: dict[str, list[float]]) -> tuple[str, ...]:
    """The sides at which one thing seems to be cut off."""
    return tuple(side for side, lengths in stretches.items() if len(lengths) == 1)
