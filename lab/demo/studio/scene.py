"""What a scene shows: choices and numbers, drawn from a seed.

A scene can be changed in one thing and drawn again: another product in its place, the same product turned, no companion.
Colours are reflectances, linear, 0..1; lengths are in units of about a product's height; the product stands near (0, 0, 0),
the camera looks along +z, the wall is behind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..splits import Split, pairs_of
from .shapes import COMPANIONS, HALF_WIDTHS, HEIGHTS, PRODUCTS

Color = tuple[float, float, float]

PRODUCT_COLORS: dict[str, Color] = {
    "red": (0.62, 0.035, 0.045),
    "orange": (0.86, 0.24, 0.02),
    "yellow": (0.88, 0.62, 0.03),
    "green": (0.03, 0.33, 0.08),
    "teal": (0.01, 0.34, 0.36),
    "blue": (0.02, 0.09, 0.58),
    "purple": (0.24, 0.04, 0.42),
    "pink": (0.88, 0.22, 0.42),
    "black": (0.018, 0.018, 0.02),
    "white": (0.84, 0.84, 0.83),
}
WALL_COLORS: dict[str, Color] = {
    "red": (0.50, 0.11, 0.09),
    "orange": (0.74, 0.34, 0.14),
    "yellow": (0.76, 0.58, 0.17),
    "green": (0.19, 0.38, 0.16),
    "teal": (0.11, 0.38, 0.38),
    "blue": (0.13, 0.24, 0.52),
    "purple": (0.29, 0.17, 0.44),
    "pink": (0.78, 0.42, 0.50),
    "grey": (0.25, 0.25, 0.26),
    "cream": (0.82, 0.76, 0.64),
}
TABLES = ("wooden", "marble", "slate", "linen")
SHAPES = tuple(PRODUCTS)
PATTERNS = ("plain", "stripes", "bands", "dots", "checks", "slants")
MARKS = ("disc", "ring", "cross", "bars", "diamond")
MARK_COLORS: tuple[Color, ...] = (
    (0.60, 0.03, 0.03),
    (0.03, 0.10, 0.50),
    (0.02, 0.28, 0.10),
    (0.80, 0.40, 0.02),
    (0.03, 0.03, 0.035),
    (0.25, 0.03, 0.32),
)
CAPS: tuple[Color, ...] = ((0.03, 0.03, 0.032), (0.62, 0.44, 0.18), (0.72, 0.72, 0.72), (0.80, 0.79, 0.76))
COMPANION_KINDS = tuple(COMPANIONS)
COMPANION_LOOKS: dict[str, dict[str, Color]] = {
    "plant": {"green": (0.06, 0.22, 0.05), "olive": (0.22, 0.24, 0.06), "red": (0.32, 0.05, 0.06)},
    "lamp": {"white": (0.80, 0.76, 0.66), "red": (0.50, 0.05, 0.05), "blue": (0.06, 0.14, 0.42)},
    "figure": {"wooden": (0.56, 0.34, 0.16), "black": (0.03, 0.03, 0.03), "white": (0.78, 0.76, 0.72)},
}
COMPANION_SHARE = 0.4  # of all scenes
WIDEST_TURN = 0.45  # radians, of a product, either way
COLOR_NOISE = 0.08  # half-width of each channel's spread, as a share of its value
HELD_OUT_SEEDS = 1_000_000_000  # held-out scenes have seeds below this one, the training's have it and those above


@dataclass(frozen=True)
class Product:
    """What is advertised.

    Attributes:
        color: a key of PRODUCT_COLORS.
        shape: one of SHAPES.
        rgb: its colour.
        cap: colour of the cap, where the shape has one.
        size: height of a shape of height 1.
        turn: about its upright axis, radians; 0 = the label looks at the camera.
        gloss: 0 = matt, 1 = mirrors the studio.
        mark: one of MARKS, on the label.
        mark_rgb: its colour.
        mark_form: width and height of the mark, shares of the label's; what no word names.
    """

    color: str
    shape: str
    rgb: Color
    cap: Color
    size: float
    turn: float
    gloss: float
    mark: str
    mark_rgb: Color
    mark_form: tuple[float, float]


@dataclass(frozen=True)
class Companion:
    """What stands beside the product.

    Attributes:
        kind: plant, lamp or figure.
        look: a key of the kind's COMPANION_LOOKS.
        rgb: its colour.
        place: across and into the studio.
        height: in units of the studio.
        lean: to the right, radians.
        turn: about its upright axis, radians.
    """

    kind: str
    look: str
    rgb: Color
    place: tuple[float, float]
    height: float
    lean: float
    turn: float


@dataclass(frozen=True)
class Light:
    """One key light.

    Attributes:
        side: -1 = from the left, 1 = from the right.
        angles: how far to the side, up and towards the camera it stands: a direction, not normalised.
        warmth: -1 = cool, 0 = neutral, 1 = warm.
        strength: of the key light; 1 = usual.
        fill: of the sky; 1 = usual.
    """

    side: int
    angles: tuple[float, float, float]
    warmth: float
    strength: float
    fill: float


@dataclass(frozen=True)
class Scene:
    """A product on a table before a wall.

    Attributes:
        product, companion, light: see there; companion None = the product stands alone.
        place: of the product, across and into the studio.
        wall_color: a key of WALL_COLORS.
        pattern: one of PATTERNS, on the wall.
        table: one of TABLES.
        wall_rgb: colour of the wall.
        second_rgb: colour of the pattern.
        period: of the pattern, in units of the studio.
        phase: of the pattern, in periods, across and up.
        blur: depth of field: width of the pattern's edges, in periods.
        tone: of the table's material, 0..1.
        grain: where in the noise the table's material begins.
        eye: height of the camera.
        zoom: focal length; half of the picture's side is 1.
    """

    product: Product
    companion: Companion | None
    light: Light
    place: tuple[float, float]
    wall_color: str
    pattern: str
    table: str
    wall_rgb: Color
    second_rgb: Color
    period: float
    phase: tuple[float, float]
    blur: float
    tone: float
    grain: tuple[float, float]
    eye: float
    zoom: float

    @property
    def product_color(self) -> str:
        """The product's colour, by name."""
        return self.product.color

    @property
    def shape(self) -> str:
        """The product's shape, by name."""
        return self.product.shape

    def with_product_of(self, other: Scene) -> Scene:
        """This scene with the product of another one where its own stood."""
        return replace(self, product=other.product)

    def with_background_of(self, other: Scene) -> Scene:
        """This scene's product in the surroundings of another one."""
        return other.with_product_of(self)

    def alone(self) -> Scene:
        """This scene without its companion."""
        return replace(self, companion=None)

    def mirrored(self) -> Scene:
        """What a mirrored picture of this scene shows: the light comes from the other side, all stands on the other one."""
        companion = self.companion
        if companion is not None:
            across, into = companion.place
            companion = replace(companion, place=(-across, into), lean=-companion.lean, turn=-companion.turn)
        product = replace(self.product, turn=-self.product.turn)
        light = replace(self.light, side=-self.light.side)
        place = (-self.place[0], self.place[1])
        return replace(self, product=product, companion=companion, light=light, place=place)

    def turned(self, turn: float) -> Scene:
        """This scene with its product seen from another side, radians."""
        return replace(self, product=replace(self.product, turn=turn))


