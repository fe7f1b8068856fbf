"""Draws the pictures of docs/ablations.md from the results of `lab.demo.evaluation.ablations`; `tools.write_ablations` calls it.

The first test pairs, as they come: `ablations.jpg` shows what text and reference make of each other, `ablations_ad.jpg` four
ads with and without PFV, with and without the depth mask.
"""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lab.demo.evaluation.pairs import Scene, Split, render, sample_pair
from pfv_demo.sizes import IMAGE_SIZE

from .files import save_atomically

PAIRS, ADS = 5, 4
TILE = {"ablations.jpg": 128, "ablations_ad.jpg": 256}
MARGIN, LINE, FONT = 8, 16, 13
INK, PAPER = (40, 40, 40), (255, 255, 255)
RESAMPLER, MAIN = "resampler_c16", "eq3_c16"
ALONE = {
    "resampler alone, no PFV": ("image_visible", RESAMPLER),
    "resampler alone, PFV": ("image_dropped", RESAMPLER),
    "Eq. 3 alone, no PFV": ("image_visible", MAIN),
    "Eq. 3 alone, PFV": ("image_dropped", MAIN),
}
FIRST = f"{Split.TEST.value}_00000.npz"

Images = NDArray[np.uint8]
"""(N, H, W, 3)."""


def draw(run: Path, results: Mapping[str, Any], docs: Path) -> list[str]:
    """Write the pictures of the tables that the run has whole, of one training, and return their names; what another run made,
    whose readings alone are here, was drawn by that one."""
    pairs = [sample_pair(seed, Split.TEST) for seed in range(max(PAIRS, ADS))]
    reference = drawn([second for _, second in pairs])
    written = []
    if joined := _made(run, results, "mepa", ALONE):
        columns = {"what the text names": drawn([first for first, _ in pairs]), "reference": reference, **joined}
        save_sheet(docs / "ablations.jpg", columns, PAIRS, TILE["ablations.jpg"])
        written.append("ablations.jpg")
    if ads := _made(run, results, "ad"):
        true = drawn([second.with_product_of(first) for first, second in pairs])
        columns = {"the true ad": true, "reference": reference, **ads}
        save_sheet(docs / "ablations_ad.jpg", columns, ADS, TILE["ablations_ad.jpg"])
        written.append("ablations_ad.jpg")
    return written


def _made(
    run: Path, results: Mapping[str, Any], name: str, more: Mapping[str, tuple[str, str]] = MappingProxyType({})
) -> dict[str, Images]:
    """By title what the first training with all of them made for a table's rows and for other conditions; else nothing."""
    table = results["experiments"].get(name, {"rows": [], "missing": []})
    rows = [row for row in table["rows"] if row["family"]]
    wanted = {**more, **{row["label"]: (row["condition"], row["family"]) for row in rows}}
    if not rows or table["missing"]:
        return {}
    for seed in results["settings"]["seeds"]:
        places = {title: f"{condition}/{family}_seed{seed}-*/{FIRST}" for title, (condition, family) in wanted.items()}
        found = {title: _of(run, place, results["settings"]["adapters"]) for title, place in places.items()}
        images = {title: np.load(file)["image"] for title, file in found.items() if file is not None}
        if len(images) == len(wanted):
            return images
    return {}


def _of(run: Path, pattern: str, adapters: Collection[str]) -> Path | None:
    """The file that fits a pattern below `chunks`, of a training whose readings count."""
    files = [file for file in (run / "chunks").glob(pattern) if file.parent.name in adapters]
    return files[0] if files else None


def drawn(scenes: Sequence[Scene]) -> Images:
    """As they are."""
    pixels: Images = (render(scenes, IMAGE_SIZE).image * 255).round().byte().numpy()
    return pixels


def stored(run: Path, columns: Mapping[str, str]) -> dict[str, Images]:
    """By title, the first pictures of what was made: the first of the folders below `chunks` that a pattern names; those that
    the run has."""
    files = {title: sorted((run / "chunks").glob(f"{pattern}/{FIRST}")) for title, pattern in columns.items()}
    return {title: np.load(found[0])["image"] for title, found in files.items() if found}


def save_sheet(file: Path, columns: Mapping[str, Images], rows: int, tile: int) -> None:
    """Draw and write it."""
    save_atomically(file, partial(sheet(columns, rows, tile).save, quality=92))


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
