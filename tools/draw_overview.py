"""Draws docs/overview.png, the README's picture, from a run of `headless.make_ad`: `python -m tools.draw_overview out`.

Every panel is a file of that run or what a node of the pack gives for it: the preview of PFV Mask Re-binarize and the
depth of PFV Depth Compose are computed here by the functions that those nodes call.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
PANEL = (384, 256)
MARGIN, CAPTION = 12, 26
INK, PAPER = (40, 40, 40), (255, 255, 255)
BACKGROUND_REGION, TABLE_REGION = (70, 120, 220), (70, 170, 90)


def main(run: Path) -> None:
    """Compose the panels, three to a row."""
    inputs = run / "inputs"
    panels = [
        ("product photo, cut out", on_checks(Image.open(inputs / "product.png"))),
        ("background reference: hidden patches", preview(inputs / "reference_background.png")),
        ("table reference: hidden patches", preview(inputs / "reference_table.png")),
        ("regions: background, table, text", regions(inputs)),
        ("depth for ControlNet", depth(inputs)),
        ("the ad (random weights: noise, exact product)", Image.open(run / "ad.png")),
    ]
    width = 3 * PANEL[0] + 4 * MARGIN
    height = 2 * (PANEL[1] + CAPTION + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(15)
    for index, (caption, panel) in enumerate(panels):
        left = MARGIN + index % 3 * (PANEL[0] + MARGIN)
        top = MARGIN + index // 3 * (PANEL[1] + CAPTION + MARGIN)
        sheet.paste(panel.convert("RGB").resize(PANEL, Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + PANEL[1] + 5), caption, INK, font)
    target = ROOT / "docs" / "overview.png"
    target.parent.mkdir(exist_ok=True)
    sheet.quantize(192).save(target, optimize=True)


def as_tensor(image: Image.Image) -> torch.Tensor:
    """(1, C, H, W), 0..1."""
    values = np.asarray(image, np.float32) / 255
    return torch.from_numpy(values.reshape(*values.shape[:2], -1)).movedim(-1, 0)[None]


def painted(path: Path) -> torch.Tensor:
    """(1, H, W) bool, True where the file is transparent."""
    return as_tensor(Image.open(path).getchannel("A"))[:, 0] < 0.5


def as_image(tensor: torch.Tensor) -> Image.Image:
    """The first picture of (B, C, H, W)."""
    return Image.fromarray((tensor[0].movedim(0, -1).numpy() * 255).round().astype(np.uint8))


def preview(path: Path) -> Image.Image:
    """What PFV Mask Re-binarize shows for ViT-H's grid."""
    from pfv_core.fit import fit_geometry
    from pfv_core.patch_mask import rebinarize
    from pfv_core.preview import patch_grid_preview

    reference = as_tensor(Image.open(path).convert("RGB"))
    geometry = fit_geometry(reference.shape[2], reference.shape[3], 224, 14, "pad")
    hidden = rebinarize(~painted(path), geometry).hidden_pixels()
    return as_image(patch_grid_preview(reference, hidden, geometry))


def depth(inputs: Path) -> Image.Image:
    """What PFV Depth Compose gives."""
    from pfv_core.depth import compose_depth

    foreground, background = (
        as_tensor(Image.open(inputs / name).convert("RGB"))
        for name in ("product_depth.png", "reference_background_depth.png")
    )
    product, hidden = painted(inputs / "product.png"), painted(inputs / "reference_background.png")
    return as_image(compose_depth(foreground, ~product, background, ~hidden))


def regions(inputs: Path) -> Image.Image:
    """Both regions in colour; what is left white is the text's."""
    sheet = Image.new("RGB", Image.open(inputs / "product.png").size, PAPER)
    for name, colour in (("region_background.png", BACKGROUND_REGION), ("region_table.png", TABLE_REGION)):
        sheet.paste(colour, (0, 0), Image.fromarray(painted(inputs / name)[0].numpy()).convert("L"))
    return sheet


def on_checks(image: Image.Image) -> Image.Image:
    """A cut-out over the usual grey checks."""
    rows, columns = np.indices((image.height, image.width)) // 16
    checks = Image.fromarray(np.where((rows + columns) % 2, 205, 240).astype(np.uint8)).convert("RGB")
    checks.paste(image, (0, 0), image.getchannel("A"))
    return checks


if __name__ == "__main__":
    main(Path(sys.argv[1]))
