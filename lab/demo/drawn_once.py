"""What is drawn of many scenes once and kept in a folder as uint8 arrays; killed and started again it goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from ..files import save_text
from .studio.scene import Scene

Plane = NDArray[np.uint8]
Draw = Callable[[Sequence[Scene], Sequence[int]], Plane]
"""Scenes and their numbers -> (B, ...)."""

CHUNK = 64  # scenes
DONE = "done.txt"  # how many scenes are drawn


def drawn_once(folder: Path, name: str, scenes: Sequence[Scene], numbers: Sequence[int], draw: Draw) -> Plane:
    """An array with a row for each scene, read from disk where it is indexed; what was drawn before is not drawn again.

    Args:
        folder: of whatever is drawn.
        name: of this.
        scenes: to draw.
        numbers: of each; with the scene they say all that is drawn of it.
        draw: a function that other processes can import.
    """
    ends = draw([scenes[0], scenes[-1]], [numbers[0], numbers[-1]])  # another drawing of the same scenes is other data
    identity = sha256(ends.tobytes() + repr(list(numbers)).encode()).hexdigest()[:12]
    place = folder / f"{name}_{len(scenes)}_{identity}"
    file, done = place / f"{name}.npy", _done(place)
    if done < len(scenes):
        place.mkdir(parents=True, exist_ok=True)
        shape = (len(scenes), *ends.shape[1:])
        plane: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(
            file, "r+" if done else "w+", np.uint8, shape
        )
        _draw(place, plane, scenes, numbers, draw, done)
    kept: Plane = np.load(file, mmap_mode="r")
    return kept


def picture(plane: Plane, place: int) -> torch.Tensor:
    """(3, H, W) float32, 0..1, at a place of (N, H, W, 3); from N on their mirror images, as `scene_data.SceneData` has them."""
    kept = np.array(plane[place % len(plane)])  # a copy: what is on the disk cannot be written
    shown = torch.from_numpy(kept).float().div(255).permute(2, 0, 1)
    return (shown if place < len(plane) else shown.flip(2)).contiguous()


def _draw(
    place: Path,
    plane: np.memmap[Any, np.dtype[np.uint8]],
    scenes: Sequence[Scene],
    numbers: Sequence[int],
    draw: Draw,
    done: int,
) -> None:
    starts = range(done, len(scenes), CHUNK)
    chunks = [(scenes[start : start + CHUNK], numbers[start : start + CHUNK]) for start in starts]
    with _pool(len(chunks)) as pool:
        drawn = map(draw, *zip(*chunks, strict=True)) if pool is None else pool.map(draw, *zip(*chunks, strict=True))
        for start, values in zip(starts, tqdm(drawn, place.name, len(chunks), mininterval=10), strict=True):
            plane[start : start + len(values)] = values
            plane.flush()
            save_text(place / DONE, str(start + len(values)))


def _pool(chunks: int) -> Executor | nullcontext[None]:
    """As many processes as there are cores; none where there is not enough to share."""
    if chunks <= 1:
        return nullcontext()
    return ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,))


def _done(place: Path) -> int:
    return int((place / DONE).read_text(encoding="utf-8")) if (place / DONE).is_file() else 0
