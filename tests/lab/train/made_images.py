"""Folders of images with captions and masks, and the same as webdataset shards."""

from __future__ import annotations

import json
import tarfile

import numpy as np
from PIL import Image


def write_images(folder, count=5, masks=True):
    """Images of several sizes and formats; the captions of odd ones are JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        name = f"image{number}"
        values = np.random.default_rng(number).integers(0, 256, (20 + 4 * number, 40 - number, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{name}{'.png' if number % 2 else '.jpg'}")
        if number % 2:
            (folder / f"{name}.json").write_text(json.dumps({"caption": f"caption {number}"}))
        else:
            (folder / f"{name}.txt").write_text(f" caption {number}\n")
        if masks:
            mask = np.zeros(values.shape[:2], np.uint8)
            mask[: 10 + number] = 255
            Image.fromarray(mask).save(folder / f"{name}.mask.png")
    return folder


def write_shards(folder, target, per_shard=2):
    """The folder's files as webdataset shards."""
    target.mkdir()
    stems = sorted({file.name.split(".")[0] for file in folder.iterdir()})
    for number in range(0, len(stems), per_shard):
        with tarfile.open(target / f"train-{number:04d}.tar", "w") as archive:
            for stem in stems[number : number + per_shard]:
                for file in sorted(folder.glob(f"{stem}.*")):
                    archive.add(file, file.name)
    return target
