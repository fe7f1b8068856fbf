"""Draws the pictures of docs/ablations.md from the results of `lab.demo.evaluation.ablations`; `tools.write_ablations` calls it.

The first test pairs, as they come: `ablations.jpg` shows what text and reference make of each other, `ablations_ad.jpg` four
ads with and without PFV, with and without the depth mask.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lab.demo.evaluation.pairs import Scene, Split, render, sample_pair
from pfv_demo.sizes import IMAGE_SIZE

PAIRS, ADS = 5, 4
TILE = {"ablations.jpg": 128, "ablations_ad.jpg": 256}
MARGIN, LINE, FONT = 8, 16, 13
INK, PAPER = (40, 40, 40), (255, 255, 255)
RESAMPLER, MAIN = "resampler_c16", "eq3_c16"
ALONE = {
    "resampler alone, no PFV": f"image_visible/{RESAMPLER}_seed*",
    "resampler alone, PFV": f"image_dropped/{RESAMPLER}_seed*",
    "Eq. 3 alone, no PFV": f"image_visible/{MAIN}_seed*",
    "Eq. 3 alone, PFV": f"image_dropped/{MAIN}_seed*",
}

Images = NDArray[np.uint8]
"""(N, H, W, 3)."""


def draw(run: Path, results: Mapping[str, Any], docs: Path) -> list[str]:
    """Write the pictures of the tables all of whose rows the run has pictures of, and return their names; what was made by a
    run whose readings alone are here was drawn by that one."""
    pairs = [sample_pair(seed, Split.TEST) for seed in range(max(PAIRS, ADS))]
    reference = drawn([second for _, second in pairs])
    written = []
    if joined := _made(run, results, "mepa"):
        columns = {
            "what the text names": drawn([first for first, _ in pairs]),
            "reference": reference,
            **stored(run, ALONE),
            **joined,
        }
        sheet(columns, PAIRS, TILE["ablations.jpg"]).save(docs / "ablations.jpg", quality=92)
        written.append("ablations.jpg")
    if ads := _made(run, results, "ad"):
        columns = {
            "the true ad": drawn([second.with_product_of(first) for first, second in pairs]),
            "reference": reference,
            **ads,
        }
        sheet(columns, ADS, TILE["ablations_ad.jpg"]).save(docs / "ablations_ad.jpg", quality=92)
        written.append("ablations_ad.jpg")
    return written


def _made(run: Path, results: Mapping[str, Any], name: str) -> dict[str, Images]:
    """By label what was made for a table's rows; nothing where the run lacks pictures of one of them."""
    rows = [row for row in results["experiments"].get(name, {"rows": []})["rows"] if row["family"]]
    found = stored(run, {row["label"]: _place(row) for row in rows})
    return found if len(found) == len(rows) else {}


def drawn(scenes: Sequence[Scene]) -> Images:
    """As they are."""
    pixels: Images = (render(scenes, IMAGE_SIZE).image * 255).round().byte().numpy()
    return pixels


def stored(run: Path, columns: Mapping[str, str]) -> dict[str, Images]:
    """By title, the first pictures of what was made: the first of the folders below `chunks` that a pattern names; those that
    the run has."""
    file = f"{Split.TEST.value}_00000.npz"
    files = {title: sorted((run / "chunks").glob(f"{pattern}/{file}")) for title, pattern in columns.items()}
    return {title: np.load(found[0])["image"] for title, found in files.items() if found}


def _place(row: Mapping[str, Any]) -> str:
    """A row's pictures with its family's adapters."""
    return f"{row['condition']}/{row['family']}_seed*"


def sheet(columns: Mapping[str, Images], rows: int, tile: int) -> Image.Image:
    """Titled columns; a pair in each row, fewer where fewer were made."""
    font = ImageFont.load_default(FONT)
    titles = {title: textwrap.wrap(title, tile // 7) for title in columns}
    top = LINE * max(len(lines) for lines in titles.values()) + MARGIN
    page = Image.new("RGB", (MARGIN + len(columns) * (tile + MARGIN), top + rows * (tile + MARGIN)), PAPER)
    pen = ImageDraw.Draw(page)
    for column, (title, images) in enumerate(columns.items()):
        left = MARGIN + column * (tile + MARGIN)
        pen.multiline_text((left, 2), "\n".join(titles[title]), INK, font, spacing=1)
        for row, image in enumerate(images[:rows]):
            picture = Image.fromarray(image).resize((tile, tile), Image.Resampling.LANCZOS)
            page.paste(picture, (left, top + row * (tile + MARGIN)))
    return page
