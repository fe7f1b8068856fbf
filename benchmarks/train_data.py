"""What training data cost, on one thread: `python -m benchmarks.train_data`, from the repository root.

index: a made data set of a million samples in shards of 10,000 (one shard under a hundred names, 30 MB of disk): making the
index, opening it again, what a worker process is sent of it, and what it keeps in memory of its own.
regions: what of the regions and references of a batch of 8 is left for the training process, and what it took there before.
jpegs: reading a photo of 12 megapixels at 512 px, decoded small and decoded whole, and how far the two are apart.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab.train.data import Order, seeded
from lab.train.image_files import Square, open_dataset
from lab.train.masks import random_mask
from lab.train.pictures import picture
from lab.train.visibility import on_latents
from pfv_core.attention.query_mask import layer_grid, query_mask
from pfv_core.reference.fit import Fit, fit_geometry
from pfv_core.reference.patch_embed import masked_pixel_values
from pfv_core.reference.patch_mask import rebinarize

Found = TypeVar("Found")

PER_SHARD = 10_000
BATCH, SIDE = 8, 512
LEVELS = (1, 2)  # of SDXL's cross-attentions
LONG_AGO = 1_000_000_000  # seconds since 1970: a data set that nobody is writing


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=["index", "regions", "jpegs"], help="(%(default)s)")
    parser.add_argument("--samples", type=int, default=1_000_000, help="of the made data set (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for what in given.what:
        print(f"{what}:")
        if what == "index":
            with tempfile.TemporaryDirectory(prefix="train-data-") as folder:
                index(Path(folder), given.samples)
        else:
            {"regions": regions, "jpegs": jpegs}[what]()


def index(folder: Path, samples: int) -> None:
    """Make, open, send, keep."""
    shard = folder / "shard-00000.tar"
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(PER_SHARD):
            for suffix in ("jpg", "mask.png", "txt"):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = 100
                archive.addfile(member, io.BytesIO(bytes(100)))
    os.utime(shard, (LONG_AGO, LONG_AGO))
    for number in range(1, samples // PER_SHARD):
        os.link(shard, folder / f"shard-{number:05d}.tar")
    dataset = told(f"index of {samples} samples made", lambda: open_dataset(folder, SIDE))
    size = dataset.index.file.stat().st_size
    print(f"  the file has {size} bytes, {size / samples:.2f} a sample")
    carried = pickle.dumps(dataset)
    before = own_memory()
    dataset = told("opened again", lambda: open_dataset(folder, SIDE))
    told(
        "every sample's place looked up", lambda: sum(dataset.index.bounds(number)[0] for number in range(len(dataset)))
    )
    print(f"  memory of the process's own: {(own_memory() - before) / samples:.2f} bytes a sample")
    print(f"  a worker is sent {len(carried)} bytes")
    order = Order(samples, 0)
    told("an epoch's shuffle", lambda: order.index(0))


def regions() -> None:
    """On the training process, before and now."""
    keep_mask = torch.stack([~random_mask("blob", SIDE, SIDE, seeded(0, number, "mask")) for number in range(BATCH)])
    region, latent = keep_mask.float(), (SIDE // 8, SIDE // 8)
    grids = [layer_grid(SIDE, SIDE, level) for level in LEVELS]

    def on_layers(region: Tensor) -> list[Tensor]:
        return [query_mask(region, grid, latent) for grid in grids]

    small = told("worker: regions on the latent's grid", lambda: on_latents(region), 20)
    told("training process: regions of pixels on the layers, as before", lambda: on_layers(region), 20)
    told("training process: regions of latents on the layers", lambda: on_layers(small), 20)
    image = torch.rand(BATCH, 3, SIDE, SIDE, generator=seeded(0, 0, "image"))
    geometry = fit_geometry(SIDE, SIDE, 224, 14, Fit.CROP)

    def pixels() -> Tensor:
        return masked_pixel_values(image, rebinarize(keep_mask, geometry), (0.5,) * 3, (0.25,) * 3)

    told("worker: references as the encoder takes them (before: training process)", pixels, 5)
    for kind in ("strokes", "blob", "ellipse", "rectangle"):
        told(f"worker: {BATCH} {kind} masks", lambda kind=kind: masks(kind), 3)


def masks(kind: str) -> list[Tensor]:
    """A batch of one kind."""
    return [random_mask(kind, SIDE, SIDE, seeded(0, number, "mask")) for number in range(BATCH)]


def jpegs() -> None:
    """A photo-like picture: smooth shapes, and some noise."""
    noise = np.random.default_rng(0)
    coarse = Image.fromarray(noise.integers(0, 256, (30, 40, 3), np.uint8)).resize(
        (4000, 3000), Image.Resampling.BICUBIC
    )
    values = np.asarray(coarse).astype(int) + noise.integers(-8, 9, (3000, 4000, 3))
    file = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=92)
    square = Square.of((4000, 3000), SIDE)

    def read(at_least: int) -> Image.Image:
        return square.cut(picture(file.getvalue(), "photo", at_least).image, Image.Resampling.LANCZOS)

    small = told("decoded at the smallest scale that has 512 px", lambda: read(SIDE), 5)
    whole = told("decoded whole", lambda: read(3000), 5)
    difference = np.asarray(small).astype(float) - np.asarray(whole)
    print(
        f"  apart: {10 * np.log10(255**2 / (difference**2).mean()):.1f} dB, at most {np.abs(difference).max():.0f} of 255"
    )


def told(what: str, do: Callable[[], Found], times: int = 1) -> Found:
    """Do it, and print how long one time took."""
    started = time.perf_counter()
    for _ in range(times):
        found = do()
    taken = (time.perf_counter() - started) / times
    print(f"  {what}: {taken:.2f} s" if taken > 1 else f"  {what}: {taken * 1000:.2f} ms", flush=True)
    return found


def own_memory() -> int:
    """Bytes of this process alone: pages of mapped files are everybody's."""
    text = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8")
    return 1024 * sum(int(size) for size in re.findall(r"^Anonymous:\s+(\d+)", text, re.MULTILINE))


if __name__ == "__main__":
    main()
