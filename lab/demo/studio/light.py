"""How light falls: a key light with a soft shadow, a sky that corners keep out, and what polished surfaces mirror."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .bodies import Body, Kind
from .camera import WALL_PLACE, Hits, march
from .scene import Light, Scene
from .surfaces import Surface, table_surface, wall_surface, warm

SKY = (0.50, 0.53, 0.58)
SHADOW_STEPS = 24
OCCLUSION = ((0.04, 0.42), (0.12, 0.30), (0.28, 0.22))  # how far a corner is felt, and how much


def key_direction(light: Light) -> Tensor:
    """(3,) towards the key light."""
    aside, up, towards = light.angles
    return F.normalize(torch.tensor([light.side * aside, up, -towards]), dim=0)


def surfaces(hits: Hits, scene: Scene, bodies: Sequence[Body]) -> Surface:
    """What every ray met looks like."""
    color = torch.zeros_like(hits.points)
    gloss = torch.zeros_like(hits.forward)
    label = torch.zeros_like(hits.forward, dtype=torch.bool)
    looks: dict[Kind, Callable[[Tensor], Surface]] = {
        Kind.TABLE: partial(table_surface, scene=scene),
        Kind.WALL: partial(wall_surface, scene=scene),
        **{body.kind: body.look for body in bodies},
    }
    for kind, look in looks.items():
        here = (hits.kind == kind).nonzero().flatten()
        if len(here):
            found = look(hits.points[here])
            color[here], gloss[here], label[here] = found.color, found.gloss, found.label
    return Surface(color, gloss, label)


def shade(hits: Hits, surface: Surface, scene: Scene, bodies: Sequence[Body]) -> Tensor:
    """(N, 3) radiance towards the camera, linear."""
    light = scene.light
    key = key_direction(light)
    key_color = warm(light.warmth) * 1.9 * light.strength
    facing = (hits.normals @ key).clamp(min=0) * soft_shadow(hits, key, bodies)
    sky = open_sky(hits, bodies) * (0.52 + 0.18 * hits.normals[:, 1])
    spread = 1 + 0.16 * light.side * (hits.points[:, 0] / 1.5).clamp(-1, 1)  # the key light is not far away
    diffuse = facing[:, None] * spread[:, None] * key_color + sky[:, None] * torch.tensor(SKY) * 1.15 * light.fill
    return surface.color * diffuse + _mirrored(hits, surface, scene.light, bodies)


def soft_shadow(hits: Hits, key: Tensor, bodies: Sequence[Body], softness: float = 9.0) -> Tensor:
    """(N,) share of the key light that arrives; the wider the gap a ray passes through, the more."""
    arrives = torch.ones_like(hits.forward)
    start = hits.points + hits.normals * 0.012
    for body in bodies:
        enter, leave = body.span(start, key.expand_as(start), wider=1.15)
        rows = ((leave > enter) & (hits.normals @ key > 0)).nonzero().flatten()
        at, way = start[rows], enter[rows].clamp(min=0.015)
        least = torch.ones_like(way)
        for _ in range(SHADOW_STEPS):
            gap = body.signed(at + way[:, None] * key)
            least = torch.minimum(least, (softness * gap / way).clamp(-0.25, 1))
            way = way + gap.abs().clamp(0.018, 0.2)
        share = (least + 0.25) / 1.25
        arrives[rows] = arrives[rows] * share * share * (3 - 2 * share)
    return arrives


def open_sky(hits: Hits, bodies: Sequence[Body]) -> Tensor:
    """(N,) share of the sky that is seen, 0.1..1."""
    opening = torch.ones_like(hits.forward)
    for reach, weight in OCCLUSION:
        at = hits.points + hits.normals * reach
        gap = torch.minimum(at[:, 1], WALL_PLACE - at[:, 2]).clamp(min=0)
        for body in bodies:
            near = ((at - body.center).norm(dim=1) < body.radius + reach).nonzero().flatten()
            gap[near] = torch.minimum(gap[near], body.signed(at[near]))
        opening = opening - weight * ((reach - gap) / reach).clamp(0, 1)
    return opening.clamp(0.1, 1)


def _mirrored(hits: Hits, surface: Surface, light: Light, bodies: Sequence[Body]) -> Tensor:
    """(N, 3): light boxes on everything polished, and on the table what stands on it."""
    polished = (surface.gloss > 0).nonzero().flatten()
    normals, directions = hits.normals[polished], hits.directions[polished]
    against = -(normals * directions).sum(1).clamp(-1, 0)
    out = directions + 2 * against[:, None] * normals
    fresnel = 0.04 + 0.96 * (1 - against) ** 5
    seen = _studio(out, light)
    flat = hits.kind[polished] == Kind.TABLE
    if flat.any():
        seen[flat] = _with_bodies(hits.points[polished][flat], out[flat], seen[flat] * 0.35, bodies)
    strength = torch.where(flat, fresnel * 2.4 + 0.05, fresnel * 1.6 + 0.05)
    result = torch.zeros_like(hits.points)
    result[polished] = seen * (strength * surface.gloss[polished])[:, None]
    return result


def _studio(directions: Tensor, light: Light) -> Tensor:
    """What a mirror would show of the studio: a large soft box, a strip on the other side, a ceiling that is not black."""
    key = key_direction(light)
    box = torch.sigmoid((directions @ key - 0.90) * 60) * 4.5
    strip = F.normalize(torch.tensor([-light.side * 0.95, 0.18, -0.25]), dim=0)
    edge = torch.sigmoid((directions @ strip - 0.88) * 40) * 1.5
    ceiling = 0.28 + 0.30 * directions[:, 1].clamp(-0.6, 1)
    return (box + edge)[:, None] * warm(light.warmth) + ceiling[:, None] * torch.tensor(SKY) * 1.4


def _with_bodies(points: Tensor, out: Tensor, seen: Tensor, bodies: Sequence[Body]) -> Tensor:
    """What the table mirrors, with the bodies that stand on it, flatly lit."""
    for body in reversed(bodies):
        rows, way = march(body, points + out * 0.02, out, steps=28)
        seen[rows] = body.look(points[rows] + (way + 0.02)[:, None] * out[rows]).color * 0.95
    return seen
