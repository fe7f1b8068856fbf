"""Regions of an ad: drawn as shapes, and made to share the frame."""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor

from ..choices import parse_choice

Point = tuple[float, float]  # x and y as shares of the canvas's width and height; y points down


class Shape(str, Enum):
    """RECTANGLE and ELLIPSE fill the box that two points span; HALF_PLANE is what lies to the right of somebody who walks
    from the first to the second, so below when they walk from left to right; GRADIENT rises from the first to the second."""

    RECTANGLE = "rectangle"
    ELLIPSE = "ellipse"
    HALF_PLANE = "half_plane"
    GRADIENT = "gradient"


class Sharing(str, Enum):
    """What becomes of regions that meet. OVERLAP: they stay as they are. PARTITION: where they add up to more than 1, each is
    divided by the sum. LAYERS: each region lies over those after it."""

    OVERLAP = "overlap"
    PARTITION = "partition"
    LAYERS = "layers"


def draw_region(
    shape: Shape | str, size: tuple[int, int], first: Point, second: Point, softness: float = 0.0
) -> Tensor:
    """A region of a simple shape.

    Args:
        shape: rectangle, ellipse, half_plane or gradient.
        size: height and width of the canvas, pixels.
        first, second: two points (x, y) as shares of the canvas; they may lie outside it.
        softness: width of the edge as a share of the canvas's shorter side, 0 = hard. It lies half inside and half
            outside the shape. A gradient has none, it is soft from end to end.

    Returns:
        (1, H, W) float32, 0..1. A pixel of a hard shape is 1 where its centre lies in it, edge included.

    Raises:
        ValueError: an unknown shape, a size below 1, points that are no numbers, a negative softness, one for a gradient, a box
            without area or two points that are one, or a region that is empty.
    """
    shape = parse_choice(Shape, shape, "shape")
    height, width = size
    if min(size) < 1:
        raise ValueError(f"the canvas is {width}x{height} pixels (width x height), expected at least 1x1")
    if not (softness >= 0 and math.isfinite(softness)) or (softness and shape is Shape.GRADIENT):
        raise ValueError(f"softness is {softness:g}, expected 0 or more, and 0 for a gradient, which is soft by itself")
    if not all(map(math.isfinite, (*first, *second))):
        raise ValueError(f"the points are {first} and {second}, expected finite shares of the canvas")
    start, end = ((x * width, y * height) for x, y in (first, second))
    box = shape in (Shape.RECTANGLE, Shape.ELLIPSE)
    if (box and (start[0] == end[0] or start[1] == end[1])) or start == end:
        raise ValueError(f"the points {first} and {second} span no {shape.value}: move one of them")
    y, x = (torch.arange(length, dtype=torch.float64) + 0.5 for length in size)
    region = _drawn(shape, x[None, :], y[:, None], start, end, softness * min(size)).float()
    if not bool(region.any()):
        raise ValueError(f"the {shape.value} from {first} to {second} holds no pixel of the canvas: move or enlarge it")
    return region.expand(height, width)[None].contiguous()


def _drawn(shape: Shape, x: Tensor, y: Tensor, start: Point, end: Point, edge: float) -> Tensor:
    """Coverage at pixel centres; all in pixels."""
    (x1, y1), (x2, y2) = start, end
    along = (x2 - x1, y2 - y1)
    length = math.hypot(*along)
    match shape:
        case Shape.GRADIENT:
            return (((x - x1) * along[0] + (y - y1) * along[1]) / length**2).clamp(0, 1)
        case Shape.HALF_PLANE:
            return _covered(((x - x1) * along[1] - (y - y1) * along[0]) / length, edge)
    from_center = (x - (x1 + x2) / 2).abs(), (y - (y1 + y2) / 2).abs()
    radii = abs(along[0]) / 2, abs(along[1]) / 2
    if shape is Shape.RECTANGLE:
        return _covered(_outside_box(from_center[0] - radii[0], from_center[1] - radii[1]), edge)
    return _covered(_outside_ellipse(*from_center, *radii), edge)


def _covered(outside: Tensor, edge: float) -> Tensor:
    """Signed distance to an edge, above 0 outside -> 1 inside, 0 outside, a ramp of `edge` pixels between."""
    return (outside <= 0).double() if edge == 0 else (0.5 - outside / edge).clamp(0, 1)


def _outside_box(x: Tensor, y: Tensor) -> Tensor:
    """Distance to a box, negative inside, from the distances beyond its sides."""
    return torch.hypot(x.clamp_min(0), y.clamp_min(0)) + torch.maximum(x, y).clamp_max(0)


def _outside_ellipse(x: Tensor, y: Tensor, radius_x: float, radius_y: float) -> Tensor:
    """Distance to an ellipse to first order, negative inside: its equation divided by the equation's slope."""
    level = torch.hypot(x / radius_x, y / radius_y)
    slope = torch.hypot(x / radius_x**2, y / radius_y**2)
    return torch.where(slope > 0, level * (level - 1) / slope.clamp_min(1e-12), -min(radius_x, radius_y))


def share_frame(regions: list[Tensor], sharing: Sharing | str) -> tuple[list[Tensor], Tensor]:
    """Let regions share the frame.

    Args:
        regions: each (B, H, W) float, 0..1; batch 1 serves every image.
        sharing: overlap, partition or layers.

    Returns:
        The regions, and the rest, 1 minus their sum and at least 0: where none of them rules. With partition and layers
        regions and rest add up to 1 at every pixel (to rounding), and a region keeps its exact value where it is alone.

    Raises:
        ValueError: no region, sizes or batches that differ, an unknown way of sharing, or a region of which the others
            leave nothing.
    """
    sharing = parse_choice(Sharing, sharing, "sharing")
    regions = _same_batch(regions)
    if sharing is Sharing.PARTITION:
        total = torch.stack(regions).sum(0).clamp_min(1)
        regions = [region / total for region in regions]
    elif sharing is Sharing.LAYERS:
        regions = _layered(regions)
    for number, region in enumerate(regions, 1):
        if not bool(region.any()):
            raise ValueError(f"nothing is left of region {number}: it is empty, or the regions over it cover it")
    return regions, (1 - torch.stack(regions).sum(0)).clamp_min(0)


def _layered(regions: list[Tensor]) -> list[Tensor]:
    free = torch.ones_like(regions[0])
    shown = []
    for region in regions:
        shown.append(region * free)
        free = free * (1 - region)
    return shown


def _same_batch(regions: list[Tensor]) -> list[Tensor]:
    if not regions:
        raise ValueError("no region is given: connect at least one")
    size = regions[0].shape[1:]
    batch = max(region.shape[0] for region in regions)
    for number, region in enumerate(regions, 1):
        if region.shape[1:] != size:
            raise ValueError(
                f"region {number} is {region.shape[1]}x{region.shape[2]}, region 1 is {size[0]}x{size[1]} (height x "
                "width): give all the same size"
            )
        if region.shape[0] not in (1, batch):
            raise ValueError(
                f"region {number} is a batch of {region.shape[0]}, another one of {batch}: give 1, or as many"
            )
    return [region.expand(batch, -1, -1) for region in regions]
