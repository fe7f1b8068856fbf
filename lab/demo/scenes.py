"""Seeded product scenes: a product on a table before a patterned wall, with every truth known.

All of it is drawn here from formulas; no picture of anybody's goes in. A scene is a list of choices and numbers, an
image is what they look like: the same scene can be drawn without its product, or with another one, everything else
equal to the bit outside what the product and its shadow cover.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PRODUCT_COLORS = {
    "red": (0.84, 0.10, 0.12),
    "orange": (0.98, 0.50, 0.06),
    "yellow": (0.98, 0.86, 0.10),
    "green": (0.14, 0.62, 0.20),
    "teal": (0.04, 0.60, 0.62),
    "blue": (0.12, 0.26, 0.86),
    "purple": (0.50, 0.16, 0.70),
    "pink": (0.98, 0.44, 0.70),
    "black": (0.09, 0.09, 0.11),
    "white": (0.96, 0.96, 0.97),
}
WALL_COLORS = {
    "red": (0.72, 0.30, 0.28),
    "orange": (0.90, 0.62, 0.36),
    "yellow": (0.91, 0.84, 0.46),
    "green": (0.46, 0.66, 0.42),
    "teal": (0.34, 0.66, 0.66),
    "blue": (0.38, 0.50, 0.78),
    "purple": (0.58, 0.44, 0.72),
    "pink": (0.92, 0.68, 0.76),
    "grey": (0.52, 0.53, 0.55),
    "cream": (0.95, 0.92, 0.84),
}
TABLES = {
    "wooden": (0.56, 0.36, 0.18),
    "marble": (0.88, 0.88, 0.90),
    "slate": (0.20, 0.22, 0.26),
    "velvet": (0.44, 0.06, 0.20),
}
SHAPES = ("bottle", "box", "ball", "cone", "mug")
PATTERNS = ("plain", "stripes", "bands", "dots", "checks", "slants")

COLOR_NOISE = 0.02  # half-width of each channel's spread around its named colour
PATTERN_CONTRAST = 0.5  # how far the pattern's second tone goes towards white (dark walls) or black (light walls)
LIGHT_WALL = 0.62  # mean of a wall colour above which the second tone is darker
HORIZON = (0.60, 0.68)  # where the table begins, as a share of the height from the top
WALL_DEPTH = 0.12
PRODUCT_DEPTH = 0.80
SHADOW_DARKNESS = 0.45


@dataclass(frozen=True)
class Scene:
    """What a scene shows. Positions and sizes are shares of the image's side; (0, 0) is the top left.

    Attributes:
        product_color: a key of PRODUCT_COLORS.
        shape: one of SHAPES.
        wall_color: a key of WALL_COLORS.
        pattern: one of PATTERNS, on the wall.
        table: a key of TABLES.
        product_rgb, wall_rgb, table_rgb: the colours as drawn, 0..1, within COLOR_NOISE of the named ones.
        center: horizontal centre of the product.
        base: where it stands, from the top.
        height: of the product.
        aspect: its width, as a multiple of the shape's own.
        horizon: where the table begins.
        period: of the wall's pattern.
        phase: of the wall's pattern, in periods, across and down.
        light: -1 = lit from the left, 1 = from the right.
        blur: depth of field: width of the edges of the wall's pattern, as a share of its period.
        seed: of the table's grain.
    """

    product_color: str
    shape: str
    wall_color: str
    pattern: str
    table: str
    product_rgb: tuple[float, float, float]
    wall_rgb: tuple[float, float, float]
    table_rgb: tuple[float, float, float]
    center: float
    base: float
    height: float
    aspect: float
    horizon: float
    period: float
    phase: tuple[float, float]
    light: float
    blur: float
    seed: int

    def with_product_of(self, other: Scene) -> Scene:
        """This scene with the product of another one in its place."""
        names = ("product_color", "shape", "product_rgb", "center", "base", "height", "aspect")
        return replace(self, **{name: getattr(other, name) for name in names})

    def with_background_of(self, other: Scene) -> Scene:
        """This scene's product in the surroundings of another one."""
        return other.with_product_of(self)


