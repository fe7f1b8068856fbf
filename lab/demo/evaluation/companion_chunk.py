"""Held-out scenes with a companion, what is asked of it, and how its pictures are read."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from pfv_core.region.distance import grow

from .. import stack
from ..splits import Split
from ..studio.beside import companion_rows
from ..studio.render import Rendered, render
from ..studio.scene import COMPANION_LOOKS, Companion, Scene, sample_scene
from .chunk import channels_first, noise_of
from .pairs import product_of, wall_of
from .rulers import companion_box, companion_mask, nearest, portrait, top_row
from .strict_id_ways import DECODED, How, Picture

MIDDLE_HEIGHT = 1.05
FARTHEST = 0.75  # of a companion to the side: from here on the picture's border cuts it
RULER_SIZE = 128  # rows and columns that companions are measured on
RULER_MISS = 4  # rows by which the ruler may miss the true picture's
BESIDE = 3  # of these rows, around the product, are not looked at; and so many around a companion's box are
ONE_OF_EACH = [(kind, next(iter(looks))) for kind, looks in COMPANION_LOOKS.items()]


class CompanionChunk:
    """Held-out scenes with a companion before a plain wall, and another one beside each."""

    def __init__(self, split: Split, start: int, count: int) -> None:
        self.seeds = range(start, start + count)
        self.scenes: list[Scene] = []
        self.others: list[Scene] = []
        self._true_masks: dict[Any, list[list[Tensor | None]]] = {}
        self._boxes: dict[Any, Tensor] = {}
        for seed in self.seeds:
            found = _scenes(seed, split)
            scene = next(found)
            self.scenes.append(scene)
            self.others.append(next(one for one in found if _differs(one, scene)))

    @cached_property
    def noise(self) -> Tensor:
        """(P, 4, h, w), of each scene its own."""
        return noise_of(self.seeds)

    @cached_property
    def drawn(self) -> Rendered:
        """The products without companions."""
        return render([scene.alone() for scene in self.scenes], stack.IMAGE_SIZE)

    @cached_property
    def empty(self) -> Tensor:
        """(P, 3, H, W), without products too."""
        return channels_first(render([scene.alone() for scene in self.scenes], stack.IMAGE_SIZE, product=False).image)

    @cached_property
    def wall(self) -> Tensor:
        """(P, R, R) bool: where the ruler looks: the wall, but for what is near the product."""
        small = render([scene.alone() for scene in self.scenes], RULER_SIZE)
        return (small.wall == 1) & ~grow(small.product > 0, BESIDE)

    def asked(self, how: How) -> list[list[Scene]]:
        """What is wanted: a list of all scenes for each height or lean."""
        if how.heights:
            return [[with_companion(scene, height=height) for scene in self.scenes] for height in how.heights]
        if how.leans:
            return [[with_companion(scene, lean=lean) for scene in self.scenes] for lean in how.leans]
        if how.picture is not Picture.OWN:
            pairs = zip(self.scenes, self.others, strict=True)
            return [[_looking_like(scene, other.companion) for scene, other in pairs]]
        return [self.scenes]

    def appearance(self, picture: Picture) -> Rendered:
        """The appearance's pictures."""
        return self._another if picture is Picture.ANOTHER else self._own

    @cached_property
    def _another(self) -> Rendered:
        return render(self.others, stack.IMAGE_SIZE)

    @cached_property
    def _own(self) -> Rendered:
        return render(
            [with_companion(scene, height=MIDDLE_HEIGHT, lean=0.0) for scene in self.scenes], stack.IMAGE_SIZE
        )

    def boxes(self, how: How) -> Tensor:
        """(P, R, R) bool: where a companion of any kind would be seen that is as high and leans as it is asked."""
        if (key := (how.heights, how.leans)) not in self._boxes:
            of_scenes = zip(*self.asked(how), strict=True)
            boxes = [
                companion_box([_looks(s, *look) for s in of for look in ONE_OF_EACH], RULER_SIZE) for of in of_scenes
            ]
            self._boxes[key] = grow(torch.stack(boxes), BESIDE)
        return self._boxes[key]

    def masks(self, images: Sequence[Tensor], how: How) -> list[list[Tensor | None]]:
        """Of each of several (P, 3, R, R) pictures, the companions that are found."""
        boxes = self.boxes(how)
        return [[companion_mask(*parts) for parts in zip(image, self.wall, boxes, strict=True)] for image in images]

    def true_masks(self, how: How) -> list[list[Tensor | None]]:
        """The companions that are found in the true pictures of what is asked; None where the ruler misses them."""
        known = how.heights, how.leans, how.picture is Picture.OWN
        if known not in self._true_masks:
            asked = self.asked(how)
            masks = self.masks([channels_first(render(scenes, RULER_SIZE).image) for scenes in asked], how)
            self._true_masks[known] = [
                [
                    mask if mask is not None and _meets(mask, one) else None
                    for mask, one in zip(row, scenes, strict=True)
                ]
                for row, scenes in zip(masks, asked, strict=True)
            ]
        return self._true_masks[known]

    @cached_property
    def portraits(self) -> list[list[Tensor | None]]:
        """Of each scene the nine that its companion could look like."""
        looks = [(kind, look) for kind, of_kind in COMPANION_LOOKS.items() for look in of_kind]
        known = []
        for scene, wall, box in zip(self.scenes, self.wall, self.boxes(DECODED), strict=True):
            drawn = channels_first(render([_looks(scene, *look) for look in looks], RULER_SIZE).image)
            masks = [companion_mask(image, wall, box) for image in drawn]
            known.append([None if m is None else portrait(i, m) for i, m in zip(drawn, masks, strict=True)])
        return known


