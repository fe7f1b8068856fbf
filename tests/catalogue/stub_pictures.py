"""What the stub server draws: flat pictures, as large as asked for, with a product's own pixels where a workflow has one."""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import Any

from PIL import Image

SIZE = (64, 64)  # where nothing says another one
SHAPES = {"1:1": (1024, 1024), "4:5": (896, 1120), "9:16": (720, 1280), "16:9": (1280, 720), "1.91:1": (1360, 712)}

Prompt = dict[str, dict[str, Any]]


def part_of(prompt: Prompt, node_id: str) -> Prompt:
    """A node and all that leads to it."""
    part: Prompt = {}
    to_do = [node_id]
    while to_do:
        current = to_do.pop()
        if current not in part and current in prompt:
            part[current] = prompt[current]
            to_do += [str(value[0]) for value in prompt[current]["inputs"].values() if _is_link(value)]
    return part


def draw(prompt: Prompt, inputs: dict[str, bytes], is_wrong: bool) -> bytes:
    """A PNG for a prompt with one SaveImage.

    Args:
        prompt: its hash is the colour.
        inputs: uploaded pictures.
        is_wrong: change one pixel of the product.
    """
    essence = {i: node["inputs"] for i, node in prompt.items() if node["class_type"] != "SaveImage"}
    colour = tuple(hashlib.sha256(json.dumps(essence, sort_keys=True).encode()).digest()[:3])
    canvas, photo = _first(prompt, "PFVAdCanvas"), _photo(prompt)
    if canvas:
        ad = Image.new("RGB", _canvas_size(canvas["inputs"]), colour)
    elif photo in inputs:
        with Image.open(io.BytesIO(inputs[photo])) as product:
            ad = _with_product(product.convert("RGBA"), colour, is_wrong)
    else:
        ad = Image.new("RGB", _latent_size(prompt), colour)
    buffer = io.BytesIO()
    ad.save(buffer, "PNG")
    return buffer.getvalue()


def report(is_wrong: bool) -> str:
    """What a Strict-ID Composite says of its ad."""
    counts = {"product_pixels": 9, "translucent_pixels": 0, "pixels_checked": 9, "pixels_equal": 9 - is_wrong}
    return json.dumps({"exact": not is_wrong, "ads": [{**counts, "max_difference": float(is_wrong), "mask_iou": None}]})


def _with_product(product: Image.Image, colour: tuple[int, ...], is_wrong: bool) -> Image.Image:
    ad = Image.new("RGB", product.size, colour)
    ad.paste(product.convert("RGB"), mask=product.getchannel("A"))
    if is_wrong:
        middle = (product.width // 2, product.height // 2)
        ad.putpixel(middle, tuple(255 - value for value in ad.getpixel(middle)))
    return ad


def _photo(prompt: Prompt) -> str | None:
    """What LoadImage calls the product of the composite."""
    link = (_first(prompt, "StrictIDComposite") or {"inputs": {}})["inputs"].get("product")
    node = prompt.get(str(link[0])) if _is_link(link) else None
    name = (node or {"inputs": {}})["inputs"].get("image")
    return name if isinstance(name, str) else None


def _canvas_size(inputs: dict[str, Any]) -> tuple[int, int]:
    name = str(inputs.get("format"))
    sides = re.fullmatch(r"(\d+)x(\d+)", name)
    if sides:
        return int(sides[1]), int(sides[2])
    return SHAPES.get(name) or (int(inputs["custom_width"]), int(inputs["custom_height"]))


def _latent_size(prompt: Prompt) -> tuple[int, int]:
    inputs = (_first(prompt, "EmptyLatentImage") or {"inputs": {}})["inputs"]
    width, height = (
        side if isinstance(side := inputs.get(name), int) else default
        for name, default in zip(("width", "height"), SIZE, strict=True)
    )
    return width, height


def _first(prompt: Prompt, class_type: str) -> dict[str, Any] | None:
    return next((node for node in prompt.values() if node["class_type"] == class_type), None)


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
