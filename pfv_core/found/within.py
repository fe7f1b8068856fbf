"""What lies within a product's outline and was taken for its ground: a hole through which that is seen, or a part of it."""

from __future__ import annotations

from enum import Enum

import numpy as np
from scipy import ndimage

from ..choices import parse_choice
from ..figures import percent
from .cut import between
from .ground import FAINT_FROM, Bools, Floats, distance_to
from .shadow import Logs, in_shade
from .unsure import EnclosedError

GAP = 3  # pixels: an outline whose gap is narrower than two of these is closed
BESIDE = (3.0, 0.0)  # what a height and a width of the picture count as colour: of the same rows, and of no others
RIM = 3  # pixels around a thing and what it encloses that are asked nothing of the ground beside it
OWN_SHADE = 0.5  # share of what is enclosed that may look like the ground in shade: with more it may be that
MOST_ENCLOSED = 0.2
"""Of all within a product's outline: as much may have the ground's colour, and is taken for a hole. Drawn ones: a mug's handle
0.11, a bag's straps 0.17. A label is 0.25, a phone's screen 0.9; so rings, 0.3 to 0.8, and glasses, 0.5 to 0.7, are refused."""
MOST_WHITE = 0.03
"""The same of what is white or black as ground: there equal colours tell nothing, for labels, print, highlights and gaps are so
as well. Packshots of `benchmarks.found` have white labels of 0.06 and 0.15 on white."""
PAPER, INK, GREY = 0.8, 0.2, 0.1  # lightness from which on, and up to which, that is, and colour that it has less of
MOST_AROUND = 0.4
"""The same where the outline is open: what lies between parts of it both up and down and across. Drawn ones: a horseshoe 0.27, a
lamp that bends over 0.25, headphones 0.11; the frame of a phone of which up to a third of a side is missing 0.62 to 0.80."""


class Enclosed(str, Enum):
    """What has the ground's colour within an outline. REFUSE: holes where it is little, else not told; HOLES; or the PRODUCT."""

    REFUSE = "refuse"
    HOLES = "holes"
    PRODUCT = "product"


def lies_within(mask: Bools) -> tuple[Bools, Bools]:
    """(H, W) each, outside the mask: what it encloses, gaps in the outline closed where they are narrow; and what else lies
    between parts of it both up and down and across."""
    padded = np.pad(mask, GAP + 1)
    filled = ndimage.binary_fill_holes(ndimage.binary_closing(padded, iterations=GAP))
    inner = ndimage.binary_opening(filled & ~padded, np.ones((3, 3)))[GAP + 1 : -GAP - 1, GAP + 1 : -GAP - 1]
    closed: Bools = (inner | ndimage.binary_fill_holes(mask)) & ~mask
    around: Bools = ndimage.binary_opening(between(mask, 0) & between(mask, 1), np.ones((3, 3))) & ~closed
    return closed, around


def inlaid(lab: Floats, logs: Logs, mask: Bools) -> Bools:
    """What a mask (H, W) encloses that is not as the ground beside it, though as the ground elsewhere: a label as white as the
    table, before the wall. Through a hole the ground of its own rows is seen.

    Args:
        lab, logs: (H, W, 3), see `to_lab` and `log_light`.
    """
    closed, around = lies_within(mask)
    inner = ndimage.binary_erosion(closed)
    ground = ~ndimage.binary_dilation(mask | closed | around, iterations=RIM)
    inlays = np.zeros_like(mask)
    if not inner.any() or not ground.any():
        return inlays
    far, shade = distance_to(lab, ground, BESIDE), in_shade(logs, mask | closed)
    places, count = ndimage.label(closed)
    for one in range(1, count + 1):
        part = places == one
        seen = part & inner
        if seen.any() and far[seen].mean() > FAINT_FROM and shade[seen].mean() < OWN_SHADE:
            inlays |= part
    return inlays


def filled_as_told(lab: Floats, mask: Bools, closed: Bools, around: Bools, enclosed: Enclosed | str) -> Bools:
    """What of that which lies within a product, see `lies_within`, is a part of it.

    Raises:
        EnclosedError: more than is taken for holes, and nobody says what it is; or an open outline that should be filled.
    """
    enclosed, share = parse_choice(Enclosed, enclosed, "enclosed"), share_of(closed | around, mask)
    is_much = share_of(closed, mask) > MOST_ENCLOSED or share > MOST_AROUND
    if enclosed is Enclosed.REFUSE and (is_much or share_of(closed & _is_paper_or_ink(lab), mask) > MOST_WHITE):
        raise EnclosedError(
            f"{percent(share)} of what lies within the outline has the ground's colour, which may be holes or parts of the "
            "product: paint the product, or connect what a model finds"
        )
    if enclosed is not Enclosed.PRODUCT:
        return np.zeros_like(closed)
    if (share := share_of(around, mask | closed)) > MOST_AROUND:
        raise EnclosedError(
            f"{percent(share)} of what lies within the outline has the ground's colour, and the outline is open, so that it "
            "cannot be filled: paint the product, or connect what a model finds"
        )
    return closed


def _is_paper_or_ink(lab: Floats) -> Bools:
    light = lab[..., 0]
    return ((light > PAPER) | (light < INK)) & (np.linalg.norm(lab[..., 1:], axis=-1) < GREY)


def share_of(part: Bools, mask: Bools) -> float:
    """Of a part and a mask together, 0..1, the part."""
    return float(part.sum() / (part | mask).sum())
