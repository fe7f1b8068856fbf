"""What is told of a scene's product and companion apart from it: a packshot, the companion's rows, a mannequin in its pose.

A packshot is the product as a shop shows it: in the middle, turned another way, in the same soft light whatever the scene's is.
A mannequin stands as a companion does and looks like none.
"""

from __future__ import annotations

import random
from dataclasses import replace

import torch
from torch import Tensor

from .bodies import Body, Kind, bodies_of
from .camera import Camera, march
from .render import pixel_places
from .scene import WIDEST_TURN, Light, Scene, sample_scene
from .shapes import figure
from .surfaces import Surface

LEAST_TURN = 0.15  # radians between a packshot and its scene
PACKSHOT_LIGHT = Light(side=-1, angles=(0.5, 1.0, 0.8), warmth=0.0, strength=1.0, fill=1.2)
PACKSHOT_EYE, PACKSHOT_ZOOM = 1.0, 4.15  # the middle of what scenes have
MANNEQUIN_HEIGHT, MANNEQUIN_DISTANCE, MANNEQUIN_GREY = 1.05, 0.5, 0.95
COLUMN_STEP = 4  # rows are found in every fourth column


def packshot_of(scene: Scene, seed: int) -> Scene:
    """What the packshot of a scene's product shows.

    Args:
        seed: of how the product is turned: near its turn in the scene, and LEAST_TURN or more away from it.
    """
    draw = random.Random(seed)
    turn = scene.product.turn
    while abs(turn - scene.product.turn) < LEAST_TURN:
        turn = draw.uniform(-WIDEST_TURN, WIDEST_TURN)
    return replace(
        scene.alone().turned(turn), light=PACKSHOT_LIGHT, place=(0.0, 0.0), eye=PACKSHOT_EYE, zoom=PACKSHOT_ZOOM
    )


@torch.no_grad()
def companion_columns(scene: Scene, size: int) -> Tensor:
    """(size, size / COLUMN_STEP) bool: where a scene's companion is, in the middle of every so many columns, wherever the product
    hides it."""
    return _covered(Camera(scene), bodies_of(scene)[1], size, size // COLUMN_STEP)


def companion_rows(scene: Scene, size: int) -> tuple[int, int] | None:
    """First row of a scene's companion and the one after its last, of `size` rows, wherever the product hides it; None = out of
    the picture, or there is none."""
    if scene.companion is None:
        return None
    covered = companion_columns(scene, size).any(1).nonzero().flatten()
    return (int(covered[0]), int(covered[-1]) + 1) if len(covered) else None


@torch.no_grad()
def mannequin(lean: float, turn: float, size: int) -> Tensor:
    """(H, W, 3), 0..1: a figure of one height in the middle of a black picture, lit from the camera; see `scene.Companion`."""
    camera = Camera(replace(sample_scene(0).alone(), eye=PACKSHOT_EYE, zoom=PACKSHOT_ZOOM))
    place = torch.tensor([0.0, 0.0, MANNEQUIN_DISTANCE])
    body = Body(Kind.COMPANION, figure, _plain, place, MANNEQUIN_HEIGHT, turn, lean, 1.0)
    x, y = pixel_places(size, size)
    directions = camera.rays(x, y)
    origins = camera.eye.expand_as(directions)
    rows, reached = march(body, origins, directions)
    points = origins[rows] + reached[:, None] * directions[rows]
    facing = -(body.normals(points) * directions[rows]).sum(1).clamp(-1, 0)
    picture = torch.zeros(size * size, 3)
    picture[rows] = body.look(points).color * (0.2 + 0.8 * facing)[:, None]
    return picture.view(size, size, 3)


def _covered(camera: Camera, body: Body, height: int, width: int) -> Tensor:
    """(H, W) bool: where a body is seen that nothing stands before."""
    directions = camera.rays(*pixel_places(height, width))
    covered = torch.zeros(height * width, dtype=torch.bool)
    covered[march(body, camera.eye.expand_as(directions), directions)[0]] = True
    return covered.view(height, width)


def _plain(points: Tensor) -> Surface:
    flat = torch.zeros_like(points[:, 0])
    return Surface(torch.full_like(points, MANNEQUIN_GREY), flat, flat.bool())
