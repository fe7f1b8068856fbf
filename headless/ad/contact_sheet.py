"""One picture that shows how an ad was made: what went in, what was hidden, who rules where, and the ads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pfv_core.ad.depth import compose_depth
from pfv_core.reference.fit import FitGeometry, fit_geometry
from pfv_core.reference.patch_mask import rebinarize
from pfv_core.reference.preview import patch_grid_preview

from ..server.client import Prompt
from .pictures import Pictures, alpha, as_picture, rgb
from .plan import Plan
from .workflow import the_node

PANEL_HEIGHT = 320
COLUMNS = 4
MARGIN, CAPTION = 14, 28
FONT_SIZE = 16
INK, PAPER = (40, 40, 40), (255, 255, 255)
BACKGROUND_REGION, TABLE_REGION = (70, 120, 220), (70, 170, 90)
CHECK = 16  # pixels of the checks behind a cut-out, on the sheet


@dataclass(frozen=True)
class Grid:
    """The image encoder's input and patches, pixels."""

    image_size: int
    patch_size: int


VIT_H_GRID = Grid(224, 14)
DEMO_GRID = Grid(64, 8)


def contact_sheet(plan: Plan, workflow: Prompt, pictures: Pictures, ad: Path, ad_without_pfv: Path) -> Image.Image:
    """Put the pictures of a run side by side; hidden patches and depth are computed by what the nodes call.

    Args:
        plan: whose encoder's grid is drawn.
        workflow: the one that made the ad.
        pictures: what it loaded.
        ad, ad_without_pfv: what it saved, with the references' hidden patches and with nothing hidden.
    """
    files = {
        title: pictures[the_node(workflow, "LoadImage", title)["inputs"]["image"]]
        for title in (
            "Product photo",
            "Product depth",
            "Background reference",
            "Background reference depth",
            "Background region",
            "Table reference",
            "Table region",
        )
    }
    grid = VIT_H_GRID if plan.models else DEMO_GRID
    panels = [
        ("product photo, cut out", on_checks(files["Product photo"])),
        ("background reference", _opaque(files["Background reference"])),
        ("PFV: its hidden patches", hidden_patches(files["Background reference"], grid)),
        ("table reference: hidden patches", hidden_patches(files["Table reference"], grid)),
        ("who rules: wall, table, text (white)", regions(files)),
        ("depth for the ControlNet", depth(files, grid)),
        ("the ad, with PFV", _opaque(ad)),
        ("without PFV: nothing hidden", _opaque(ad_without_pfv)),
    ]
    return arrange(panels)


def arrange(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Captioned pictures in rows; small ones are enlarged smoothly."""
    width = max(round(PANEL_HEIGHT * picture.width / picture.height) for _, picture in panels)
    rows = -(-len(panels) // COLUMNS)
    cell = (width + MARGIN, PANEL_HEIGHT + CAPTION + MARGIN)
    sheet = Image.new("RGB", (COLUMNS * cell[0] + MARGIN, rows * cell[1] + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for index, (caption, picture) in enumerate(panels):
        left, top = MARGIN + index % COLUMNS * cell[0], MARGIN + index // COLUMNS * cell[1]
        size = (round(PANEL_HEIGHT * picture.width / picture.height), PANEL_HEIGHT)
        sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), (left, top))
        draw.text((left, top + PANEL_HEIGHT + 5), caption, INK, font)
    return sheet


def hidden_patches(file: Path, grid: Grid) -> Image.Image:
    """What PFV Mask Re-binarize shows of a reference, drawn at the sheet's size so that its lines stay thin."""
    geometry, hidden = _hidden(file, grid)
    image, factor = rgb(file), max(1, PANEL_HEIGHT // geometry.height)
    if factor > 1:
        size = (geometry.height * factor, geometry.width * factor)
        geometry = fit_geometry(*size, grid.image_size, grid.patch_size, "pad")
        image = image.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        hidden = hidden.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    return as_picture(patch_grid_preview(image, hidden, geometry))


def depth(files: dict[str, Path], grid: Grid) -> Image.Image:
    """What PFV Depth Compose gives."""
    _, hidden = _hidden(files["Background reference"], grid)
    product = alpha(files["Product photo"]) > 0.5
    near, far = (rgb(files[title]) for title in ("Product depth", "Background reference depth"))
    return as_picture(compose_depth(near, product, far, ~hidden))


def regions(files: dict[str, Path]) -> Image.Image:
    """Both references' regions in colour; what is left white is the text's."""
    with Image.open(files["Product photo"]) as product:
        sheet = Image.new("RGB", product.size, PAPER)
    for title, colour in (("Background region", BACKGROUND_REGION), ("Table region", TABLE_REGION)):
        sheet.paste(colour, (0, 0), as_picture((alpha(files[title]) < 0.5)[None].float()))
    return sheet


def on_checks(file: Path) -> Image.Image:
    """A cut-out over the usual grey checks."""
    with Image.open(file) as image:
        factor = max(1, PANEL_HEIGHT // image.height)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    rows, columns = np.indices((image.height, image.width)) // CHECK
    checks = Image.fromarray(np.where((rows + columns) % 2, 205, 240).astype(np.uint8)).convert("RGB")
    checks.paste(image, (0, 0), image.getchannel("A"))
    return checks


def _opaque(file: Path) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def _hidden(file: Path, grid: Grid) -> tuple[FitGeometry, Tensor]:
    """The fit of a reference, and (1, H, W) bool, True = in a hidden patch."""
    visible: Tensor = alpha(file) > 0.5
    height, width = visible.shape[1:]
    geometry = fit_geometry(height, width, grid.image_size, grid.patch_size, "pad")
    return geometry, torch.as_tensor(rebinarize(visible, geometry).hidden_pixels())