ATTRIBUTES = {
    "product_color": tuple(PRODUCT_COLORS),
    "shape": SHAPES,
    "wall_color": tuple(WALL_COLORS),
    "pattern": PATTERNS,
    "table": TABLES,
}


class _Draw:
    """Draws from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.uniform = self.random.uniform
        self.choice = self.random.choice

    def near(self, rgb: Color) -> Color:
        red, green, blue = (value * (1 + self.uniform(-COLOR_NOISE, COLOR_NOISE)) for value in rgb)
        return min(red, 1.0), min(green, 1.0), min(blue, 1.0)


def sample_scene(seed: int, split: Split = Split.TRAIN, companion: bool = True) -> Scene:
    """The scene of a seed; everything is chosen independently, pairs of colours with shapes and patterns within the split.

    Args:
        seed: any number; a split's scenes have seeds of their own.
        split: whose pairs of (product_color, shape) and (wall_color, pattern) are drawn from.
        companion: False = the product stands alone.
    """
    draw = _Draw(seed)
    color, shape = draw.choice(pairs_of(split, ATTRIBUTES["product_color"], ATTRIBUTES["shape"]))
    wall_color, pattern = draw.choice(pairs_of(split, ATTRIBUTES["wall_color"], ATTRIBUTES["pattern"]))
    wall_rgb = draw.near(WALL_COLORS[wall_color])
    scene = Scene(
        product=_product(draw, color, shape),
        light=_light(draw),
        place=(draw.uniform(-0.22, 0.22), draw.uniform(-0.12, 0.12)),
        wall_color=wall_color,
        pattern=pattern,
        table=draw.choice(TABLES),
        wall_rgb=wall_rgb,
        second_rgb=second_tone(wall_rgb),
        period=draw.uniform(0.62, 0.80),
        phase=(draw.uniform(0, 1), draw.uniform(0, 1)),
        blur=draw.uniform(0.05, 0.16),
        tone=draw.uniform(0, 1),
        grain=(draw.uniform(0, 200), draw.uniform(0, 200)),
        eye=draw.uniform(0.85, 1.15),
        zoom=draw.uniform(3.9, 4.4),
        companion=None,
    )
    others = draw.uniform(0, 1) < COMPANION_SHARE and companion
    return replace(scene, companion=_companion(draw, scene.place[0])) if others else scene


def _product(draw: _Draw, color: str, shape: str) -> Product:
    return Product(
        color=color,
        shape=shape,
        rgb=draw.near(PRODUCT_COLORS[color]),
        cap=draw.choice(CAPS),
        size=draw.uniform(0.98, 1.12) * min((1.05 / HEIGHTS[shape]) ** 0.7, 0.35 / HALF_WIDTHS[shape]),
        turn=draw.uniform(-WIDEST_TURN, WIDEST_TURN),
        gloss=draw.uniform(0.1, 1.0),
        mark=draw.choice(MARKS),
        mark_rgb=draw.choice(MARK_COLORS),
        mark_form=(draw.uniform(0.5, 1.0), draw.uniform(0.6, 1.0)),
    )


def _light(draw: _Draw) -> Light:
    return Light(
        side=draw.choice((-1, 1)),
        angles=(draw.uniform(0.5, 0.9), draw.uniform(0.75, 1.1), draw.uniform(0.35, 0.8)),
        warmth=draw.uniform(-1, 1),
        strength=draw.uniform(0.9, 1.15),
        fill=draw.uniform(0.8, 1.2),
    )


def _companion(draw: _Draw, across: float) -> Companion:
    kind = draw.choice(COMPANION_KINDS)
    look = draw.choice(tuple(COMPANION_LOOKS[kind]))
    side = -1 if across > 0 else 1  # where there is room
    return Companion(
        kind=kind,
        look=look,
        rgb=draw.near(COMPANION_LOOKS[kind][look]),
        place=(across + side * draw.uniform(0.68, 0.92), draw.uniform(0.25, 0.75)),
        height=draw.uniform(0.75, 1.35),
        lean=draw.uniform(-0.22, 0.22),
        turn=draw.uniform(-0.6, 0.6),
    )


def second_tone(rgb: Color) -> Color:
    """The tone of a wall's pattern: darker on light walls, lighter on dark ones, a little less saturated."""
    luminance = sum(rgb) / 3
    if luminance > 0.3:
        red, green, blue = (value * 0.45 for value in rgb)
    else:
        red, green, blue = (value + (0.85 - value) * 0.42 for value in rgb)
    return red, green, blue


def sample_pair(seed: int, split: Split = Split.TEST) -> tuple[Scene, Scene]:
    """Two scenes, each product alone, that share no product colour, shape, wall colour, pattern or table."""
    first = sample_scene(2 * seed % HELD_OUT_SEEDS, split, companion=False)
    attempt = 0
    while True:
        second = sample_scene((2 * seed + 1 + attempt * 10_000_020) % HELD_OUT_SEEDS, split, companion=False)
        if not any(getattr(first, name) == getattr(second, name) for name in ATTRIBUTES):
            return first, second
        attempt += 1


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Per attribute, (B,) int64 indices into ATTRIBUTES."""
    return {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
        for name, values in ATTRIBUTES.items()
    }
