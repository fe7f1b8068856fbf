"""The two pictures of an ad, a product photo and a reference: shipped ones, or the user's own in their place.

What is marked in one lies in its transparency, as ComfyUI reads it: the product photo of a cut-out is transparent around the
product, a reference is transparent where it was painted over. An opaque picture marks nothing, and the workflow finds it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops
from torch import Tensor

from pfv_core.masks import in_corners

from ..host.find import PACK_ROOT
from ..pictures.door import open_picture
from ..pictures.masks import read_mask
from ..server.client import Prompt
from .plan import Plan
from .workflow import PRODUCT_PHOTO, REFERENCE, set_inputs, the_node

DEMO_INPUTS = PACK_ROOT / "workflows" / "demo_inputs"

Pictures = Mapping[str, Path]
"""Name in the workflow's LoadImage nodes -> file."""


def write_pictures(plan: Plan, options: argparse.Namespace, workflow: Prompt, folder: Path) -> dict[str, Path]:
    """Write both pictures under the names that stand in the workflow, and what is known of the shipped ones into it.

    Args:
        plan: photographs go with SDXL, rendered scenes with the demo's models.
        options: product, product_mask, reference and reference_mask, each a file or None; ground, or None.
        workflow: with the two LoadImage nodes; it is changed where a shipped photograph's ground line is known.
        folder: made where absent.

    Returns:
        Name -> file.

    Raises:
        ValueError: a file that is no picture, a mask that does not fit or marks nothing, or a reference that is a cut-out.
    """
    product = _own(options.product, options.product_mask, product=True) or _shipped_product(plan)
    reference = _own(options.reference, options.reference_mask, product=False) or _shipped_reference(plan)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for title, picture in ((PRODUCT_PHOTO, product), (REFERENCE, reference)):
        name = the_node(workflow, "LoadImage", title)["inputs"]["image"]
        files[name] = folder / name
        picture.save(files[name])
        print(f"{title.lower()}: {files[name]}, {picture.width}x{picture.height}", flush=True)
    ground = options.ground
    if ground is None and plan.models and not options.reference:
        from .photos import HORIZON as ground  # noqa: N811  (known of the shipped photograph)
    if ground is not None:
        set_inputs(the_node(workflow, "PFVGround"), ground_line="at", at=ground)
    return files


def cut_out(image: Image.Image, marked: Image.Image) -> Image.Image:
    """The picture, opaque inside the mark only: ComfyUI's mask of it is 1 on the background."""
    image = image.convert("RGB")
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


def opened(file: Path) -> Image.Image:
    """A picture that this pack or its server wrote, loaded."""
    with Image.open(file) as picture:
        picture.load()
        return picture


def _own(file: Path | None, mask: Path | None, product: bool) -> Image.Image | None:
    """A user's picture with what is marked in it, by a mask's white or by its own transparency; None where none is named."""
    if file is None:
        return None
    picture = open_picture(file.read_bytes(), str(file))
    _say(picture.converted, file)
    image = Image.fromarray(picture.pixels)
    if mask is None:
        if not product and int(in_corners(torch.from_numpy(picture.pixels[None, ..., 3] < 255))) == 4:
            raise ValueError(
                f"{file} is transparent in its corners, and what is transparent in a reference counts as painted over, so "
                "that what is in its middle would be seen: give it without transparency, or say with --reference-mask what is "
                "to be hidden"
            )
        return image if bool((picture.pixels[..., 3] < 255).any()) else image.convert("RGB")
    marked, said = read_mask(mask.read_bytes(), str(mask), picture.size, str(file))
    _say(said, mask)
    return (cut_out if product else painted)(image, Image.fromarray(marked))


def _shipped_product(plan: Plan) -> Image.Image:
    if not plan.models:
        return opened(DEMO_INPUTS / "demo_product_photo.png")
    from . import photos

    photo = photos.coffee()
    print(f"product: {photo}", flush=True)
    return cut_out(photo.image, photo.marked)


def _shipped_reference(plan: Plan) -> Image.Image:
    if not plan.models:
        return opened(DEMO_INPUTS / "demo_reference_photo.png")
    from . import photos

    photo = photos.rocket()
    print(f"reference: {photo}", flush=True)
    return painted(photo.image, photo.marked)


def _pixels(file: Path) -> NDArray[np.uint8]:
    return open_picture(file.read_bytes(), str(file)).pixels


def _say(converted: tuple[str, ...], file: Path) -> None:
    if converted:
        print(f"{file}: {'; '.join(converted)}", flush=True)
