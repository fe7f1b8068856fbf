"""Writes the masks of packshots, without a model: `python -m lab.train.cut_out FOLDER`. For every picture without name.mask.png,
what stands out from the ground that its border shows (see `pfv_core.found.product`), or what its transparency leaves. Where
that is not sure nothing is written, and a line says why: these are for a model, or for a hand. Takes scipy.

With `--products` it also writes name.product.png, the product alone on grey, for every picture that has a mask, whoever made it:
an ad becomes a triplet for RefAdGen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pfv_core.found.product import find_product
from pfv_core.found.unsure import NothingFoundError, UnsureError

from ..files import save_atomically
from .data import DataError
from .parts import MASK, PRODUCT, beside, is_image
from .pictures import mask, opacity, picture

WHOLE = 1 << 16  # pixels: no picture is decoded smaller
GROUND = (128, 128, 128)  # of a product alone: mid-grey, which the nodes' help pages ask for too


class NotWholeError(ValueError):
    """What was found may be a part of the product, or more than it; the message says why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and cut out."""
    parser = argparse.ArgumentParser("python -m lab.train.cut_out", description=__doc__)
    parser.add_argument("folder", type=Path, help="of pictures, and the folders in it")
    parser.add_argument("--products", action="store_true", help="also write each product alone, from its mask")
    given = parser.parse_args(arguments)
    pictures = sorted(file for file in given.folder.rglob("*") if is_image(file.name))
    written = _write(MASK, [file for file in pictures if not _beside(file, MASK).exists()], product_mask)
    print(f"{written[0]} masks written, {written[1]} left")
    if given.products:
        masked = [file for file in pictures if _beside(file, MASK).exists() and not _beside(file, PRODUCT).exists()]
        written = _write(PRODUCT, masked, product_alone)
        print(f"{written[0]} products written, {written[1]} left")


def _write(kind: str, files: Sequence[Path], make: Callable[[Path], Image.Image]) -> tuple[int, int]:
    """Write what can be made beside pictures, say why the rest is left, and count both."""
    left = 0
    for file in files:
        try:
            made = make(file)
        except (DataError, NotWholeError, NothingFoundError, UnsureError) as error:
            print(f"left: {file}: {error}", flush=True)
            left += 1
            continue
        save_atomically(_beside(file, kind), partial(made.save, format="PNG"))
    return len(files) - left, left


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


def product_alone(file: Path) -> Image.Image:
    """RGB, of the picture's upright size: what its mask selects, soft edges kept, on grey.

    Raises:
        DataError: picture or mask cannot be read, they differ in size, or the mask selects nothing.
    """
    image = picture(file.read_bytes(), str(file), WHOLE).image
    where = _beside(file, MASK)
    selected = mask(where.read_bytes(), str(where))
    if selected.size != image.size:
        raise DataError(
            f"the mask of {file} is {selected.height}x{selected.width}, the image is {image.height}x{image.width}: give both "
            "the same size"
        )
    if selected.getbbox() is None:
        raise DataError(f"the mask of {file} selects nothing: white is the product")
    return Image.composite(image, Image.new("RGB", image.size, GROUND), selected)


def _beside(file: Path, kind: str) -> Path:
    return file.with_name(beside(file.name, kind))


if __name__ == "__main__":
    main()