@dataclass(frozen=True)
class Rendered:
    """Scenes as drawn. All values 0..1.

    Attributes:
        image: (B, H, W, 3) float32, RGB.
        product: (B, H, W) float32 coverage, 1 = product; the shadow is not part of it.
        wall: (B, H, W) float32 coverage, 1 = wall and nothing before it.
        table: (B, H, W) float32 coverage; product + wall + table = 1.
        depth: (B, H, W) float32, 1 = near, 0 = far.
    """

    image: Tensor
    product: Tensor
    wall: Tensor
    table: Tensor
    depth: Tensor


def sample_scene(seed: int) -> Scene:
    """The scene of a seed: all choices independent and uniform."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    def choice(names: Sequence[str]) -> str:
        return names[int(torch.randint(len(names), (), generator=generator))]

    def near(rgb: tuple[float, float, float]) -> tuple[float, float, float]:
        red, green, blue = (value + uniform(-COLOR_NOISE, COLOR_NOISE) for value in rgb)
        return min(max(red, 0.0), 1.0), min(max(green, 0.0), 1.0), min(max(blue, 0.0), 1.0)

    product_color, wall_color = choice(list(PRODUCT_COLORS)), choice(list(WALL_COLORS))
    table = choice(list(TABLES))
    horizon = uniform(*HORIZON)
    return Scene(
        product_color=product_color,
        shape=choice(SHAPES),
        wall_color=wall_color,
        pattern=choice(PATTERNS),
        table=table,
        product_rgb=near(PRODUCT_COLORS[product_color]),
        wall_rgb=near(WALL_COLORS[wall_color]),
        table_rgb=near(TABLES[table]),
        center=uniform(0.40, 0.60),
        base=horizon + uniform(0.14, 0.22),
        height=uniform(0.54, 0.62),
        aspect=uniform(0.92, 1.08),
        horizon=horizon,
        period=uniform(0.27, 0.32),
        phase=(uniform(0.1, 0.4), uniform(0.1, 0.4)),
        light=uniform(-1, 1),
        blur=uniform(0.03, 0.12),
        seed=int(torch.randint(2**31, (), generator=generator)),
    )


def sample_pair(seed: int) -> tuple[Scene, Scene]:
    """Two scenes that share no product colour, shape, wall colour, pattern or table."""
    first = sample_scene(2 * seed)
    attempt = 0
    while True:
        second = sample_scene((2 * seed + 1 + attempt * 10_000_020) % 1_000_000_000)  # torch reads 32 bits of a seed
        if not any(getattr(first, name) == getattr(second, name) for name in ATTRIBUTES):
            return first, second
        attempt += 1


ATTRIBUTES = {
    "product_color": tuple(PRODUCT_COLORS),
    "shape": SHAPES,
    "wall_color": tuple(WALL_COLORS),
    "pattern": PATTERNS,
    "table": tuple(TABLES),
}


def labels(scenes: Sequence[Scene]) -> dict[str, Tensor]:
    """Per attribute, (B,) int64 indices into ATTRIBUTES."""
    return {
        name: torch.tensor([values.index(getattr(scene, name)) for scene in scenes])
        for name, values in ATTRIBUTES.items()
    }


def render(scenes: Sequence[Scene], size: int = 128, product: bool = True) -> Rendered:
    """Draw scenes of size x size pixels; product=False leaves out the product and its shadow."""
    canvas = _Canvas(scenes, size)
    wall, table = canvas.wall(), canvas.table()
    below = canvas.edge(canvas.y - canvas.column("horizon"))
    image = wall + (table - wall) * below[..., None]
    depth = WALL_DEPTH + below * (0.15 + 0.73 * canvas.table_nearness())
    coverage = torch.zeros_like(below)
    if product:
        coverage = canvas.product_coverage()
        image = image * (1 - SHADOW_DARKNESS * canvas.shadow() * below)[..., None]
        image = image + (canvas.product() - image) * coverage[..., None]
        depth = depth + (PRODUCT_DEPTH - depth) * coverage
    return Rendered(
        image=image.clamp(0, 1),
        product=coverage,
        wall=(1 - below) * (1 - coverage),
        table=below * (1 - coverage),
        depth=depth,
    )


class _Canvas:
    """Coordinates of a batch of scenes; y grows downwards, u and v are the product's own, (0, 0) its foot, v upwards."""

    def __init__(self, scenes: Sequence[Scene], size: int) -> None:
        self.scenes = scenes
        self.size = size
        axis = (torch.arange(size) + 0.5) / size
        self.y, self.x = axis.view(1, -1, 1), axis.view(1, 1, -1)
        height = self.column("height")
        self.v = (self.column("base") - self.y) / height
        self.u = (self.x - self.column("center")) / (height * self.column("aspect"))

    def column(self, name: str) -> Tensor:
        return torch.tensor([getattr(scene, name) for scene in self.scenes], dtype=torch.float32).view(-1, 1, 1)

    def color(self, name: str) -> Tensor:
        return torch.tensor([getattr(scene, name) for scene in self.scenes], dtype=torch.float32).view(-1, 1, 1, 3)

    def edge(self, distance: Tensor, width: float | Tensor | None = None) -> Tensor:
        """0 below and 1 above distance 0, over one pixel or the given width."""
        return (distance / (1 / self.size if width is None else width) + 0.5).clamp(0, 1)

    def wall(self) -> Tensor:
        color = self.color("wall_rgb")
        light_wall = color.mean(-1, keepdim=True) > LIGHT_WALL
        other = color + ((~light_wall).float() - color) * PATTERN_CONTRAST * torch.where(light_wall, 0.8, 1.0)
        tone = self.pattern()[..., None]
        shade = 1 + 0.12 * self.column("light") * (self.x - 0.5) * 2 - 0.08 * (self.y - 0.3).abs()
        return (color + (other - color) * tone) * shade[..., None]

    def pattern(self) -> Tensor:
        """(B, H, W), 1 = the second tone."""
        period, blur = self.column("period"), self.column("blur")
        phase = torch.tensor([scene.phase for scene in self.scenes], dtype=torch.float32).view(-1, 2, 1, 1)
        across, down = self.x / period + phase[:, 0], self.y / period + phase[:, 1]

        def wave(position: Tensor) -> Tensor:
            """Distance to the middle of a stripe that covers half of each period, > 0 inside it."""
            return 0.25 - (position - position.floor() - 0.5).abs()

        def cell(position: Tensor) -> Tensor:
            return position - position.floor() - 0.5

        ones = torch.ones_like(across + down)
        distances: dict[str, Tensor] = {
            "plain": -ones,
            "stripes": wave(across) * ones,
            "bands": wave(down) * ones,
            "dots": 0.32 - (cell(across) ** 2 + cell(down) ** 2).sqrt(),
            "checks": _smaller_magnitude(wave(across * 0.9), wave(down * 0.9)),
            "slants": wave((across + down) * 0.75),
        }
        return self._by_scene("pattern", {name: self.edge(value, blur) for name, value in distances.items()})

    def table(self) -> Tensor:
        color = self.color("table_rgb")
        return color * (1 + 0.25 * (self.grain() - 0.5) + 0.20 * (self.table_nearness() - 0.5))[..., None]

    def table_nearness(self) -> Tensor:
        horizon = self.column("horizon")
        return ((self.y - horizon) / (1 - horizon)).clamp(0, 1) + 0 * self.x

    def grain(self) -> Tensor:
        """(B, H, W), 0..1: long waves for wood, veins for marble, flecks for slate, a sheen for velvet."""
        seed = torch.tensor([scene.seed % 4096 for scene in self.scenes], dtype=torch.float32).view(-1, 1, 1) / 651.9
        bent = self.y * 60 + 2.5 * torch.sin(self.x * 7 + seed * 9) + seed * 40
        vein = torch.sin(self.x * 8 + self.y * 14 + seed * 17).abs()
        fleck = torch.sin(self.x * 31 + seed * 31) * torch.sin(self.y * 37 + seed * 13)
        grains = {
            "wooden": 0.5 + 0.5 * torch.sin(bent),
            "marble": 1 - 0.9 * (1 - vein) ** 2,
            "slate": 0.5 + 0.5 * fleck,
            "velvet": 0.5 + 0.5 * torch.sin(self.x * 9 + seed * 5) + 0 * self.y,
        }
        return self._by_scene("table", grains)

    def product_coverage(self) -> Tensor:
        height = self.column("height")
        outlines = {name: outline(self.u, self.v) for name, outline in _OUTLINES.items()}
        return self._by_scene("shape", {name: self.edge(value * height) for name, value in outlines.items()})

    def product(self) -> Tensor:
        color = self.color("product_rgb")
        light = self.column("light")
        side = (self.u / 0.25).clamp(-1, 1)
        shading = 1 - 0.22 * (side - 0.5 * light) ** 2 + 0 * self.v
        shine = torch.exp(-((self.u - 0.10 * light) ** 2) / 0.0012 - (self.v - 0.62) ** 2 / 0.03)
        label = self.edge(self.v - 0.20, 0.02) * self.edge(0.34 - self.v, 0.02) * 0.45
        dark = (color.mean(-1, keepdim=True) < 0.85).float()
        shaded = color * shading[..., None]
        labelled = shaded + (dark - shaded) * label[..., None]
        return labelled + (1 - labelled) * 0.45 * shine[..., None]

    def shadow(self) -> Tensor:
        """(B, H, W), 1 = darkest: an ellipse at the product's foot, longer on the side away from the light."""
        across = self.u + 0.10 * self.column("light")
        distance = (across / 0.34) ** 2 + (self.v / 0.07) ** 2
        return (1 - distance).clamp(0, 1)

    def _by_scene(self, name: str, values: dict[str, Tensor]) -> Tensor:
        shape = (len(self.scenes), self.size, self.size)
        rows = [values[getattr(scene, name)].expand(shape)[i] for i, scene in enumerate(self.scenes)]
        return torch.stack(rows)


