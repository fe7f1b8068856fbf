"""The bodies of a scene: where they stand, how they are turned, what they look like, and what a ray can meet of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import partial

import torch
from torch import Tensor

from .scene import Companion, Scene
from .shapes import COMPANIONS, HEIGHTS, PRODUCTS, Distance
from .surfaces import Surface, companion_surface, product_surface

FAR = 1e4


class Kind(IntEnum):
    """What a ray meets."""

    WALL = 0
    TABLE = 1
    PRODUCT = 2
    COMPANION = 3


@dataclass(frozen=True)
class Body:
    """A shape that stands in the studio.

    Attributes:
        kind: PRODUCT or COMPANION.
        distance: of the shape, in its own coordinates.
        surface: of the shape, at points in its own coordinates.
        place: (3,) where its foot is.
        size: what the shape's lengths are multiplied with.
        turn: about its upright axis, radians.
        lean: to the right about its foot, radians.
        top: height of the shape, in its own coordinates.
    """

    kind: Kind
    distance: Distance
    surface: Callable[[Tensor], Surface]
    place: Tensor
    size: float
    turn: float
    lean: float
    top: float

    @property
    def center(self) -> Tensor:
        """(3,) middle of the sphere that the body lies in."""
        up = self.top / 2 * self.size
        return self.place + torch.tensor([math.sin(self.lean) * up, math.cos(self.lean) * up, 0.0])

    @property
    def radius(self) -> float:
        """Of that sphere."""
        return math.hypot(self.top / 2, 0.46) * self.size

    def local(self, points: Tensor) -> Tensor:
        """(N, 3) points of the studio in the body's own coordinates."""
        x, y, z = (points - self.place).unbind(1)
        cos, sin = math.cos(self.lean), math.sin(self.lean)
        x, y = cos * x - sin * y, sin * x + cos * y
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return torch.stack([cos * x - sin * z, y, sin * x + cos * z], 1) / self.size

    def look(self, points: Tensor) -> Surface:
        """Of its surface at (N, 3) points of the studio."""
        return self.surface(self.local(points))

    def signed(self, points: Tensor) -> Tensor:
        """(N,) distances of (N, 3) points of the studio."""
        return self.distance(self.local(points)) * self.size

    def normals(self, points: Tensor, step: float = 2e-3) -> Tensor:
        """(N, 3) directions away from the surface, by differences."""
        axes = torch.eye(3) * step
        slopes = [self.signed(points + axis) - self.signed(points - axis) for axis in axes]
        return torch.nn.functional.normalize(torch.stack(slopes, 1), dim=1)

    def span(self, origins: Tensor, directions: Tensor, wider: float = 1.0) -> tuple[Tensor, Tensor]:
        """Where rays enter and leave its sphere, (N,) each; a ray that misses it leaves before it enters."""
        offset = origins - self.center
        along = (offset * directions).sum(1)
        inside = along**2 - offset.square().sum(1) + (self.radius * wider) ** 2
        half = inside.clamp(min=0).sqrt()
        miss = (inside <= 0) | (half - along <= 0)
        return torch.where(miss, FAR, (-along - half).clamp(min=0)), torch.where(miss, -FAR, half - along)


def bodies_of(scene: Scene, product: bool = True) -> list[Body]:
    """What stands in a scene, with its product or without it."""
    companion = [] if scene.companion is None else [_companion(scene.companion)]
    return [_product(scene), *companion] if product else companion


def _product(scene: Scene) -> Body:
    product = scene.product
    place = torch.tensor([scene.place[0], 0.0, scene.place[1]])
    surface = partial(product_surface, product=product)
    shape, top = PRODUCTS[product.shape], HEIGHTS[product.shape]
    return Body(Kind.PRODUCT, shape, surface, place, product.size, product.turn, 0.0, top)


def _companion(companion: Companion) -> Body:
    place = torch.tensor([companion.place[0], 0.0, companion.place[1]])
    surface = partial(companion_surface, companion=companion)
    shape = COMPANIONS[companion.kind]
    return Body(Kind.COMPANION, shape, surface, place, companion.height, companion.turn, companion.lean, 1.0)
