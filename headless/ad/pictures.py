"""The pictures that the full workflow loads: shipped ones, or the user's own in their place.

Masks are in the alpha channel, as ComfyUI reads them: a mask is 1 where the file is transparent.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw
from torch import Tensor

from ..host.find import PACK_ROOT
from ..pictures.door import open_picture
from ..pictures.masks import read_mask
from ..server.client import Prompt
from .photos import Size, cut_and_resize, cut_and_resize_mask
from .plan import Plan
from .workflow import nodes_of

DEMO_INPUTS = PACK_ROOT / "workflows" / "demo_inputs"
DEMO_PREFIX = "demo_"

TABLE_EDGE = 0.45  # of the photographs: the table's region begins this far down the ad
PRODUCT_NEARNESS = 0.80  # depth of an own product, of an own reference's wall, and where its table begins and ends
WALL_NEARNESS = 0.12
TABLE_NEARNESS = (0.27, 1.0)


Pictures = Mapping[str, Path]
"""Name in the workflow's LoadImage nodes -> file."""


def write_pictures(plan: Plan, options: argparse.Namespace, workflow: Prompt, folder: Path) -> dict[str, Path]:
    """Write every picture of the workflow, under the name that stands in it.

    Args:
        plan: photographs go with SDXL, drawn scenes with the demo's models.
        options: product, product_mask, reference and reference_mask, each a file or None.
        workflow: with the LoadImage nodes.
        folder: made where absent.

    Returns:
        Name -> file.

    Raises:
        ValueError: a file that is no picture, or a picture without the mask that it needs.
    """
    pictures = photographs(plan.size) if plan.models else drawn()
    pictures |= own_pictures(options, pictures)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for node in nodes_of(workflow, "LoadImage"):
        name = node["inputs"]["image"]
        files[name] = folder / name
        pictures[name.removeprefix(DEMO_PREFIX)].save(files[name])
    width, height = plan.size
    print(f"pictures: {len(files)} of {width}x{height} in {folder}", flush=True)
    return files


def drawn() -> dict[str, Image.Image]:
    """The demo's scenes."""
    print("product and references: scenes drawn for this pack", flush=True)
    pictures = {}
    for file in sorted(DEMO_INPUTS.glob("*.png")):
        with Image.open(file) as picture:
            picture.load()
            pictures[file.name.removeprefix(DEMO_PREFIX)] = picture
    return pictures


def photographs(size: Size) -> dict[str, Image.Image]:
    """Photographs of a product and of two references with somebody else's product, from installed packages."""
    from . import photos

    product, background, table = photos.coffee(size), photos.rocket(size), photos.flower(size)
    for use, photo in (("product", product), ("background reference", background), ("table reference", table)):
        print(f"{use}: {photo.name}, marked: {photo.marked_as}; depth: {photo.depth_from}; {photo.credit}", flush=True)
    if product.depth is None or background.depth is None:
        raise ValueError("the product and the background reference need a depth, one of these photographs has none")
    return {
        "product.png": cut_out(product.image, product.marked),
        "product_depth.png": product.depth,
        "reference_background.png": painted(background.image, background.marked),
        "reference_background_depth.png": background.depth,
        "reference_table.png": painted(table.image, table.marked),
        **_regions(product.image, product.marked, round(TABLE_EDGE * size[1])),
    }


def own_pictures(options: argparse.Namespace, shipped: Mapping[str, Image.Image]) -> dict[str, Image.Image]:
    """What the user's files replace: all that is drawn from a product or from a reference changes with it."""
    edge = _table_edge(shipped["region_table.png"])
    size = shipped["product.png"].size
    own = {}
    if options.product:
        image, product = _own(options.product, options.product_mask, size, "--product-mask", transparent=False)
        print(f"product: {options.product}; depth: flat, not measured", flush=True)
        own["product.png"] = cut_out(image, product)
        own["product_depth.png"] = product.point(lambda value: round(255 * PRODUCT_NEARNESS) * (value > 0))
        own |= _regions(image, product, edge)
    if options.reference:
        image, hidden = _own(options.reference, options.reference_mask, size, "--reference-mask", transparent=True)
        print(f"both references: {options.reference}; depth: a wall above a table, not measured", flush=True)
        own["reference_background.png"] = own["reference_table.png"] = painted(image, hidden)
        own["reference_background_depth.png"] = _wall_above_table(size, edge)
    return own


