"""Draws docs/ablations.jpg from the results of `lab.demo.evaluation.ablations`: `python -m tools.draw_ablations FOLDER`.

The first held-out pairs, as they come.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lab.demo.scenes import Scene, render, sample_pair

ROOT = Path(__file__).resolve().parent.parent
PAIRS = 5
TILE = 128
MARGIN, TITLE = 8, 34
INK, PAPER = (40, 40, 40), (255, 255, 255)
ADAPTER, RESAMPLER = "eq3_c16_seed0", "resampler_c16_seed0"  # how their results' folders begin
COLUMNS = {
    "resampler alone,\nno PFV": (RESAMPLER, "image_visible"),
    "resampler alone,\nPFV": (RESAMPLER, "image_dropped"),
    "Eq. 3 alone,\nno PFV": (ADAPTER, "image_visible"),
    "Eq. 3 alone,\nPFV": (ADAPTER, "image_dropped"),
    "text + image,\nwhole frame": (ADAPTER, "conflict_global_1"),
    "text + image,\nEq. 6 as printed": (ADAPTER, "conflict_query_0"),
    "text + image,\noutput gate": (ADAPTER, "conflict_output_0"),
}


def main(results: Path) -> None:
    """Compose one row for each pair."""
    pairs = [sample_pair(seed) for seed in range(PAIRS)]
    columns = {
        "what the\ntext names": drawn([first for first, _ in pairs]),
        "reference": drawn([second for _, second in pairs]),
        **{title: generated(results, *source) for title, source in COLUMNS.items()},
    }
    width = MARGIN + len(columns) * (TILE + MARGIN)
    height = TITLE + PAIRS * (TILE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (title, images) in enumerate(columns.items()):
        left = MARGIN + column * (TILE + MARGIN)
        draw.multiline_text((left, 2), title, INK, font, spacing=1)
        for row, image in enumerate(images):
            sheet.paste(Image.fromarray(image), (left, TITLE + MARGIN + row * (TILE + MARGIN)))
    sheet.save(ROOT / "docs" / "ablations.jpg", quality=92)


def drawn(scenes: list[Scene]) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8."""
    pixels: NDArray[np.uint8] = (render(scenes, TILE).image * 255).round().byte().numpy()
    return pixels


def generated(results: Path, adapter: str, condition: str) -> NDArray[np.uint8]:
    """(N, H, W, 3) uint8 of the first pairs."""
    folder = next((results / "chunks" / condition).glob(f"{adapter}*"), None)
    if folder is None:
        sys.exit(
            f"{results} has no results of {adapter} for {condition}: run python -m lab.demo.evaluation.ablations first"
        )
    images: NDArray[np.uint8] = np.load(folder / "00000.npz")["image"][:PAIRS]
    return images


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
