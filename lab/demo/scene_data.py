"""Many scenes rendered once and kept in a folder as uint8 arrays, for training that visits them often.

Each serves twice: as it is, and as its mirror image, in which the light comes from the other side.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from .studio.render import render
from .studio.scene import HELD_OUT_SEEDS, Scene, sample_scene

TRAIN_SEED = HELD_OUT_SEEDS  # of the first scene; all seeds below are held out
CHUNK = 64
PLANES = ("image", "product", "wall", "depth")


@dataclass(frozen=True)
class SceneData:
    """Scenes and what they look like; indexing the arrays reads from disk.

    Attributes:
        scenes: 2 N scenes: those rendered, then the same ones mirrored. Rows are places in this list.
        image: (N, H, W, 3) uint8, of those rendered.
        product, wall, depth: (N, H, W) uint8, 255 = 1.
    """

    scenes: list[Scene]
    image: NDArray[np.uint8]
    product: NDArray[np.uint8]
    wall: NDArray[np.uint8]
    depth: NDArray[np.uint8]

    def images(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, 3, H, W) float32, 0..1."""
        return torch.from_numpy(self._read(self.image, rows)).float().div(255).permute(0, 3, 1, 2).contiguous()

    def products(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, H, W) float32, 1 = product."""
        return self._plane(self.product, rows)

    def walls(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, H, W) float32, 1 = wall."""
        return self._plane(self.wall, rows)

    def depths(self, rows: Sequence[int] | Tensor) -> Tensor:
        """(B, 3, H, W) float32, 1 = near: a depth image as a ControlNet reads it."""
        return self._plane(self.depth, rows).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()

    def _plane(self, plane: NDArray[np.uint8], rows: Sequence[int] | Tensor) -> Tensor:
        return torch.from_numpy(self._read(plane, rows)).float().div(255)

    def _read(self, plane: NDArray[np.uint8], rows: Sequence[int] | Tensor) -> NDArray[np.uint8]:
        """(B, H, W, ...) of the rows; those of the list's second half mirrored."""
        places = np.asarray(rows)
        values: NDArray[np.uint8] = plane[places % len(plane)]
        mirrored = places >= len(plane)
        values[mirrored] = values[mirrored][:, :, ::-1]
        return values


def scene_data(folder: Path, count: int, size: int) -> SceneData:
    """The first `count` training scenes and their mirror images, rendered into `folder` unless they are there already."""
    scenes = [sample_scene(TRAIN_SEED + index) for index in range(count)]
    ends = _draw_chunk([scenes[0], scenes[-1]], size)  # another drawing of the same scenes is other data
    identity = sha256(b"".join(plane.tobytes() for plane in ends.values())).hexdigest()[:12]
    place = folder / f"scenes_{count}_{size}_{identity}"
    if not (place / "complete").exists():
        _draw(place, scenes, size)
    planes = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in PLANES}
    return SceneData([*scenes, *(scene.mirrored() for scene in scenes)], **planes)


def _draw(place: Path, scenes: list[Scene], size: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    shapes = {name: (len(scenes), size, size) for name in PLANES} | {"image": (len(scenes), size, size, 3)}
    planes = {
        name: np.lib.format.open_memmap(place / f"{name}.npy", mode="w+", dtype=np.uint8, shape=shape)
        for name, shape in shapes.items()
    }
    chunks = [scenes[start : start + CHUNK] for start in range(0, len(scenes), CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        results = pool.map(_draw_chunk, chunks, [size] * len(chunks))
        for number, drawn in enumerate(tqdm(results, "rendering scenes", len(chunks), mininterval=10)):
            for name, values in drawn.items():
                planes[name][number * CHUNK : number * CHUNK + len(values)] = values
    for plane in planes.values():
        plane.flush()
    (place / "complete").touch()


def _draw_chunk(scenes: list[Scene], size: int) -> dict[str, NDArray[np.uint8]]:
    drawn = render(scenes, size)
    return {name: _bytes(getattr(drawn, name)) for name in PLANES}


def _bytes(values: Tensor) -> NDArray[np.uint8]:
    array: NDArray[np.uint8] = (values * 255).round().to(torch.uint8).numpy()
    return array
