"""The product of a picture, found by what its border shows: on plain ground, or between a wall and a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..ad.opacity import SEEN_ABOVE
from ..figures import percent
from .cut import ACROSS, edge_costs, edgeless, enclosed, least_cut, without_dust
from .edge import soft_edge
from .ground import (
    ALONG_ROWS,
    FAINT_FROM,
    SIDES,
    SMOOTH_BELOW,
    Bools,
    Floats,
    distance_to,
    distance_to_ground,
    largest_steps,
    shown_ground,
    shrunk,
    to_lab,
)
from .mirror import mirror_image
from .shadow import Logs, cast_shadow, log_light, may_be_shadow
from .sides import borders_touched, is_without_ground, sides_touched, strange_stretches
from .unsure import NothingFoundError, UnsureError
from .within import Enclosed, filled_as_told, inlaid, lies_within, share_of

WORKING_SIDE = 192  # pixels of the longest side at which the product is looked for
LEAST_SIDE = 16  # pixels of the shorter side there
SURE_FROM = 0.9
"""Measured on 150 scenes of 0.2.0's demo, without hard shadows, and 50 packshots, at 192 pixels, nothing tuned on either: 7 of
the 200 fall below it, of which 5 do agree with the truth to less than 0.8; of the other 193 none does, and the worst agrees to
0.82 before its edge is refined. From 0.8 on, two of those that are wrong would pass; from 0.95 on, ten more of those that are
right would not."""
LEAST_SHARE = 0.002  # of the picture: less is no product
DUST = 0.03  # of the largest part: less is none
OUTLINE = 1.2  # weight of the outline, in pixels
OTHER_WAYS = (((0.6, 0.0), OUTLINE), ((0.1, 0.0), OUTLINE), (ALONG_ROWS, 0.4))
"""A row counts more, or less; an outline costs less: a product that is sure is the same."""
ROUNDS = 3
ANYWHERE = (0.15, 0.15)  # a product's colour counts a little more near where it was seen
EVIDENCE_AT = 0.04  # distance from the ground at which an enclosed pixel is no longer a hole through which it is seen
FAINT_STEP, STEPS_OF_NOISE = 0.012, 4.0  # of colour: what separates a faint thing; and how many times the ground's own
NEAR = 3  # pixels around a product that are its edge and its shadow
MOST_BESIDE = 0.25
"""Of the product's pixels: as much may be faint beside it. A white bottle on white, of which the label alone stands out, has five
times its pixels beside it; a podium half of them; a scene of the demo 0.01 in the middle and less than 0.12 in 95 of 100."""
LIGHT_STEP = 0.02  # of colour: what separates a light thing from light that fades
LIGHT_EDGE = 2  # pixels around a product that its edge makes lighter than the ground, where a picture is sharpened
MOST_LIGHTER = 0.02
"""Of the product's pixels: as much beside it may be lighter than the ground. A shadow is not, so it is a part, or light on the
ground. Drawn ones: a tube's cap 0.10, a shoe's sole 0.29; of a ground with a gradient, a spot or a vignette none."""
MOST_EDGELESS = 0.08
"""Of an outline: across as much no colour may change. Drawn ones whose white cap or label was cut through have 0.10 to 0.18,
right ones less than 0.02, once 0.07."""
PANEL_FILL, PANEL_SHARE = 0.985, 0.4  # of its box, and of the picture: a picture on a page


@dataclass(frozen=True)
class Found:
    """A product that was found.

    Attributes:
        opacity: (H, W) float32, 0..1, 1 = product.
        sure: 0..1: the least agreement (intersection over union) with what is found in other ways, see OTHER_WAYS;
            squared for a product that touches a border.
        parts: separate things that it consists of.
        touches: names of the borders that it touches, of "top", "bottom", "left", "right".
        mirrored: (H, W) bool, where polished ground mirrors it: no part of it, but its colours.
        left_out: (H, W) bool, what stands out beside it, too small or too faint to be taken for a part of it.
        specks: how many parts that has, but for what is faint and touches it, as a shadow does.
        enclosed: (H, W) bool, what has the ground's colour within its outline: a hole, or a part of it.
        lighter: what of `left_out` touches the product and is lighter than the ground, as a share of the product's pixels.
        enclosed_share, filled: of all within its outline, 0..1, what is `enclosed`, and what has the ground's colour and was
            taken for the product, as asked.
    """

    opacity: Tensor
    sure: float
    parts: int
    touches: tuple[str, ...]
    mirrored: Tensor
    left_out: Tensor
    specks: int
    enclosed: Tensor
    lighter: float = 0.0
    enclosed_share: float = 0.0
    filled: float = 0.0

    @property
    def seen(self) -> Tensor:
        """(H, W) bool: wherever it or its colours may be seen, in the ground too. What hides it hides all of this."""
        return (self.opacity > SEEN_ABOVE) | self.mirrored | self.left_out | self.enclosed

    def left_out_line(self) -> str:
        """What was left out of it or filled, as the end of a line; empty where nothing was."""
        said = f", {self.specks} specks left out" if self.specks else ""
        if self.lighter > 0:
            said += f", {percent(self.lighter)} as large left out beside it: it is lighter than the ground"
        for share, taken in ((self.enclosed_share, "holes"), (self.filled, "the product")):
            if share > 0:
                said += f", {percent(share)} within its outline taken for {taken}: it has the ground's colour"
        return said


@dataclass(frozen=True)
class _Standing:
    """What stands on the ground, and what it casts there.

    Attributes:
        mask, shadow, mirrored: (H, W).
        dust: (H, W), what stands out as well, in parts too small to be the product's.
        is_doubtful: whether a part of what stands may be a mirror image.
    """

    mask: Bools
    shadow: Bools
    mirrored: Bools
    dust: Bools
    is_doubtful: bool

    @property
    def cast(self) -> Bools:
        return self.shadow | self.mirrored


def find_product(image: Tensor, to_hide: bool = False, enclosed: Enclosed | str = Enclosed.REFUSE) -> Found:
    """Find what stands out from the ground.

    Args:
        image: (3, H, W) float, 0..1, sRGB.
        to_hide: whether what lies beside the product and what it encloses is hidden with it (`Found.seen`): then it may be as
            much as it is, for it need not be told from a part.
        enclosed: what the ground's colour within an outline is, where nothing is hidden.

    Raises:
        NothingFoundError: nothing stands out.
        UnsureError: a picture too small or too narrow, one in which the result depends on the way, one in which fainter things
            stand out beside what was found, or lighter ones touch it, one of which a shadow is all that is seen or a mirror
            image a part, a picture on a page, or an outline of which much is no edge.
        EnclosedError: an outline around much that has the ground's colour, unless `enclosed` says what that is. What an open
            outline lies around is never the product.

    Notes: what the border shows is ground; it goes on along rows or columns, and smoothly in gradients and soft shadows. What
    is far from it is the product; then both have colours, the outline of least cost between them is taken, and again. The
    shadow that it casts is left out, and its mirror image, see `shadow` and `mirror`. All this at 192 pixels; the edge is
    refined at every doubling of the size. The cost is linear in the pixels.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"image is {tuple(image.shape)}, expected (3, height, width)")
    small = shrunk(image, WORKING_SIDE)
    if min(small.shape[1:]) < LEAST_SIDE:
        raise UnsureError(
            f"the picture is {image.shape[2]}x{image.shape[1]} pixels (width x height), too small or too narrow to tell a "
            f"product from its ground: paint the product, or give {LEAST_SIDE} pixels or more, no side longer than "
            f"{WORKING_SIDE // LEAST_SIDE} times the other"
        )
    lab, logs = to_lab(small), log_light(small)
    standing, sure, touches = _agreed(lab, logs)
    if sure < SURE_FROM:
        raise UnsureError(
            f"what the product is cannot be told from the ground: sure to {sure:.2f}, expected {SURE_FROM:g} or more. Paint "
            "the product, or connect what a model finds"
        )
    known = shown_ground(lab, _without(*touches))
    fainter = _fainter(lab, standing, known)
    _check_alone(standing.mask, fainter)
    lighter = _lighter(lab, standing, known)
    share = float(lighter.sum() / standing.mask.sum())
    if share > MOST_LIGHTER and not to_hide:
        raise UnsureError(
            f"beside what stands out something is lighter than the ground, {percent(share)} as large, which may be a part of it, "
            "such as a cap or a sole, or light on the ground: paint the product, or connect what a model finds"
        )
    if may_be_shadow(logs, standing.mask):
        raise UnsureError(
            "what stands out lies flat and has the ground's own colour with less light: it may be the shadow of a product as "
            "bright as its ground. Paint the product, or connect what a model finds"
        )
    if standing.is_doubtful:
        raise UnsureError(
            "the lower part of what stands out looks like the upper one turned over: it may be its mirror image in polished "
            "ground, or a part of it. Paint the product, or connect what a model finds"
        )
    closed, around = lies_within(standing.mask)
    fill = np.zeros_like(closed) if to_hide else filled_as_told(lab, standing.mask, closed, around, enclosed)
    left = (closed | around) & ~fill
    outlined = standing.mask | (closed if to_hide else fill)
    bare = edgeless(lab, outlined, ndimage.binary_dilation(standing.cast, iterations=ACROSS))
    if bare > MOST_EDGELESS:
        raise UnsureError(
            f"across {percent(bare)} of its outline no colour changes, so that a part of it may have been left out there: paint "
            "the product, or connect what a model finds"
        )
    opacity = soft_edge(image, standing.mask | fill)
    _, parts = without_dust(opacity.numpy() > SEEN_ABOVE, DUST)
    dust = standing.dust & ~fill
    _, specks = without_dust(dust, 0.0)
    edge = ndimage.binary_dilation(standing.mask, iterations=NEAR)
    beside = dust | lighter | ndimage.binary_dilation(fainter, iterations=NEAR, mask=fainter | edge)
    mirrored, left_out, within = (_as_large(part, image) for part in (standing.mirrored, beside, left))
    within &= ~(opacity > SEEN_ABOVE)
    of_holes, of_fill = (share_of(part, standing.mask | closed | around) for part in (left, fill))
    return Found(opacity, sure, parts, touches, mirrored, left_out, specks, within, share, of_holes, of_fill)