def _smaller_magnitude(first: Tensor, second: Tensor) -> Tensor:
    """Signed distance of a checkerboard: positive where exactly one of two stripe patterns is."""
    sign = -(first.sign() * second.sign())
    return sign * torch.minimum(first.abs(), second.abs())


def _rectangle(u: Tensor, v: Tensor, half_width: float, bottom: float, top: float) -> Tensor:
    return torch.minimum(half_width - u.abs(), torch.minimum(v - bottom, top - v))


def _bottle(u: Tensor, v: Tensor) -> Tensor:
    shoulder = (0.20 - (v - 0.58).clamp_min(0) * 0.75).clamp_min(0.065)
    body = torch.minimum(shoulder - u.abs(), torch.minimum(v, 0.93 - v))
    return torch.maximum(body, _rectangle(u, v, 0.085, 0.88, 1.0))


def _box(u: Tensor, v: Tensor) -> Tensor:
    return _rectangle(u, v, 0.33, 0.0, 0.82)


def _ball(u: Tensor, v: Tensor) -> Tensor:
    return 0.37 - (u**2 + (v - 0.37) ** 2).sqrt()


def _cone(u: Tensor, v: Tensor) -> Tensor:
    return torch.minimum((0.36 * (1 - v) - u.abs()) * 0.94, v)


def _mug(u: Tensor, v: Tensor) -> Tensor:
    cup = _rectangle(u + 0.10, v, 0.27, 0.0, 0.72)
    handle = 0.06 - ((((u - 0.20) / 0.9) ** 2 + (v - 0.38) ** 2).sqrt() - 0.20).abs()
    return torch.maximum(cup, torch.where(u > 0.10, handle, -torch.ones_like(handle)))


# Positive inside the product. u is 0 at its middle, v is 0 at its foot and 1 at its height.
_OUTLINES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "bottle": _bottle,
    "box": _box,
    "ball": _ball,
    "cone": _cone,
    "mug": _mug,
}
