"""What can be told of an image by arithmetic alone, without a trained network.

Images are (B, 3, H, W) float, 0..1, RGB; masks are (B, H, W) bool, True = counts. Every result is (B,) float64, one
number for each image, and NaN where it is not defined: a mean over an empty mask, a way of no length.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DIRECTIONS = 32
PALETTE_PIXELS = 1024
SHADES = (0.7, 1.1)  # how far light may scale an object's colour
LEAST_WAY = 0.2  # RGB distance under which "towards that colour" is mostly noise
SHARPNESS_GRID = 64  # cells along a side: finer ones are the autoencoder's, and noise


def mean_color(image: Tensor, mask: Tensor) -> Tensor:
    """(B, 3) float64 mean over the mask, 0..1; NaN where the mask is empty."""
    _check(image, mask)
    total = torch.einsum("bchw,bhw->bc", image.float(), mask.float()).double()
    return total / mask.flatten(1).sum(1, keepdim=True)


def palette_distance(image: Tensor, mask: Tensor, reference: Tensor, reference_mask: Tensor) -> Tensor:
    """How far the colours of one area are from those of another, wherever in the area they are.

    Args:
        image, reference: (B, 3, H, W), 0..1; the two may have different sizes.
        mask, reference_mask: (B, H, W) bool, of their sizes.

    Formula: 2 * mean over directions u of W1(u . colours, u . reference colours), the sliced Wasserstein distance in
    RGB; W1 is the mean difference of sorted values, here of PALETTE_PIXELS evenly spaced pixels of each area. The factor
    makes it the Euclidean distance of two plain colours, to about 1 %.
    Range: 0 (same colours in the same shares) to sqrt 3. Lower = closer to the reference. NaN where one of the areas is empty.

    Raises:
        ValueError: shapes that do not go together.
    """
    _check(image, mask)
    _check(reference, reference_mask)
    if len(image) != len(reference):
        raise ValueError(f"{len(image)} images and {len(reference)} references: give one each")
    distances = []
    for index in range(len(image)):
        if not bool(mask[index].any()) or not bool(reference_mask[index].any()):
            distances.append(math.nan)
            continue
        first, second = _palette(image[index], mask[index]), _palette(reference[index], reference_mask[index])
        distances.append(2 * float((first - second).abs().mean()))
    return torch.tensor(distances, dtype=torch.float64)


def _palette(image: Tensor, mask: Tensor) -> Tensor:
    """(DIRECTIONS, PALETTE_PIXELS) sorted shades of an area along each direction."""
    colors = image.float()[:, mask]
    spaced = torch.linspace(0, colors.shape[1] - 1, PALETTE_PIXELS).round().long()
    return (_directions() @ colors[:, spaced]).sort(1).values


def tint_towards(color: Tensor, without: Tensor, foreign: Tensor) -> Tensor:
    """How far an area's colour moved towards a foreign colour, against the same image made without its influence.

    Args:
        color: (B, 3) mean colour of the area.
        without: (B, 3) the same, of the image made from the same noise and a reference without the foreign object.
        foreign: (B, 3) colour of the foreign object.

    Formula: <color - without, foreign - without> / |foreign - without|^2.
    Range: signed; 0 = no influence, 1 = the foreign colour itself, negative = away from it. Nearer to 0 = less leak.
    NaN where the foreign colour is nearer than LEAST_WAY to the area's own.

    Raises:
        ValueError: shapes other than (B, 3), or that differ.
    """
    if not color.shape == without.shape == foreign.shape or color.ndim != 2:
        raise ValueError(
            f"color is {tuple(color.shape)}, without {tuple(without.shape)}, foreign {tuple(foreign.shape)}, expected (B, 3) each"
        )
    way = foreign.double() - without.double()
    length = way.square().sum(1)
    share = ((color.double() - without.double()) * way).sum(1) / length
    return torch.where(length.sqrt() < LEAST_WAY, math.nan, share)


def color_share(image: Tensor, mask: Tensor, color: Tensor, tolerance: float = 0.12) -> Tensor:
    """Share of an area's pixels that have a colour, lit or shaded.

    Args:
        image, mask: the area.
        color: (B, 3) RGB.
        tolerance: RGB distance to the nearest shade s * color with s in SHADES.

    Range: 0 (no pixel) to 1 (every pixel).
    """
    _check(image, mask)
    pixels, color = image.float(), color.float()[:, :, None, None]
    scale = ((pixels * color).sum(1, keepdim=True) / color.square().sum(1, keepdim=True).clamp_min(1e-6)).clamp(*SHADES)
    close = (pixels - scale * color).square().sum(1).sqrt() <= tolerance
    return (close & mask).flatten(1).sum(1).double() / mask.flatten(1).sum(1)


def two_tones(image: Tensor, mask: Tensor) -> Tensor:
    """(B, 2, 3) float64: mean colour of an area's darker and of its lighter pixels, split at its mean brightness."""
    brightness = image.float().mean(1)
    middle = mean_color(image, mask).mean(1)[:, None, None].float()
    lighter = (brightness >= middle) & mask
    darker = mask & ~lighter
    whole = mean_color(image, mask)
    tones = [mean_color(image, part) for part in (darker, lighter)]
    return torch.stack([torch.where(tone.isnan(), whole, tone) for tone in tones], 1)


