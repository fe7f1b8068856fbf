"""The shadow that a product casts on its ground: the ground's own colours in another light, low and beside what stands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .ground import Bools, linear_light

BLACK = 0.005  # linear light added before logarithms
ALONG = (2.0, 25.0)  # pixels, down and across, from which the ground beside a thing is carried under it
APART = 2  # pixels around a thing that are not asked what its ground is
TALL = 0.5  # of the tallest column: lower ones beside all tall ones are no part of what stands
HIGH = 0.1  # share of a shadow that may lie in the upper half of what stands
LEAST = 0.01  # of what stands out: less is no shadow worth leaving out
OF_SHADE = (0.1, 1.8, 0.2, 0.1)
OF_DEEP_SHADE = (0.05, 3.5, 0.3, 0.2)
"""By how much light is less, as a logarithm, least and most; how far red may be from blue in that, and green from their middle:
what is left in a shadow is the sky's light, or a wall's. The last two are more where more is lost."""
SHADE, DEEP = 0.35, 0.85  # share of a shadow's pixels that must be in shade; in shade or in deep shade
FLUSH = 0.5
"""Share of a shadow's columns that may reach down to the product's foot: a shadow's lower edge rises, where a grey base, a tray
or a box beside the product stays level."""
OWN_SHADE = 0.3
"""Of what stands, the share that may look like shade itself: with more, a low part of it is not told from its shadow."""
ALL_SHADE, FLAT = 0.9, 0.6  # share in shade, and height for width, of what may be nothing but a shadow

Logs = NDArray[np.float64]


def log_light(image: Tensor) -> Logs:
    """(3, H, W) sRGB, 0..1 -> (H, W, 3) logarithm of linear light."""
    logs: Logs = np.log(linear_light(image) + BLACK)
    return logs


def cast_shadow(logs: Logs, mask: Bools) -> Bools:
    """The part of what stands out from its ground that is a shadow on it.

    Args:
        logs: (H, W, 3), see `log_light`.
        mask: (H, W), True = stands out.

    Returns:
        (H, W), True = shadow, all of it in the mask: the ground's own colours, each of which has lost about as much of its light,
        beside what stands, joined to it and low, with a lower edge that rises, as what stands on a ground casts it; never where
        what stands looks like shade itself, and never above a part of it, whatever its colour: a label, a cap.

    Notes: a shadow is the ground's colour times one of its own, in logarithms a difference (Finlayson et al. 2006). The ground is
    carried on along its rows. What lies beside the product a little behind it, of the ground's colour and darker all over,
    looks the same.
    """
    nothing = np.zeros_like(mask)
    first, last, upper = _what_stands(mask)
    shade, deep = (mask & part for part in _in_shade(logs - carried_under(logs, mask)))
    if first >= last or shade[:, first:last].sum() > OWN_SHADE * mask[:, first:last].sum():
        return nothing
    beside = mask.copy()
    beside[:, first:last] = False
    foot = _lowest(ndimage.binary_opening(mask & ~shade)[:, first:last])
    places, count = ndimage.label(beside)
    edges = set(np.unique(places[:, [max(first - 1, 0), min(last, mask.shape[1] - 1)]])) - {0}
    shadow, least = nothing, LEAST * mask.sum()
    for one in range(1, count + 1):
        part = places == one
        size = part.sum()
        is_low = part[:upper].sum() <= HIGH * size
        is_level = part[foot - 1 :].any(0).sum() > FLUSH * part.any(0).sum()
        if (
            one in edges
            and is_low
            and not is_level
            and size >= least
            and shade[part].mean() > SHADE
            and deep[part].mean() > DEEP
        ):
            shadow = shadow | part
    return shadow | _joined_below(mask, shade, shadow) if shadow.any() else nothing


def may_be_shadow(logs: Logs, mask: Bools) -> bool:
    """Whether all that stands out, (H, W), is the ground's own colours in shade and lies flat: the shadow of a thing that has the
    ground's colour, or a flat grey thing."""
    shade = in_shade(logs, mask)
    rows, columns = (mask.any(axis).nonzero()[0] for axis in (1, 0))
    is_flat = rows[-1] - rows[0] < FLAT * (columns[-1] - columns[0])
    return bool(is_flat and shade[mask].mean() > ALL_SHADE)


def _what_stands(mask: Bools) -> tuple[int, int, int]:
    """The first column in which something tall stands, the one after the last, and the row where the lower half begins."""
    solid = ndimage.binary_opening(mask)
    heights = np.where(solid.any(0), len(solid) - np.flip(solid, 0).argmax(0) - solid.argmax(0), 0)
    tall, rows = (heights > TALL * heights.max()).nonzero()[0], solid.any(1).nonzero()[0]
    if len(tall) == 0:
        return 0, 0, 0
    return int(tall[0]), int(tall[-1]) + 1, int(rows[0] + rows[-1]) // 2


def _lowest(mask: Bools) -> int:
    """The lowest row with anything in it; 1 where there is nothing."""
    rows = mask.any(1).nonzero()[0]
    return int(rows[-1]) if len(rows) else 1


def _joined_below(mask: Bools, shade: Bools, shadow: Bools) -> Bools:
    """The shade that goes on from a shadow where no part of the product lies below it: around the product's foot."""
    product = ndimage.binary_opening(mask & ~shade & ~shadow)
    under = np.flip(np.maximum.accumulate(np.flip(product, 0), 0), 0)
    places, _ = ndimage.label((mask & shade & ~under) | shadow)
    joined: Bools = np.isin(places, np.unique(places[shadow])) & (places > 0)
    return joined


def carried_under(logs: Logs, mask: Bools) -> Logs:
    """(H, W, 3): what is beside a mask, blurred along the rows, also under it."""
    seen = (~ndimage.binary_dilation(mask, iterations=APART)).astype(float)
    weight = np.maximum(ndimage.gaussian_filter(seen, ALONG, mode="nearest"), 1e-6)
    planes = [
        ndimage.gaussian_filter(plane * seen, ALONG, mode="nearest") / weight for plane in np.moveaxis(logs, -1, 0)
    ]
    carried: Logs = np.stack(planes, -1)
    return carried


def in_shade(logs: Logs, mask: Bools) -> Bools:
    """(H, W), True where the ground that is carried under a mask would have lost about as much of each colour."""
    shade, _ = _in_shade(logs - carried_under(logs, mask))
    return shade


def _in_shade(changed: Logs) -> tuple[Bools, Bools]:
    """(H, W) each, True where each colour has lost about as much; and where it may have, so deep that little is known of it."""
    red, green, blue = np.moveaxis(changed, -1, 0)
    lost, tint, bend = -changed.mean(-1), np.abs(blue - red), np.abs(green - (red + blue) / 2)

    def within(least: float, most: float, tinted: float, bent: float) -> Bools:
        inside: Bools = (lost > least) & (lost < most) & (tint < tinted + 0.3 * lost) & (bend < bent + 0.12 * lost)
        return inside

    return within(*OF_SHADE), within(*OF_DEEP_SHADE)
