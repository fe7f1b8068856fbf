"""Writes the masks of packshots, without a model: `python -m lab.train.cut_out FOLDER`. For every picture without name.mask.png,
what stands out from the ground that its border shows (see `pfv_core.found.product`), or what its transparency leaves. Where
that is not sure nothing is written, and a line says why: these are for a model, or for a hand. Takes scipy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pfv_core.found.product import find_product
from pfv_core.found.unsure import NothingFoundError, UnsureError

from ..files import save_atomically
from .data import DataError
from .parts import MASK, beside, is_image
from .pictures import opacity, picture

WHOLE = 1 << 16  # pixels: no picture is decoded smaller


class NotWholeError(ValueError):
    """What was found may be a part of the product, or more than it; the message says why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and cut out."""
    parser = argparse.ArgumentParser("python -m lab.train.cut_out", description=__doc__)
    parser.add_argument("folder", type=Path, help="of pictures, and the folders in it")
    folder = parser.parse_args(arguments).folder
    written, left = 0, 0
    for file in sorted(file for file in folder.rglob("*") if is_image(file.name) and not _mask_of(file).exists()):
        try:
            mask = product_mask(file)
        except (DataError, NotWholeError, NothingFoundError, UnsureError) as error:
            print(f"left: {file}: {error}", flush=True)
            left += 1
            continue
        save_atomically(_mask_of(file), partial(mask.save, format="PNG"))
        written += 1
    print(f"{written} masks written, {left} left")


def product_mask(file: Path) -> Image.Image:
    """L, white = product, of the picture's upright size.

    Raises:
        DataError: the picture cannot be read.
        NotWholeError, NothingFoundError, UnsureError: where the product is, is not certain.
    """
    data = file.read_bytes()
    transparency = opacity(data, str(file))
    if transparency is not None:
        return transparency
    image = np.array(picture(data, str(file), WHOLE).image)
    found = find_product(torch.from_numpy(image).permute(2, 0, 1).float() / 255)  # HWC -> CHW
    if found.touches:
        raise NotWholeError(f"what was found touches the {' and '.join(found.touches)}: a part of it may be missing")
    if found.parts > 1:
        raise NotWholeError(f"{found.parts} separate things were found, expected one")
    return Image.fromarray((found.opacity * 255).round().to(torch.uint8).numpy())


def _mask_of(file: Path) -> Path:
    return file.with_name(beside(file.name, MASK))


if __name__ == "__main__":
    main()
