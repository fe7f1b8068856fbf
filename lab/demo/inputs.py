"""The pictures that the demo workflows load, drawn here: `python -m lab.demo.inputs [FOLDER]` writes them.

A product to advertise, two references that show somebody else's product, depth maps, and the regions in which the
references rule. Masks are in the alpha channel, as ComfyUI's mask editor saves them: what is painted is transparent. And two
photographs as people bring them, without any mask: the product on plain ground, and a reference.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pfv_demo.sizes import IMAGE_SIZE

from .scenes import PRODUCT_COLORS, TABLES, WALL_COLORS, Rendered, Scene, render, sample_scene

FOLDER = Path(__file__).resolve().parents[2] / "workflows" / "demo_inputs"
PREFIX = "demo_"  # of the files' names, which lie beside the user's own in ComfyUI's input folder
BRUSH = 3  # pixels that a painted mask goes beyond what it covers


def new_scene(seed: int, product: str, wall: str, table: str) -> Scene:
    """The scene of a seed with other choices.

    Args:
        seed: of everything that is not named.
        product: colour and shape, such as "red bottle".
        wall: colour and pattern, such as "blue dots".
        table: such as "wooden".
    """
    product_color, shape = product.split()
    wall_color, pattern = wall.split()
    return replace(
        sample_scene(seed),
        product_color=product_color,
        shape=shape,
        wall_color=wall_color,
        pattern=pattern,
        table=table,
        product_rgb=PRODUCT_COLORS[product_color],
        wall_rgb=WALL_COLORS[wall_color],
        table_rgb=TABLES[table],
    )


REFERENCE = new_scene(14, "teal mug", "pink dots", "slate")  # of demo_minimal; the others are of demo_full
# The product stands on the edge of cells of the U-Net's attention, 16 pixels; the mug is wider: what leaks of it is seen.
PRODUCT = replace(
    new_scene(11, "red bottle", "grey plain", "slate"), horizon=0.66, center=0.5, base=0.875, height=0.62, aspect=1.08
)
BACKGROUND_REFERENCE = replace(
    new_scene(77, "blue mug", "yellow slants", "velvet"), base=0.875, height=0.62, aspect=1.08
)
PLAIN_GROUND = 0.92  # grey of the packshot's
TABLE_REFERENCE = new_scene(13, "purple ball", "cream plain", "marble")


def demo_inputs() -> dict[str, Image.Image]:
    """File name -> picture, IMAGE_SIZE pixels wide and high."""
    reference, product, background, table = (
        render([scene], IMAGE_SIZE) for scene in (REFERENCE, PRODUCT, BACKGROUND_REFERENCE, TABLE_REFERENCE)
    )
    free = product.product[0] == 0
    on_table = render([BACKGROUND_REFERENCE], IMAGE_SIZE, product=False).table[0] > 0.5
    pictures = {
        "reference": _painted(reference, _brushed(reference)),
        "product": _with_alpha(product, product.product[0]),
        "product_depth": _picture(product.depth[0]),
        "reference_background": _painted(background, _brushed(background)),
        "reference_background_depth": _picture(background.depth[0]),
        "reference_table": _painted(table, _brushed(table)),
        "region_background": _painted(product, free & ~on_table),
        "region_table": _painted(product, free & on_table),
        "product_photo": _on_plain_ground(product),
        "reference_photo": _picture(background.image[0]),
    }
    return {f"{PREFIX}{name}.png": picture for name, picture in pictures.items()}


def write_inputs(folder: Path = FOLDER) -> None:
    """Save them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in demo_inputs().items():
        picture.save(folder / name, optimize=True)


def _on_plain_ground(rendered: Rendered) -> Image.Image:
    """The product alone, as a packshot has it."""
    opacity = rendered.product[0][..., None]
    return _picture(rendered.image[0] * opacity + PLAIN_GROUND * (1 - opacity))


def _brushed(rendered: Rendered) -> Tensor:
    """(H, W) bool: the product as somebody paints over it, a little generously."""
    return F.max_pool2d((rendered.product > 0).float(), 2 * BRUSH + 1, stride=1, padding=BRUSH)[0] > 0


def _painted(rendered: Rendered, painted: Tensor) -> Image.Image:
    return _with_alpha(rendered, (~painted).float())


def _with_alpha(rendered: Rendered, alpha: Tensor) -> Image.Image:
    picture = _picture(rendered.image[0])
    picture.putalpha(_picture(alpha))
    return picture


def _picture(values: Tensor) -> Image.Image:
    """(H, W) or (H, W, 3), 0..1 -> 8 bits."""
    return Image.fromarray((values * 255).round().to(torch.uint8).numpy())


if __name__ == "__main__":
    write_inputs(*map(Path, sys.argv[1:]))