def cut_out(image: Image.Image, marked: Image.Image) -> Image.Image:
    """The picture, opaque inside the mark only: ComfyUI's mask of it is 1 on the background."""
    image = image.copy()
    image.putalpha(marked)
    return image


def painted(image: Image.Image, marked: Image.Image) -> Image.Image:
    """The picture as ComfyUI's mask editor saves it, transparent where it was painted: its mask is 1 there."""
    return cut_out(image, ImageChops.invert(marked))


def rgb(file: Path) -> Tensor:
    """(1, 3, H, W), 0..1, transparent pixels with the colours that they have."""
    return torch.from_numpy(_pixels(file)[..., :3].astype(np.float32) / 255).movedim(-1, 0)[None]


def alpha(file: Path) -> Tensor:
    """(1, H, W), 0..1, 1 = opaque."""
    return torch.from_numpy(_pixels(file)[..., 3].astype(np.float32) / 255)[None]


def as_picture(image: Tensor) -> Image.Image:
    """The first of (B, 3, H, W) or (B, 1, H, W), 0..1."""
    values = (image[0].movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)


def _own(file: Path, mask: Path | None, size: Size, option: str, transparent: bool) -> tuple[Image.Image, Image.Image]:
    """A user's picture at the ad's size, and what is marked in it: by a mask's white, or by its own alpha.

    `transparent` says which side of the alpha is marked: the product is what is opaque, a painted part is transparent.
    """
    picture = open_picture(file.read_bytes(), str(file))
    _say(picture.converted, file)
    marked = picture.pixels[..., 3]
    if mask is not None:
        marked, said = read_mask(mask.read_bytes(), str(mask), picture.size, str(file))
        _say(said, mask)
    elif bool((marked == 255).all()):
        raise ValueError(f"{file} has no transparency: name a mask with {option}, white where it counts")
    elif transparent:
        marked = 255 - marked
    image, marks = Image.fromarray(picture.pixels[..., :3].copy()), Image.fromarray(marked.copy())
    marks = cut_and_resize_mask(marks.point(lambda value: 255 * (value > 127)), size)
    if marks.getextrema() != (0, 255):
        raise ValueError(f"the mask of {file} marks nothing or everything of what the ad shows of it ({option})")
    return cut_and_resize(image, size), marks


def _pixels(file: Path) -> NDArray[np.uint8]:
    return open_picture(file.read_bytes(), str(file)).pixels


def _say(converted: tuple[str, ...], file: Path) -> None:
    if converted:
        print(f"{file}: {'; '.join(converted)}", flush=True)


def _regions(product: Image.Image, marked: Image.Image, edge: int) -> dict[str, Image.Image]:
    """Where each reference rules: above and below the table's edge, the product left free for the prompt."""
    width, height = product.size
    table = Image.new("L", (width, height))
    ImageDraw.Draw(table).rectangle((0, edge, width, height), fill=255)
    around_product = ImageChops.invert(marked)
    regions = {"region_background.png": ImageChops.invert(table), "region_table.png": table}
    return {name: painted(product, ImageChops.multiply(region, around_product)) for name, region in regions.items()}


def _table_edge(region: Image.Image) -> int:
    """First row of the table's region, read in the left column, which the product leaves free."""
    rows = np.asarray(region.getchannel("A"))[:, 0] < 128
    return int(rows.argmax())


def _wall_above_table(size: Size, edge: int) -> Image.Image:
    """A depth picture: far above the edge, from there on nearing to the bottom. Near = bright."""
    width, height = size
    first, last = TABLE_NEARNESS
    rows = np.arange(height) - edge
    nearness = np.where(rows < 0, WALL_NEARNESS, first + (last - first) * rows / max(height - edge, 1))
    return Image.fromarray(np.repeat(np.round(255 * nearness).astype(np.uint8)[:, None], width, axis=1))
