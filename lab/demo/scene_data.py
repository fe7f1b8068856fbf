"""Many scenes rendered once and kept in a folder, for training that visits them often.

Each serves twice: as it is, and as its mirror image, in which the light comes from the other side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .drawn_once import Plane, drawing_of, drawn_once
from .studio.render import render
from .studio.scene import HELD_OUT_SEEDS, Scene, sample_scene

TRAIN_SEED = HELD_OUT_SEEDS  # of the first scene; all seeds below are held out
PRODUCT, WALL, DEPTH = 3, 4, 5  # where they lie behind the picture's three channels


@dataclass(frozen=True)
class SceneData:
    """Scenes and what they look like; indexing the array reads from disk.

    Attributes:
        scenes: 2 N scenes: those rendered, then the same ones mirrored. Rows are places in this list.
        planes: (N, H, W, 6) uint8 of those rendered: RGB; product, wall and depth, 255 = 1.
    """

    scenes: list[Scene]
    planes: Plane

    @property
    def identity(self) -> str:
        """Equal for equal scenes that are drawn alike."""
        rendered = self.scenes[: len(self.planes)]
        return f"{len(rendered)}_{drawing_of(rendered, self.size, draw_scenes)}"

    @property
    def size(self) -> int:
        """Side of the pictures."""
        return self.planes.shape[1]

    def images(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, 3, H, W) float32, 0..1."""
        return self._read(rows, slice(0, 3)).permute(0, 3, 1, 2).contiguous()

    def products(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, H, W) float32, 1 = product."""
        return self._read(rows, PRODUCT)

    def walls(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, H, W) float32, 1 = wall."""
        return self._read(rows, WALL)

    def depths(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, 3, H, W) float32, 1 = near: a depth image as a ControlNet reads it."""
        return self._read(rows, DEPTH).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()

    def _read(self, rows: Sequence[int] | Tensor, channels: int | slice) -> Tensor:
        """(B, H, W, ...) float32 of the rows; those of the list's second half mirrored."""
        places = np.asarray(rows)
        values = self.planes[places % len(self.planes)][..., channels]
        mirrored = places >= len(self.planes)
        values[mirrored] = values[mirrored][:, :, ::-1]
        return torch.from_numpy(values).float().div(255)


def scene_data(folder: Path, count: int, size: int, until: float = math.inf) -> SceneData:
    """The first `count` training scenes and their mirror images, rendered into `folder` unless they are there already; see
    `drawn_once`."""
    scenes = [sample_scene(TRAIN_SEED + index) for index in range(count)]
    planes = drawn_once(folder, "scenes", scenes, size, draw_scenes, until)
    return SceneData([*scenes, *(scene.mirrored() for scene in scenes)], planes)


def draw_scenes(scenes: Sequence[Scene], size: int) -> Plane:
    """(B, H, W, 6) uint8, as SceneData has them."""
    drawn = render(scenes, size)
    planes = torch.cat([drawn.image, torch.stack([drawn.product, drawn.wall, drawn.depth], -1)], -1)
    made: Plane = (planes * 255).round().to(torch.uint8).cpu().numpy()
    return made
