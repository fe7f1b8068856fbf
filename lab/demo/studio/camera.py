"""Rays through pixels, and what they meet first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .bodies import FAR, Body, Kind
from .scene import Scene

WALL_PLACE = 1.6  # distance of the wall behind the middle of the table
CAMERA_PLACE = -3.6
LOOKS_AT = 0.52  # height
STEPS = 44
NEAR_ENOUGH = 2e-3


@dataclass(frozen=True)
class Hits:
    """What N rays met.

    Attributes:
        kind: (N,) int64, a Kind.
        points, normals, directions: (N, 3); directions are those of the rays.
        forward: (N,) distance from the camera along its axis.
    """

    kind: Tensor
    points: Tensor
    normals: Tensor
    directions: Tensor
    forward: Tensor


class Camera:
    """A camera at the height `eye` that looks at the table's middle."""

    def __init__(self, scene: Scene) -> None:
        self.eye = torch.tensor([0.0, scene.eye, CAMERA_PLACE])
        self.axis = F.normalize(torch.tensor([0.0, LOOKS_AT, 0.0]) - self.eye, dim=0)
        self.right = torch.tensor([1.0, 0.0, 0.0])
        self.up = torch.linalg.cross(self.axis, self.right)
        self.zoom = scene.zoom

    def rays(self, x: Tensor, y: Tensor) -> Tensor:
        """(N, 3) directions through (N,) places in the picture, -1..1 across and down."""
        return F.normalize(self.axis * self.zoom + x[:, None] * self.right - y[:, None] * self.up, dim=1)


def trace(camera: Camera, directions: Tensor, bodies: Sequence[Body]) -> Hits:
    """What rays from the camera meet."""
    origins = camera.eye.expand_as(directions)
    to_table = torch.where(directions[:, 1] < 0, -camera.eye[1] / directions[:, 1].clamp(max=-1e-6), FAR)
    to_wall = (WALL_PLACE - camera.eye[2]) / directions[:, 2].clamp(min=1e-6)
    distance = torch.minimum(to_table, to_wall)
    kind = torch.where(to_table < to_wall, Kind.TABLE, Kind.WALL)
    for body in bodies:
        rows, reached = march(body, origins, directions)
        nearer = reached < distance[rows]
        distance[rows[nearer]], kind[rows[nearer]] = reached[nearer], int(body.kind)
    points = origins + distance[:, None] * directions
    normals = torch.zeros_like(points)
    normals[kind == Kind.TABLE] = torch.tensor([0.0, 1.0, 0.0])
    normals[kind == Kind.WALL] = torch.tensor([0.0, 0.0, -1.0])
    for body in bodies:
        here = kind == body.kind
        if here.any():
            normals[here] = body.normals(points[here])
    return Hits(kind, points, normals, directions, distance * (directions @ camera.axis))


def march(body: Body, origins: Tensor, directions: Tensor, steps: int = STEPS) -> tuple[Tensor, Tensor]:
    """Rows of the rays that meet a body, and how far along they do."""
    enter, leave = body.span(origins, directions)
    rows = (leave > enter).nonzero().flatten()
    travelled, leave = enter[rows], leave[rows]
    live = torch.arange(len(rows))
    met = torch.zeros(len(rows), dtype=torch.bool)
    for _ in range(steps):
        if not len(live):
            break
        at = rows[live]
        gap = body.signed(origins[at] + travelled[live][:, None] * directions[at])
        met[live] = gap < NEAR_ENOUGH
        travelled[live] += gap.clamp(min=0)
        live = live[(gap >= NEAR_ENOUGH) & (travelled[live] < leave[live])]
    return rows[met], travelled[met]
