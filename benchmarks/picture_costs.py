"""What decoding, encoding and checking cost as pictures grow: `python -m benchmarks.picture_costs [--sides 1024,2048,4096]`.

Without ComfyUI, on square noisy photos, the product a disk of 0.4 of the side; each side in a process of its own. Time, memory
and the table are those of `benchmarks.node_costs`.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

from headless.catalogue.job.pictures import PictureIndex, read_picture
from headless.catalogue.sources.source import LocalFile
from headless.pictures.door import encode_png, open_picture
from pfv_core.ad.file_exactness import measure_file

from .node_costs import SIDES, WARM_UP_SIDE, Case, cost_of, in_a_process, table

EROSIONS = (2, 32, 128)


def main() -> None:
    """Measure every side and print; or, as a child, measure one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=lambda text: tuple(map(int, text.split(","))), default=SIDES)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)  # the side of a child
    options = parser.parse_args()
    if options.only is None:
        print(table({side: in_a_process(side, "benchmarks.picture_costs") for side in options.sides}))
        return
    with tempfile.TemporaryDirectory(prefix="picture-costs-") as folder:
        for case in cases(WARM_UP_SIDE, Path(folder)).values():
            case()
        costs = {name: cost_of(case) for name, case in cases(options.only, Path(folder)).items()}
    print(json.dumps({name: asdict(cost) for name, cost in costs.items()}))


def cases(side: int, folder: Path) -> dict[str, Case]:
    """Name -> a run at this side; files are written into the folder."""
    place = np.arange(side)
    disk = ((place[:, None] - side / 2) ** 2 + (place - side / 2) ** 2 < (0.4 * side) ** 2) * np.uint8(255)
    colours = _photo(side)
    files = {
        "PNG": _saved(colours, "PNG", compress_level=1),
        "PNG of 16 bits": _sixteen_bits(colours),
        "JPEG": _saved(colours, "JPEG", quality=90),
        "lossless WebP": _saved(colours, "WEBP", lossless=True, method=0),
    }
    for name, content in (("photo.png", files["PNG"]), ("mask.png", _saved(disk, "PNG"))):
        (folder / name).write_bytes(content)
    photo, mask = (LocalFile(folder / name, name) for name in ("photo.png", "mask.png"))
    known = PictureIndex(None)
    picture = read_picture(photo, mask, "opaque", known)
    ad = np.where(disk[..., None] > 0, colours, colours[::-1])
    return {
        **{f"decode a {name}": lambda content=content: open_picture(content, "x") for name, content in files.items()},
        "encode a PNG with alpha": lambda: encode_png(np.dstack([colours, disk])),
        "read a photo and its mask": lambda: read_picture(photo, mask, "opaque", PictureIndex(None)),
        "..., again": lambda: read_picture(photo, mask, "opaque", known).pixels(),
        "..., to be uploaded": picture.content,
        **{
            f"check an ad, erode {erode}": lambda erode=erode: measure_file(ad, colours, disk, erode)
            for erode in EROSIONS
        },
    }


def _photo(side: int) -> np.ndarray:
    """A smooth picture with a camera's noise."""
    place = np.linspace(0, 6, side)
    smooth = 128 + 90 * np.stack([np.sin(place[:, None] + place * (1 + k)) for k in range(3)], -1)
    noise = np.random.default_rng(0).normal(0, 2, smooth.shape)
    return (smooth + noise).clip(0, 255).astype(np.uint8)


def _saved(values: np.ndarray, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def _sixteen_bits(values: np.ndarray) -> bytes:
    import cv2

    content = cv2.imencode(".png", values[..., ::-1].astype(np.uint16) * 257, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    return bytes(content)


if __name__ == "__main__":
    main()
