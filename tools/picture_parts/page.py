"""A picture of ComfyUI's page: the node that takes files which people have, with files of their layout that hold zeros."""

from __future__ import annotations

import io
import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from PIL import Image

from headless.host.find_chromium import HOW_TO_GET_CHROMIUM, find_chromium

from .studio import Panels, Studio

ADAPTER, ENCODER = "ip-adapter-plus_sdxl_vit-h.safetensors", "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
TITLE = "MEPA Load Adapter and Encoder"
ROOM, TITLE_HEIGHT = 16, 30  # pixels: of the page around the node, of a node

Shapes = dict[str, tuple[int, ...]]

ADD_AND_LINK = """() => {
    const [load, preview] = ['MEPALoad', 'PreviewAny'].map((type) => LiteGraph.createNode(type))
    load.pos = [0, 0]
    preview.pos = [900, 0]
    for (const node of [load, preview]) app.graph.add(node)
    load.connect(0, preview, 0)
    load.setSize([780, load.size[1]])
}"""


def load(studio: Studio) -> Panels:
    """The node after a run, with the line that names the encoder which it found."""
    from playwright.sync_api import sync_playwright

    from tests.browser.comfy_page import ComfyPage
    from tests.core.adapter_layouts import PUBLIC

    models = studio.folder / "models"
    write_zeros(models / "ipadapter" / ADAPTER, PUBLIC[Path(ADAPTER).stem].shapes())
    write_zeros(models / "clip_vision" / ENCODER, vit_h_shapes())
    chromium = find_chromium()
    if chromium is None:
        raise OSError(HOW_TO_GET_CHROMIUM)
    with sync_playwright() as playwright:
        page = ComfyPage(playwright, chromium, studio.url).open()
        page.ask(ADD_AND_LINK)
        page.run()
        page.line(TITLE)
        picture = _node(page)
        page.close()
    return [("", picture)]


def _node(page: Any) -> Image.Image:
    """What is seen of the node, and a little around it."""
    from tests.browser.comfy_page import ON_SCREEN

    (left, top), (right, bottom) = (page.ask(ON_SCREEN, [TITLE, *corner]) for corner in ((0, -1), (1, 1)))
    top -= TITLE_HEIGHT / 2 * page.ask("() => app.canvas.ds.scale")
    with Image.open(io.BytesIO(page.page.screenshot())) as shot:
        box = (left - ROOM, top - ROOM, right + ROOM, bottom + ROOM)
        return shot.convert("RGB").crop(tuple(round(side) for side in box))


def vit_h_shapes() -> Shapes:
    """Keys and shapes of ViT-H/14 as CLIP_VISION files hold it."""
    width, wide, layers = 1280, 5120, 32
    shapes: Shapes = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.position_embedding.weight": (257, width),
    }
    linear = {f"self_attn.{name}_proj": (width, width) for name in "qkv"} | {"self_attn.out_proj": (width, width)}
    linear |= {"mlp.fc1": (wide, width), "mlp.fc2": (width, wide)}
    for layer in range(layers):
        for name, shape in linear.items():
            shapes[f"encoder.layers.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layers.{layer}.{name}.bias"] = shape[:1]
    norms = [f"encoder.layers.{layer}.layer_norm{number}" for layer in range(layers) for number in (1, 2)]
    for norm in ("pre_layrnorm", "post_layernorm", *norms):
        shapes |= {f"{norm}.{name}": (width,) for name in ("weight", "bias")}
    return {f"vision_model.{key}": shape for key, shape in shapes.items()} | {"visual_projection.weight": (1024, width)}


def write_zeros(file: Path, shapes: Shapes) -> None:
    """Safetensors of zeros in half precision; on most disks it takes no room."""
    header, end = {}, 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + end)