def in_common(split: Split, seeds: range) -> dict[str, list[Hashable]]:
    """Product, wall and companion's look of each scene, and the other one's wall and look."""
    chunk = CompanionChunk(split, seeds.start, len(seeds))
    return {
        "product": [product_of(scene) for scene in chunk.scenes],
        "wall": [wall_of(scene) for scene in chunk.scenes],
        "look": [_look_of(scene) for scene in chunk.scenes],
        "other wall": [wall_of(scene) for scene in chunk.others],
        "other look": [_look_of(scene) for scene in chunk.others],
    }


def _look_of(scene: Scene) -> tuple[str, str]:
    assert scene.companion is not None
    return scene.companion.kind, scene.companion.look


def _scenes(seed: int, split: Split) -> Iterator[Scene]:
    """Scenes of a split that a seed leads to, with a companion that the border does not cut, before a plain wall."""
    number = 0
    while True:
        scene = sample_scene(seed * 1000 + number, split)
        number += 1
        if scene.companion is not None and abs(scene.companion.place[0]) < FARTHEST:
            yield replace(scene, pattern="plain")


def _differs(one: Scene, other: Scene) -> bool:
    kinds = [scene.companion.kind for scene in (one, other) if scene.companion is not None]
    return kinds[0] != kinds[1] and one.wall_color != other.wall_color and one.table != other.table


def with_companion(scene: Scene, height: float | None = None, lean: float | None = None) -> Scene:
    """A scene whose companion has another height or lean."""
    companion = scene.companion
    assert companion is not None
    height, lean = companion.height if height is None else height, companion.lean if lean is None else lean
    return replace(scene, companion=replace(companion, height=height, lean=lean))


def _looks(scene: Scene, kind: str, look: str) -> Scene:
    """A scene whose companion has a kind and a look."""
    assert scene.companion is not None
    companion = replace(scene.companion, kind=kind, look=look, rgb=COMPANION_LOOKS[kind][look])
    return replace(scene, companion=companion)


def _looking_like(scene: Scene, other: Companion | None) -> Scene:
    assert other is not None
    return _looks(scene, other.kind, other.look)


def _meets(mask: Tensor, scene: Scene) -> bool:
    rows = companion_rows(scene, RULER_SIZE)
    return rows is not None and abs(top_row(mask) - rows[0]) <= RULER_MISS


def companion_right(chunk: CompanionChunk, how: How, pictures: Tensor) -> dict[str, Tensor]:
    """(P,) each, of (P, 3, R, R) pictures: whether a companion is found, and whether it is the one that is asked. NaN where the
    ruler does not find a true one."""
    (masks,), (true,) = chunk.masks([pictures], how), chunk.true_masks(how)
    values = {
        "found": torch.tensor([mask is not None for mask in masks]).double(),
        "companion": looks_as_asked(chunk, how, pictures, masks),
    }
    readable = torch.tensor([mask is not None for mask in true])
    return {name: torch.where(readable, value.double(), torch.nan) for name, value in values.items()}


def looks_as_asked(chunk: CompanionChunk, how: How, image: Tensor, masks: list[Tensor | None]) -> Tensor:
    """(P,) of (P, 3, R, R) pictures: 1 where the nearest of the nine portraits is that of the companion asked."""
    looks = [(kind, look) for kind, of_kind in COMPANION_LOOKS.items() for look in of_kind]
    shown = chunk.others if how.picture is not Picture.OWN else chunk.scenes
    wanted = [looks.index((one.companion.kind, one.companion.look)) for one in shown if one.companion is not None]
    read = [nearest(*parts) for parts in zip(image, masks, chunk.portraits, strict=True)]
    return torch.tensor([float(one == other) for one, other in zip(read, wanted, strict=True)])
