"""What is drawn of many scenes once and kept in a folder as uint8 arrays; killed and started again it goes on."""

from __future__ import annotations

import inspect
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from itertools import repeat
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
Draw = Callable[[Sequence[Scene], int], Plane]
"""Scenes and the side of a picture -> (B, ...)."""


class OutOfTimeError(RuntimeError):
    """The time was up before all was drawn; what is drawn is kept."""


CHUNK = 64  # scenes
DONE = "done.txt"  # how many scenes are drawn


def source_of(folder: Path) -> str:
    """Of the modules in a folder; the same however a checkout ends its lines."""
    return "".join(file.read_text(encoding="utf-8") for file in sorted(folder.glob("*.py")))


STUDIO = source_of(Path(__file__).parent / "studio")  # as it was imported, whatever is edited meanwhile


def drawing_of(scenes: Sequence[Scene], size: int, draw: Draw) -> str:
    """12 hexadecimal digits, equal for equal scenes that are drawn alike: by the studio's source and the function's own.

    The pictures themselves do not say it: on another processor they differ in their last bits, and are the same data.
    """
    drawing = f"{list(scenes)} {size} {STUDIO} {inspect.getsource(draw)}"
    return sha256(drawing.encode()).hexdigest()[:12]


def drawn_once(
    folder: Path, name: str, scenes: Sequence[Scene], size: int, draw: Draw, until: float = math.inf
) -> Plane:
    """An array with a row for each scene, read from disk where it is indexed; what was drawn before is not drawn again.

    Args:
        folder: of whatever is drawn.
        name: of this.
        scenes: to draw.
        size: side of the pictures.
        draw: a function that other processes can import; what it draws of a scene is the scene's and the size's alone. It draws
            on the device that new tensors are on: a GPU where there is one.
        until: moment of `time.monotonic` after which no chunk is begun; those under way are waited for.

    Raises:
        OutOfTimeError: it came before all was drawn.
    """
    place = folder / f"{name}_{len(scenes)}_{drawing_of(scenes, size, draw)}"
    file, done = place / f"{name}.npy", _done(place)
    if done < len(scenes):
        place.mkdir(parents=True, exist_ok=True)
        draw = partial(drawn_on, "cuda" if torch.cuda.is_available() else "cpu", draw)
        shape = (len(scenes), *draw(scenes[:1], size).shape[1:])
        plane: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(
            file, "r+" if done else "w+", np.uint8, shape
        )
        _draw(place, plane, scenes, size, draw, done, until)
    kept: Plane = np.load(file, mmap_mode="r")
    return kept


def drawn_on(device: str, draw: Draw, scenes: Sequence[Scene], size: int) -> Plane:
    """What `draw` draws, its tensors on a device."""
    with nullcontext() if device == "cpu" else torch.device(device):
        return draw(scenes, size)


def picture(plane: Plane, place: int) -> torch.Tensor:
    """(3, H, W) float32, 0..1, at a place of (N, H, W, 3); from N on their mirror images, as `scene_data.SceneData` has them."""
    kept = np.array(plane[place % len(plane)])  # a copy: what is on the disk cannot be written
    shown = torch.from_numpy(kept).float().div(255).permute(2, 0, 1)
    return (shown if place < len(plane) else shown.flip(2)).contiguous()


def _draw(
    place: Path,
    plane: np.memmap[Any, np.dtype[np.uint8]],
    scenes: Sequence[Scene],
    size: int,
    draw: Draw,
    done: int,
    until: float,
) -> None:
    starts = range(done, len(scenes), CHUNK)
    chunks = [scenes[start : start + CHUNK] for start in starts]
    with _pool(len(chunks)) as pool:
        drawn = (map if pool is None else pool.map)(draw, chunks, repeat(size))
        for start, values in zip(starts, tqdm(drawn, place.name, len(chunks), mininterval=10), strict=True):
            plane[start : start + len(values)] = values
            plane.flush()
            done = start + len(values)
            save_text(place / DONE, str(done))
            if time.monotonic() >= until and done < len(scenes):
                if pool is not None:
                    pool.shutdown(cancel_futures=True)
                raise OutOfTimeError(
                    f"the time is up, {done} of {len(scenes)} are drawn in {place}: the same command goes on there"
                )


def _pool(chunks: int) -> Executor | nullcontext[None]:
    """As many processes as there are cores; none where there is not enough to share."""
    if chunks <= 1:
        return nullcontext()
    return ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,))


def _done(place: Path) -> int:
    return int((place / DONE).read_text(encoding="utf-8")) if (place / DONE).is_file() else 0
