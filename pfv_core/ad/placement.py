"""Where a product stands on the canvas of an ad, and how large: numbers, no pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from ..choices import parse_choice
from .formats import Size


class Position(str, Enum):
    """Where in the safe area the product's box stands; NUMBERS: where x and y say."""

    CENTER = "center"
    TOP = "top"
    BOTTOM = "bottom"
    LEFT = "left"
    RIGHT = "right"
    BOTTOM_LEFT = "bottom_left"
    BOTTOM_RIGHT = "bottom_right"
    NUMBERS = "numbers"


class ScaleBy(str, Enum):
    """What `share` is a share of: the largest size that FITs the safe area; the canvas's HEIGHT or WIDTH, for the
    product's box; its AREA, for the product's pixels. ORIGINAL: the photo's own pixels, never resized."""

    FIT = "fit"
    HEIGHT = "height"
    WIDTH = "width"
    AREA = "area"
    ORIGINAL = "original"


@dataclass(frozen=True)
class Box:
    """Pixels of an image: `top` and `left` are the first ones."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The row after the last."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The column after the last."""
        return self.left + self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.bottom), slice(self.left, self.right)

    def as_list(self) -> list[int]:
        """Left, top, width, height."""
        return [self.left, self.top, self.width, self.height]

    def holds(self, other: Box) -> bool:
        """Whether another box lies inside this one."""
        rows = self.top <= other.top and other.bottom <= self.bottom
        return rows and self.left <= other.left and other.right <= self.right


@dataclass(frozen=True)
class Layout:
    """How a product is placed.

    Attributes:
        position: in the safe area, or by numbers.
        scale_by, share: how large, see ScaleBy; share above 0, without meaning for ORIGINAL.
        margin: free space on each side of the safe area, as a share of the canvas's shorter side.
        safe_area: left, top, right, bottom: shares of the canvas's width or height that a platform covers.
        x, y: centre of the product's box for NUMBERS, shares of the canvas's width and height.

    Raises:
        ValueError: an unknown choice, a share that is not positive, margins that leave nothing, a place that is no number.
    """

    position: Position | str = Position.CENTER
    scale_by: ScaleBy | str = ScaleBy.FIT
    share: float = 1.0
    margin: float = 0.05
    safe_area: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    x: float = 0.5
    y: float = 0.5

    def __post_init__(self) -> None:
        parse_choice(Position, self.position, "position")
        parse_choice(ScaleBy, self.scale_by, "scale_by")
        if not (self.share > 0 and math.isfinite(self.share)):
            raise ValueError(f"share is {self.share:g}, expected more than 0")
        for name, value in (("margin", self.margin), *zip(_SIDES, self.safe_area, strict=True)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value:g}, expected 0 to below 1, a share of the canvas")
        for name, value in (("x", self.x), ("y", self.y)):
            if not math.isfinite(value):
                raise ValueError(f"{name} is {value:g}, expected a share of the canvas")

    def safe_box(self, size: Size) -> Box:
        """The part of a canvas (height, width) that presets use, edges rounded to whole pixels.

        Raises:
            ValueError: margin and safe area leave nothing of it.
        """
        height, width = size
        margin = self.margin * min(size)
        left, top, right, bottom = self.safe_area
        rows = round(top * height + margin), round((1 - bottom) * height - margin)
        columns = round(left * width + margin), round((1 - right) * width - margin)
        if rows[0] >= rows[1] or columns[0] >= columns[1]:
            raise ValueError(
                f"margin {self.margin:g} and the safe area {self.safe_area} (left, top, right, bottom) leave nothing of "
                f"a canvas of {width}x{height} pixels: lower them"
            )
        return Box(rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])


_SIDES = ("safe_left", "safe_top", "safe_right", "safe_bottom")


@dataclass(frozen=True)
class Placement:
    """One product: its box in the photo and its box on the canvas."""

    source: Box
    target: Box

    @property
    def resized(self) -> bool:
        """Whether its pixels are others than the photo's."""
        return (self.source.height, self.source.width) != (self.target.height, self.target.width)

    @property
    def scale(self) -> float:
        """Canvas pixels per pixel of the photo, along its longer side: above 1 the photo is enlarged."""
        if self.source.height >= self.source.width:
            return self.target.height / self.source.height
        return self.target.width / self.source.width


def plan_placement(product_mask: Tensor, size: Size, layout: Layout) -> Placement:
    """Where a product stands on a canvas.

    Args:
        product_mask: (H, W) bool, True = product, of the photo.
        size: height and width of the canvas, pixels.
        layout: how.

    Returns:
        The product's bounding box in the photo, and its box on the canvas, which keeps its shape to half a pixel.

    Raises:
        ValueError: an empty cut-out, a product larger than the canvas or its safe area, or one that leaves the canvas.
    """
    source = bounding_box(product_mask)
    safe = layout.safe_box(size)
    factor = _factor(source, int(product_mask.sum()), size, safe, layout)
    height, width = (max(1, round(factor * length)) for length in (source.height, source.width))
    canvas = Box(0, 0, *size)
    if height > size[0] or width > size[1]:
        raise ValueError(
            f"the product would be {width}x{height} pixels on a canvas of {size[1]}x{size[0]} (width x height): lower "
            "share, or choose scale_by fit"
        )
    target = _positioned(height, width, size, safe, layout)
    inside = canvas if Position(layout.position) is Position.NUMBERS else safe
    if not inside.holds(target):
        raise ValueError(
            f"the product would take columns {target.left}..{target.right} and rows {target.top}..{target.bottom}, "
            f"allowed are {inside.left}..{inside.right} and {inside.top}..{inside.bottom}: lower share or margin, or "
            "place it elsewhere"
        )
    return Placement(source, target)


def bounding_box(mask: Tensor) -> Box:
    """The smallest box that holds a (H, W) bool mask; ValueError where it is empty."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        raise ValueError("the cut-out is empty: its mask selects no product")
    top, left = int(rows[0]), int(columns[0])
    return Box(top, left, int(rows[-1]) + 1 - top, int(columns[-1]) + 1 - left)


def _factor(source: Box, num_pixels: int, size: Size, safe: Box, layout: Layout) -> float:
    """Canvas pixels per pixel of the photo."""
    match ScaleBy(layout.scale_by):
        case ScaleBy.FIT:
            return layout.share * min(safe.height / source.height, safe.width / source.width)
        case ScaleBy.HEIGHT:
            return layout.share * size[0] / source.height
        case ScaleBy.WIDTH:
            return layout.share * size[1] / source.width
        case ScaleBy.AREA:
            return math.sqrt(layout.share * size[0] * size[1] / num_pixels)
        case ScaleBy.ORIGINAL:
            return 1.0


def _positioned(height: int, width: int, size: Size, safe: Box, layout: Layout) -> Box:
    position = Position(layout.position)
    if position is Position.NUMBERS:
        return Box(round(layout.y * size[0] - height / 2), round(layout.x * size[1] - width / 2), height, width)
    top, left = safe.top + (safe.height - height) // 2, safe.left + (safe.width - width) // 2
    words = position.value.split("_")
    top = safe.top if "top" in words else safe.bottom - height if "bottom" in words else top
    left = safe.left if "left" in words else safe.right - width if "right" in words else left
    return Box(top, left, height, width)
