"""The ground that a picture's border shows, and how far the colour of each pixel is from it."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor

SIDES = ("top", "bottom", "left", "right")
MARGIN = 0.06  # of the shorter side: how much of each border counts as ground, but for what reaches into it
OUTERMOST = 2  # pixels of each border that count as ground whatever they show
REACHES_IN = 0.06  # distance from the outermost pixels' colours at which something in a border may be no ground
NUM_SAMPLES = 3000  # colours that stand for a set of pixels
ALONG_ROWS = (0.25, 0.0)  # what a height and a width of the picture count as colour: ground goes on along rows ...
ALONG_COLUMNS = (0.05, 1.0)  # ... or along columns
SMOOTH_BELOW = 0.05  # colour step from pixel to pixel: a shadow and a vignette have smaller ones, an outline larger
FAINT_FROM = 0.03  # distance from the ground at which a thing may be one, however faint
DARK = 0.16  # lightness added before colours are compared without their lightness: in shadow Lab's three shrink about alike

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])


def shrunk(image: Tensor, longest: int) -> Tensor:
    """(3, H, W) averaged down to a longest side of `longest` pixels; the same where it is no longer."""
    height, width = image.shape[1:]
    if max(height, width) <= longest:
        return image
    scale = longest / max(height, width)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(image[None], size=size, mode="area")[0]


def linear_light(image: Tensor) -> NDArray[np.float64]:
    """(3, H, W) sRGB, 0..1 -> (H, W, 3) linear light, 0..1."""
    values = image.movedim(0, -1).double().numpy()
    linear: NDArray[np.float64] = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear


def to_lab(image: Tensor) -> Floats:
    """(3, H, W) sRGB, 0..1 -> (H, W, 3) CIE Lab in hundredths: a difference of 0.02 is just seen, white is 1 from black."""
    xyz = linear_light(image) @ _TO_XYZ.T / _WHITE
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    lab = np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)
    return (lab / 100).astype(np.float32)


def shown_ground(lab: Floats, sides: tuple[str, ...]) -> Bools:
    """(H, W), True where those sides of a picture (H, W, 3), see `to_lab`, show its ground.

    That is their border but for what reaches into it from the picture and not to its outermost pixels: a product that nearly
    fills its photo. Taken for ground, its colours would eat it wherever they come again.
    """
    size = (lab.shape[0], lab.shape[1])
    strip = border(size, sides)
    strange = distance_to_ground(lab, border(size, sides, OUTERMOST)) > REACHES_IN
    places, count = ndimage.label(strange)
    goes_on = np.zeros(count + 1, bool)
    goes_on[np.unique(places[strange & ~strip])] = True
    shown: Bools = strip & ~goes_on[places]
    return shown


def border(size: tuple[int, int], sides: tuple[str, ...], margin: int | None = None) -> Bools:
    """(height, width), True on those sides of a picture, so many pixels wide, or MARGIN of the shorter side."""
    height, width = size
    margin = max(OUTERMOST, round(MARGIN * min(height, width))) if margin is None else margin
    mask = np.zeros(size, bool)
    at: dict[str, tuple[slice, ...]] = {
        "top": np.s_[:margin, :],
        "bottom": np.s_[height - margin :, :],
        "left": np.s_[:, :margin],
        "right": np.s_[:, width - margin :],
    }
    for side in sides:
        mask[at[side]] = True
    return mask


def distance_to(lab: Floats, mask: Bools, weights: tuple[float, float]) -> Floats:
    """How far each pixel's colour is from the nearest of those in a mask.

    Args:
        lab: (H, W, 3), see `to_lab`.
        mask: (H, W), somewhere True.
        weights: what the picture's longest side counts, down and across, as a difference of colour: 0 = a colour is as good
            from anywhere.

    Returns:
        (H, W), in the unit of `lab`.
    """
    height, width = mask.shape
    down, across = (np.indices(mask.shape, np.float32) / max(height, width)) * np.array(weights, np.float32)[
        :, None, None
    ]
    features = np.concatenate([lab, down[..., None], across[..., None]], -1).astype(np.float64)
    # A tree may split just above a value. Just above 0 lie denormal numbers alone, and in a process that takes those for 0 it
    # would split for ever: all values are moved away from there.
    features += 1 - features.min((0, 1))
    known = features[mask]
    tree = cKDTree(known[:: -(-len(known) // NUM_SAMPLES)])
    found: Floats = tree.query(features.reshape(-1, features.shape[-1]), eps=0.1)[0].reshape(height, width)
    return found.astype(np.float32)


def distance_to_ground(
    lab: Floats, known: Bools, along_rows: tuple[float, float] = ALONG_ROWS, smooth_below: float = SMOOTH_BELOW
) -> Floats:
    """How far each pixel's colour is from the ground, whose part `known` is seen at the border.

    Ground goes on along rows (a wall's bands, a table) or along columns (stripes). Where it goes on from the border in steps of
    colour below `smooth_below` it may become lighter or darker, in a gradient, a vignette or a soft shadow: there lightness does
    not count.
    """
    distance = np.minimum(distance_to(lab, known, along_rows), distance_to(lab, known, ALONG_COLUMNS))
    light = lab[..., :1] + DARK
    tint = np.concatenate([lab[..., 1:] / light, np.zeros_like(light)], -1)
    shaded = distance_to(tint, known, along_rows) * light[..., 0]
    return np.where(_joined(largest_steps(lab) < smooth_below, known), np.minimum(distance, shaded), distance)


def largest_steps(lab: Floats) -> Floats:
    """(H, W), the largest step of colour from each pixel to its neighbours."""
    largest = np.zeros(lab.shape[:2], np.float32)
    for axis in (0, 1):
        step = np.linalg.norm(np.diff(lab, axis=axis), axis=-1)
        before, after = ((0, 1), (0, 0)), ((1, 0), (0, 0))
        for pad in (before, after):
            np.maximum(largest, np.pad(step, pad if axis == 0 else pad[::-1]), out=largest)
    return largest


def _joined(smooth: Bools, known: Bools) -> Bools:
    """(H, W), True where a way over smooth pixels leads from the border."""
    places, count = ndimage.label(smooth | known)
    joined = np.zeros(count + 1, bool)
    joined[np.unique(places[known])] = True
    joined[0] = False
    return joined[places]