def _as_large(mask: Bools, image: Tensor) -> Tensor:
    """(h, w) -> (H, W) bool, every pixel that it reaches."""
    grown = torch.from_numpy(ndimage.binary_dilation(mask, np.ones((3, 3)))).float()
    return F.interpolate(grown[None, None], size=image.shape[1:], mode="nearest")[0, 0] > 0


def _check_alone(mask: Bools, fainter: Bools) -> None:
    """Raises UnsureError where what was found may be a part of the product only, or the product a part of it."""
    beside = float(fainter.sum() / mask.sum())
    if beside > MOST_BESIDE:
        raise UnsureError(
            f"beside what stands out there are fainter things, {percent(beside)} as large, which may belong to it or be other "
            "products: paint the product, or connect what a model finds"
        )
    rows, columns = (mask.any(axis).nonzero()[0] for axis in (1, 0))
    box = (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
    if mask.sum() >= PANEL_FILL * box and mask.mean() >= PANEL_SHARE:
        raise UnsureError(
            f"what stands out is a rectangle over {percent(mask.mean())} of the picture, as a picture on a page is: cut the page "
            "off, or paint the product"
        )


def _fainter(lab: Floats, standing: _Standing, known: Bools) -> Bools:
    """What is fainter and not near the product or what it casts."""
    near = ndimage.binary_dilation(standing.mask | standing.cast, iterations=NEAR)
    fainter: Bools = ndimage.binary_opening(_far(lab, known, FAINT_STEP)) & ~near
    return fainter


def _lighter(lab: Floats, standing: _Standing, known: Bools) -> Bools:
    """What touches the product and is lighter than all of the known ground."""
    is_light = lab[..., 0] > np.quantile(lab[..., 0][known], 0.99) + FAINT_FROM
    light = _far(lab, known, LIGHT_STEP) & is_light & ~(standing.mask | standing.cast)
    edge = ndimage.binary_dilation(standing.mask, iterations=LIGHT_EDGE)
    apart = ndimage.binary_opening(light & ~edge, np.ones((3, 3)))
    lighter: Bools = ndimage.binary_dilation(apart, iterations=LIGHT_EDGE, mask=light) & ~standing.dust
    return lighter


def _far(lab: Floats, known: Bools, step: float) -> Bools:
    """What is not the ground's: lightness counts unless it fades in smaller steps than this, or than the ground's own."""
    own_noise = STEPS_OF_NOISE * float(np.median(largest_steps(lab)[known]))
    smooth_below = float(np.clip(own_noise, step, SMOOTH_BELOW))
    return distance_to_ground(lab, known, smooth_below=smooth_below) > FAINT_FROM


def _agreed(lab: Floats, logs: Logs) -> tuple[_Standing, float, tuple[str, ...]]:
    """The product and what it casts, how sure that is, and which borders the product touches.

    All of the border is ground, but for the sides at which something is cut off. If the product or what it casts reaches one of
    these, it is taken with it. The product is doubted twice then: a band of the wall that the other sides do not show looks the
    same.
    """
    costs, stretches = edge_costs(lab), strange_stretches(lab)
    standing, sure = _reading(lab, logs, costs, SIDES)
    touches = sides_touched(stretches)
    if is_without_ground(stretches) or len(touches) == len(SIDES):
        return standing, 0.0, touches
    if touches:
        cut_off, sure_of_that = _reading(lab, logs, costs, _without(*touches))
        reached = borders_touched(_parts_that_meet(cut_off.mask, standing.mask))
        if any(side in reached for side in touches):
            return cut_off, sure_of_that**2, reached
        if any(side in borders_touched(cut_off.cast) for side in touches):
            return cut_off, sure_of_that, ()
    if standing.mask.mean() < LEAST_SHARE:
        raise NothingFoundError(
            "nothing stands out from the ground that the picture's border shows: paint the product, or connect what a model finds"
        )
    return standing, sure, ()


def _parts_that_meet(mask: Bools, other: Bools) -> Bools:
    """The parts of a mask that meet another one; all of it where that is empty."""
    places, count = ndimage.label(mask)
    meets = np.zeros(count + 1, bool)
    meets[np.unique(places[other & mask])] = True
    meets[0] = False
    return meets[places] if meets.any() else mask


def _reading(lab: Floats, logs: Logs, costs: tuple[Floats, Floats], sides: tuple[str, ...]) -> tuple[_Standing, float]:
    """What stands if some sides are ground, and how sure that is."""
    known = shown_ground(lab, sides)
    standing = _apart(lab, logs, *_outlined(lab, costs, known))
    if standing.mask.mean() < LEAST_SHARE:
        return standing, 0.0
    others = (_apart(lab, logs, *_outlined(lab, costs, known, *way)).mask for way in OTHER_WAYS)
    return standing, min(_agreement(standing.mask, other) for other in others)


def _apart(lab: Floats, logs: Logs, mask: Bools, dust: Bools) -> _Standing:
    """What stands out, with what is set in it, and what it casts told from it."""
    shadow = cast_shadow(logs, mask)
    image = mirror_image(logs, mask & ~shadow)
    mirrored = image.where & image.certain
    apart = mask & ~shadow & ~mirrored
    standing, _ = without_dust(apart, DUST)
    standing |= inlaid(lab, logs, standing)
    dust = (apart | (dust & ~mirrored)) & ~standing
    return _Standing(standing, shadow, mirrored, dust, bool(image.where.any()) and not image.certain)


def _without(*sides: str) -> tuple[str, ...]:
    return tuple(side for side in SIDES if side not in sides)


def _outlined(
    lab: Floats,
    costs: tuple[Floats, Floats],
    known: Bools,
    along_rows: tuple[float, float] = ALONG_ROWS,
    outline: float = OUTLINE,
) -> tuple[Bools, Bools]:
    """What stands out from the known ground; and apart from it what was taken for it in any round, or is fainter."""
    far = distance_to_ground(lab, known, along_rows)
    limit = float(np.clip(_between_two(far), 0.04, 0.25))
    taken = _cut(1 - far / limit, costs, known, outline)
    mask, _ = without_dust(taken, DUST)
    everything = taken | ndimage.binary_opening(far > FAINT_FROM)
    for _ in range(ROUNDS):
        if not mask.any():
            break
        own = distance_to(lab, mask, ANYWHERE)
        against = 1.5 * (own - far) / (own + far + 0.03)
        within = enclosed(mask) * (1 - np.exp(-((far / EVIDENCE_AT) ** 2)))
        taken = _cut(np.clip(against, -1, 1) - within, costs, known, outline)
        mask, _ = without_dust(taken, DUST)
        everything = everything | taken
    return mask, everything & ~_parts_that_meet(everything, mask)


def _cut(against: NDArray[np.floating], costs: tuple[Floats, Floats], known: Bools, outline: float) -> Bools:
    return least_cut(np.where(known, 1, np.clip(against, -2, 1)).astype(np.float32), costs, outline)


def _between_two(values: Floats) -> float:
    """The threshold between two kinds of values (Otsu 1979)."""
    counts, ends = np.histogram(values, 128)
    middles, share = (ends[1:] + ends[:-1]) / 2, counts / counts.sum()
    below, mean = np.cumsum(share), np.cumsum(share * middles)
    spread = below * (1 - below)
    between = np.where(spread > 0, (mean[-1] * below - mean) ** 2 / np.maximum(spread, 1e-12), 0)
    return float(middles[between.argmax()])


def _agreement(one: Bools, other: Bools) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))