def region_correctness(image: Tensor, region: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Share of a region's pixels that are nearer to what belongs there than to what does not.

    Args:
        image: (B, 3, H, W).
        region: (B, H, W) bool, where the right colours belong.
        right, wrong: (B, T, 3) colours, T tones each, such as `two_tones` gives.

    Formula: mean over the region of [min over right |pixel - tone| < min over wrong |pixel - tone|].
    Range: 0 (all wrong) to 1 (all right).
    """
    _check(image, region)
    nearer = _nearest(image, right) < _nearest(image, wrong)
    return (nearer & region).flatten(1).sum(1).double() / region.flatten(1).sum(1)


def layout_likeness(image: Tensor, mask: Tensor, reference: Tensor) -> Tensor:
    """Whether what is bright and what is dark lies where it does in a reference, whatever the colours are.

    Args:
        image, reference: (B, 3, H, W).
        mask: (B, H, W) bool, the part of both that counts.

    Formula: |r|, Pearson's correlation of the two brightnesses over the mask; its sign is left out, because a pattern's
    second tone is darker on a light wall and lighter on a dark one. Range: 0 (nothing in common) to 1 (the same shares of
    light and dark at the same places). NaN where one of the two has no spread.
    """
    _check(image, mask)
    _check(reference, mask)
    share = mask.double() / mask.flatten(1).sum(1)[:, None, None]
    own, other = (_centred(picture.double().mean(1), share) for picture in (image, reference))
    spreads = [(share * one.square()).flatten(1).sum(1).sqrt() for one in (own, other)]
    together = (share * own * other).flatten(1).sum(1).abs()
    return torch.where((spreads[0] > 0) & (spreads[1] > 0), together / (spreads[0] * spreads[1]), math.nan)


def _centred(values: Tensor, share: Tensor) -> Tensor:
    """(B, H, W) less its mean over shares that add up to 1."""
    return values - (share * values).flatten(1).sum(1)[:, None, None]


def sharpness(image: Tensor, mask: Tensor, truth: Tensor) -> Tensor:
    """How steep an image's edges are, against those of the picture that it should be.

    Args:
        image, truth: (B, 3, H, W), H and W multiples of SHARPNESS_GRID; they may have their edges in different places.
        mask: (B, H, W) bool; a cell counts that lies in it whole.

    Formula: sum |grad image|^2 / sum |grad truth|^2 over neighbouring cells of SHARPNESS_GRID x SHARPNESS_GRID means. An edge
    that is blurred over w cells keeps 1 / w of it. Range: 0 (plain) upwards; 1 = as sharp as the truth, above 1 = sharper, or
    noise. NaN where the truth is plain.

    Raises:
        ValueError: sizes that differ, or are no multiples of SHARPNESS_GRID.
    """
    _check(image, mask)
    if image.shape != truth.shape or image.shape[2] % SHARPNESS_GRID or image.shape[3] % SHARPNESS_GRID:
        raise ValueError(
            f"image is {tuple(image.shape)}, truth {tuple(truth.shape)}: give both the same size, multiples of "
            f"{SHARPNESS_GRID}"
        )
    own, wanted = (_steepness(picture, mask) for picture in (image, truth))
    return torch.where(wanted > 0, own / wanted, math.nan)


def _steepness(image: Tensor, mask: Tensor) -> Tensor:
    """(B,) float64 sum of squared differences of neighbouring cells."""
    cell = image.shape[2] // SHARPNESS_GRID, image.shape[3] // SHARPNESS_GRID
    cells, whole = F.avg_pool2d(image.double(), cell), F.avg_pool2d(mask.double(), cell) == 1
    total = torch.zeros(len(image), dtype=torch.float64)
    for axis in (1, 2):
        size = whole.shape[axis] - 1
        both = whole.narrow(axis, 0, size) & whole.narrow(axis, 1, size)
        total += (cells.diff(dim=axis + 1).square().sum(1) * both).flatten(1).sum(1)
    return total


def _nearest(image: Tensor, tones: Tensor) -> Tensor:
    """(B, H, W) distance to the nearest of (B, T, 3) colours."""
    distances = [(image.float() - tone[..., None, None].float()).square().sum(1) for tone in tones.unbind(1)]
    return torch.stack(distances).amin(0).sqrt()


def _directions() -> Tensor:
    """(DIRECTIONS, 3) unit vectors spread evenly over half a sphere; the other half sorts the same the other way."""
    index = torch.arange(DIRECTIONS, dtype=torch.float64) + 0.5
    height = index / DIRECTIONS
    angle = math.pi * (1 + math.sqrt(5)) * index
    radius = (1 - height.square()).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], 1).float()


def _check(image: Tensor, mask: Tensor) -> None:
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image is {tuple(image.shape)}, expected (B, 3, H, W): RGB without alpha")
    if mask.dtype != torch.bool or mask.shape != (image.shape[0], *image.shape[2:]):
        raise ValueError(
            f"mask is {tuple(mask.shape)} {mask.dtype}, expected {(image.shape[0], *image.shape[2:])} torch.bool"
        )
