"""Pictures of scenes, with every truth of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .bodies import Body, Kind, bodies_of
from .camera import Camera, Hits, march, trace
from .light import shade, surfaces
from .scene import Scene

VIGNETTE = 0.16
EXPOSURE = 0.80
EDGE_SAMPLES = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))  # of a pixel, where kinds meet
FARTHEST, FAR_DEPTH = 5.6, 0.10  # distance along the camera's axis, a little behind the wall, and its nearness
GROUND = 128 / 255  # grey of a product alone, as `lab.train.cut_out` has it
LABEL = 4  # where `_look` has it


@dataclass(frozen=True)
class Rendered:
    """Scenes as they look. All values 0..1, float32; coverages of product, companion, wall and table sum to 1.

    Attributes:
        image: (B, H, W, 3), RGB, as a screen shows it.
        product: (B, H, W) coverage, 1 = product; its shadow and its mirror image are not part of it.
        companion: (B, H, W) coverage.
        wall: (B, H, W) coverage, 1 = wall and nothing before it.
        table: (B, H, W) coverage.
        label: (B, H, W) coverage, 1 = the product's label.
        depth: (B, H, W) nearness, 1 = near: in a straight line with 1 / distance, from the table's nearest row to the wall.
    """

    image: Tensor
    product: Tensor
    companion: Tensor
    wall: Tensor
    table: Tensor
    label: Tensor
    depth: Tensor


def render(scenes: Sequence[Scene], size: int = 256, product: bool = True) -> Rendered:
    """Photograph scenes, size x size pixels; product=False leaves out the product, its shadow and its mirror image.

    On one device and one build of torch the same scene gives the same picture, whatever it is rendered together with.
    """
    planes = [_render_one(scene, size, product) for scene in scenes]
    return Rendered(**{name: torch.stack([plane[name] for plane in planes]) for name in planes[0]})


@torch.no_grad()
def render_alone(scenes: Sequence[Scene], size: int, ground: float) -> Tensor:
    """(B, H, W, 3): the products of scenes, lit and placed as they are there, on plain ground of a grey of 0..1.

    Only what the product covers is computed: several times faster than `render`.
    """
    return torch.stack([_render_alone(scene, size, ground) for scene in scenes])


def _render_alone(scene: Scene, size: int, ground: float) -> Tensor:
    camera, bodies = Camera(scene), bodies_of(scene)
    x, y = pixel_places(size, size)
    directions = camera.rays(x, y)
    covered = torch.zeros(size * size)
    covered[march(bodies[0], camera.eye.expand_as(directions), directions)[0]] = 1
    near = F.max_pool2d(covered.view(1, 1, size, size), 3, 1, 1).flatten().nonzero().flatten()

    def on_ground(at_x: Tensor, at_y: Tensor) -> tuple[Tensor, Hits, Tensor]:
        values, hits = _look(camera, at_x, at_y, scene, bodies)
        return torch.where((hits.kind == Kind.PRODUCT)[:, None], values[:, :3], ground), hits, values[:, LABEL]

    picture, kind, label = torch.full((size * size, 3), ground), torch.zeros(size * size), torch.zeros(size * size)
    picture[near], hits, label[near] = on_ground(x[near], y[near])
    kind[near] = hits.kind.float()
    edges = _edges(kind.view(size, size) == Kind.PRODUCT, label.view(size, size)).flatten().nonzero().flatten()
    if len(edges):
        samples, _, _ = on_ground(*_finer(x[edges], y[edges], size))
        picture[edges] = samples.view(len(EDGE_SAMPLES), len(edges), 3).mean(0)
    return picture.view(size, size, 3)


def pixel_places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the pixels of a picture are, row by row: (H * W,) across and down, -1..1."""
    down, across = ((torch.arange(length) + 0.5) / length * 2 - 1 for length in (height, width))
    y, x = (grid.flatten() for grid in torch.meshgrid(down, across, indexing="ij"))
    return x, y


@torch.no_grad()
def _render_one(scene: Scene, size: int, with_product: bool) -> dict[str, Tensor]:
    camera = Camera(scene)
    bodies = bodies_of(scene, with_product)
    x, y = pixel_places(size, size)
    values, hits = _look(camera, x, y, scene, bodies)
    edges = _edges(hits.kind.view(size, size), values[:, LABEL].view(size, size)).flatten().nonzero().flatten()
    if len(edges):
        samples, _ = _look(camera, *_finer(x[edges], y[edges], size), scene, bodies)
        values[edges] = samples.view(len(EDGE_SAMPLES), len(edges), -1).mean(0)
    planes = values.view(size, size, -1)
    names = ("depth", "label", "wall", "table", "product", "companion")
    return {"image": planes[..., :3]} | {name: planes[..., 3 + number] for number, name in enumerate(names)}


def _look(camera: Camera, x: Tensor, y: Tensor, scene: Scene, bodies: Sequence[Body]) -> tuple[Tensor, Hits]:
    """(N, 9): RGB, depth, label, and one for the kind that is met; and the hits."""
    hits = trace(camera, camera.rays(x, y), bodies)
    surface = surfaces(hits, scene, bodies)
    radiance = shade(hits, surface, scene, bodies) * (1 - VIGNETTE * (x**2 + y**2))[:, None]
    kinds = torch.nn.functional.one_hot(hits.kind, len(Kind)).float()
    depth = _nearness(hits.forward, camera)
    return torch.cat([_film(radiance), depth[:, None], surface.label.float()[:, None], kinds], 1), hits


def _finer(x: Tensor, y: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The places of the samples of (N,) pixels, sample by sample."""
    across, down = (torch.tensor(offsets)[:, None] * 2 / size for offsets in zip(*EDGE_SAMPLES, strict=True))
    return (x + across).flatten(), (y + down).flatten()


def _edges(kind: Tensor, label: Tensor) -> Tensor:
    """(H, W) bool: pixels beside one of another kind, or at the label's rim."""
    mixed = torch.zeros_like(kind, dtype=torch.bool)
    for plane in (kind, label):
        across, down = plane[:, 1:] != plane[:, :-1], plane[1:] != plane[:-1]
        mixed[:, 1:] |= across
        mixed[:, :-1] |= across
        mixed[1:] |= down
        mixed[:-1] |= down
    return mixed


def _nearness(forward: Tensor, camera: Camera) -> Tensor:
    """1 where the table leaves the picture below the camera's axis, FAR_DEPTH at FARTHEST."""
    lowest = camera.axis * camera.zoom - camera.up
    nearest = -camera.eye[1] / lowest[1] * camera.zoom
    share = (1 / forward - 1 / FARTHEST) / (1 / nearest - 1 / FARTHEST)
    return (FAR_DEPTH + (1 - FAR_DEPTH) * share).clamp(0, 1)


def _film(radiance: Tensor) -> Tensor:
    """A filmic curve, then the screen's gamma."""
    x = radiance * EXPOSURE
    return (x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)).clamp(0, 1) ** (1 / 2.2)
