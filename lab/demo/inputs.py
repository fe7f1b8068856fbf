"""The pictures that the demo workflows load, rendered here: `python -m lab.demo.inputs [FOLDER]` writes them.

A product to advertise, two references that show somebody else's product, depth maps, and the regions in which the
references rule. Masks are in the alpha channel, as ComfyUI's mask editor saves them: what is painted is transparent. Two
photographs as people bring them, without any mask: the product on plain ground, and a reference. And what the two neighbours'
workflows take, each as its training has it: a packshot and a place; a product, a mannequin, and a scene with a companion.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pfv_demo.sizes import IMAGE_SIZE, VISION

from ..files import save_atomically
from .studio.beside import mannequin, packshot_of
from .studio.render import GROUND, Rendered, render, render_alone
from .studio.scene import COMPANION_LOOKS, PRODUCT_COLORS, WALL_COLORS, Scene, sample_scene, second_tone

FOLDER = Path(__file__).resolve().parents[2] / "workflows" / "demo_inputs"
PREFIX = "demo_"  # of the files' names, which lie beside the user's own in ComfyUI's input folder
BRUSH = 6  # pixels that a painted mask goes beyond what it covers


def new_scene(seed: int, product: str, wall: str, table: str) -> Scene:
    """The scene of a seed with other choices, its product alone.

    Args:
        seed: of everything that is not named.
        product: colour and shape, such as "red bottle".
        wall: colour and pattern, such as "blue dots".
        table: such as "wooden".
    """
    product_color, shape = product.split()
    wall_color, pattern = wall.split()
    scene = sample_scene(seed, companion=False)
    wall_rgb = WALL_COLORS[wall_color]
    named = replace(scene.product, color=product_color, shape=shape, rgb=PRODUCT_COLORS[product_color])
    return replace(
        scene,
        product=named,
        wall_color=wall_color,
        pattern=pattern,
        table=table,
        wall_rgb=wall_rgb,
        second_rgb=second_tone(wall_rgb),
    )


def _beside(scene: Scene, kind: str, look: str) -> Scene:
    """A scene with another companion where its own stands."""
    assert scene.companion is not None
    return replace(scene, companion=replace(scene.companion, kind=kind, look=look, rgb=COMPANION_LOOKS[kind][look]))


def _seen_alike(scene: Scene, size: float) -> Scene:
    """By one camera, the product in the middle: foot and table's edge lie on edges of the U-Net's cells of 16 pixels."""
    return replace(scene, product=replace(scene.product, size=size, turn=-0.1), place=(0.0, -0.01), eye=0.93, zoom=3.93)


REFERENCE = new_scene(34, "teal jar", "pink dots", "linen")  # of demo_minimal; the others are of demo_full
# The vase is wider than the bottle: what leaks of it is seen.
PRODUCT = _seen_alike(new_scene(21, "red bottle", "grey plain", "marble"), size=0.915)
BACKGROUND_REFERENCE = _seen_alike(new_scene(28, "blue vase", "yellow slants", "linen"), size=1.0)
TABLE_REFERENCE = replace(
    new_scene(24, "purple flask", "cream plain", "marble"), place=(-0.1, 0.12), eye=1.15, zoom=3.9
)  # from higher up: more of the table is seen
PLAIN_GROUND = 0.92  # grey of the product photo's
# Both products are held out of the training. Of demo_refadgen: the ad's view of the product, and how its packshot is turned.
WANTED, PACKSHOT_SEED = new_scene(47, "green flask", "grey plain", "marble"), 47
# Of demo_strict_id: the product leaves room at its right, for a plant as the other scene has it.
LEFT = replace(new_scene(71, "red bottle", "teal plain", "slate"), place=(-0.2, 0.0))
COMPANY = _beside(sample_scene(145), "plant", "green")
POSE_LEAN, POSE_TURN = 0.15, 0.3  # radians, of the mannequin


def demo_inputs() -> dict[str, Image.Image]:
    """File name -> picture, IMAGE_SIZE pixels wide and high; the pose has the image encoder's size."""
    reference, product, background, table, wanted, left, company = (
        render([scene], IMAGE_SIZE)
        for scene in (REFERENCE, PRODUCT, BACKGROUND_REFERENCE, TABLE_REFERENCE, WANTED, LEFT, COMPANY)
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
        "packshot": _picture(render_alone([packshot_of(WANTED, PACKSHOT_SEED)], IMAGE_SIZE, GROUND)[0]),
        "place": _place(wanted.product[0]),
        "product_left": _with_alpha(left, left.product[0]),
        "pose": _picture(mannequin(POSE_LEAN, POSE_TURN, VISION["image_size"])),
        "appearance": _painted(company, _brushed(company)),
    }
    return {f"{PREFIX}{name}.png": picture for name, picture in pictures.items()}


def write_inputs(folder: Path = FOLDER) -> None:
    """Save them."""
    for name, picture in demo_inputs().items():
        save_atomically(folder / name, partial(picture.save, format="PNG", optimize=True))


def _on_plain_ground(rendered: Rendered) -> Image.Image:
    """The product alone, as a packshot has it."""
    opacity = rendered.product[0][..., None]
    return _picture(rendered.image[0] * opacity + PLAIN_GROUND * (1 - opacity))


def _place(covered: Tensor) -> Image.Image:
    """Plain, and painted where a product shall stand."""
    picture = _picture(torch.full((*covered.shape, 3), PLAIN_GROUND))
    picture.putalpha(_picture(1 - covered))
    return picture


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


def main() -> None:
    """Write them where it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="of the pictures")
    write_inputs(parser.parse_args().folder)


if __name__ == "__main__":
    main()
