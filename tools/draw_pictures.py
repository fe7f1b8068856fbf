"""Draws the templates' thumbnails and the pictures of the help pages, by running the nodes on the demo's pictures.

    python3 -m tools.draw_pictures [NAME...]

Writes workflows/<workflow>.jpg, the real output of the demo workflow of that name (the SDXL workflows have their demo twin's:
their models are not part of this repository), and web/docs/<NodeId>.jpg. Without names it draws all of them.
"""

from __future__ import annotations

import argparse
import copy
import io
import sys
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from shutil import copytree
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

from headless.client import ApiError, Client, Prompt
from headless.environment import EnvironmentFailedError, python_for
from headless.find_host import PACK_ROOT, HostNotFoundError, require_host
from headless.start_host import HostStartError, running_host
from headless.workflow import load_prompt, set_inputs, the_node

WORKFLOWS = PACK_ROOT / "workflows"
DOCS = PACK_ROOT / "web" / "docs"
THUMBNAIL = 384
PANEL, MARGIN, CAPTION, FONT_SIZE = 200, 10, 22, 13
INK, PAPER = (40, 40, 40), (228, 228, 228)

ALSO_SHOWN = (  # node's title, its output, the host's node that shows it
    ("VAE Decode", 0, "PreviewImage"),
    ("Depth of the ad", 0, "PreviewImage"),
    ("Canvas 1:1", 0, "PreviewImage"),
    ("Canvas 4:5", 0, "PreviewImage"),
    ("Canvas 4:5", 2, "MaskPreview"),
    ("Product depth in 4:5", 0, "PreviewImage"),
    ("Product region in 4:5", 0, "MaskPreview"),
    ("Table region in 4:5", 0, "MaskPreview"),
    ("Decode 4:5", 0, "PreviewImage"),
    ("Finish 4:5", 0, "PreviewImage"),
)

Panels = list[tuple[str, Image.Image]]
Changes = dict[tuple[str, str], dict[str, Any]]  # (class, title) -> inputs


class Studio:
    """A server with this pack, and what its nodes showed in each variant of a workflow."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, name: str, changes: Changes | None = None, without: tuple[str, str, str] | None = None) -> Shown:
        """Run a demo workflow with other inputs, or without one link (class, title, input)."""
        prompt = copy.deepcopy(load_prompt(WORKFLOWS / "api" / f"{name}.json"))
        for (class_type, title), values in (changes or {}).items():
            set_inputs(the_node(prompt, class_type, title), **values)
        if without is not None:
            del the_node(prompt, *without[:2])["inputs"][without[2]]
        for title, slot, preview in ALSO_SHOWN:
            _also_show(prompt, title, slot, preview)
        return Shown(self._client, prompt, self._client.run(prompt))

    @cached_property
    def formats(self) -> Shown:
        """The demo's ads in three formats, and one of them brought to its size by the node for it."""
        prompt = copy.deepcopy(load_prompt(WORKFLOWS / "api" / "demo_formats.json"))
        sampled, canvas = (_id_of(prompt, title) for title in ("Decode 4:5", "Canvas 4:5"))
        finish = {"class_type": "PFVAdCanvasFinish", "inputs": {"image": [sampled, 0], "canvas": [canvas, 3]}}
        set_inputs(the_node(prompt, "PFVScaleMap"), product_cm=20.0, subject_cm=10.0)
        prompt["finish"] = {**finish, "_meta": {"title": "Finish 4:5"}}
        for title, slot, preview in ALSO_SHOWN:
            _also_show(prompt, title, slot, preview)
        return Shown(self._client, prompt, self._client.run(prompt))

    @cached_property
    def full(self) -> Shown:
        """The demo's whole workflow as it is shipped."""
        return self.run("demo_full")


class Shown:
    """What the nodes of one run showed, by title."""

    def __init__(self, client: Client, prompt: Prompt, outputs: dict[str, Any]) -> None:
        self._client, self._prompt, self._outputs = client, prompt, outputs

    def __getitem__(self, title: str) -> Image.Image:
        return self._image(_id_of(self._prompt, title))

    def saved(self) -> list[Image.Image]:
        """What Save Image nodes saved."""
        return [self._image(node_id) for node_id, node in self._prompt.items() if node["class_type"] == "SaveImage"]

    def _image(self, node_id: str) -> Image.Image:
        image = self._outputs[node_id]["images"][0]
        query = urllib.parse.urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
        with urllib.request.urlopen(f"{self._client.url}/view?{query}", timeout=60) as answer:
            return Image.open(io.BytesIO(answer.read())).convert("RGB")


def _id_of(prompt: Prompt, title: str) -> str:
    (node_id,) = (node_id for node_id, node in prompt.items() if node["_meta"]["title"] == title)
    return node_id


def _also_show(prompt: Prompt, title: str, slot: int, preview: str) -> None:
    """Put a preview, titled `TITLE SLOT`, behind an output of a node that shows nothing itself, where there is one."""
    for node_id, node in list(prompt.items()):
        if node["_meta"]["title"] == title:
            entry = "images" if preview == "PreviewImage" else "mask"
            shown = {"class_type": preview, "inputs": {entry: [node_id, slot]}}
            prompt[f"shown_{node_id}_{slot}"] = shown | {"_meta": {"title": f"{title} {slot}"}}


def painted(file: str) -> Image.Image:
    """A demo picture with its transparent part in pink, as the mask editor shows paint."""
    with Image.open(WORKFLOWS / "demo_inputs" / file) as image:
        colours = image.convert("RGB")
        if image.mode == "RGBA":
            colours.paste((235, 90, 160), (0, 0), image.getchannel("A").point(lambda value: 255 - value))
        return colours


def rebinarize(studio: Studio) -> Panels:
    """Paint, and the patches that it hides."""
    title, node = "Hide in the background reference", "PFVMaskRebinarize"
    softer = studio.run("demo_full", {(node, title): {"threshold": 0.5}})
    return [
        ("painted on the reference", painted("demo_reference_background.png")),
        ("threshold 0: hidden patches", studio.full[title]),
        ("threshold 0.5", softer[title]),
    ]


def encode(studio: Studio) -> Panels:
    """What an image prompt draws without any text, with the hidden part and without."""
    silent: Changes = {("CLIPTextEncode", "Prompt"): {"text": ""}}
    whole = studio.run("demo_minimal", silent, without=("PFVMaskRebinarize", "Hide what is painted", "mask"))
    return [
        ("reference, painted", painted("demo_reference.png")),
        ("no text, nothing hidden", whole["Save the ad"]),
        ("no text, visible patches", studio.run("demo_minimal", silent)["Save the ad"]),
    ]


def load_adapter(studio: Studio) -> Panels:
    """The same prompt without an image prompt, and with it."""
    without = studio.run("demo_minimal", {("MEPAApply", "Image prompt everywhere"): {"strength": 0.0}})
    return [
        ("reference, painted", painted("demo_reference.png")),
        ("the prompt alone", without["Save the ad"]),
        ("with the adapter", studio.run("demo_minimal")["Save the ad"]),
    ]


def compress(studio: Studio) -> Panels:
    """One reference, compressed in three ways."""
    node = ("PFVTokenCompress", "Image prompt")
    methods = ("adapter", "eq3_normalized", "cluster")
    return [("reference, painted", painted("demo_reference.png"))] + [
        (f"method {method}", studio.run("demo_minimal", {node: {"method": method}})["Save the ad"])
        for method in methods
    ]


def apply(studio: Studio) -> Panels:
    """Strength of the background's image prompt."""
    node = ("MEPAApply", "Background reference in its region")
    region = ("region, painted", painted("demo_region_background.png"))
    strengths = (0.0, 0.5, 1.0)
    return [region] + [
        (f"strength {strength:g}", studio.run("demo_full", {node: {"strength": strength}})["Save the ad"])
        for strength in strengths
    ]


def depth(studio: Studio) -> Panels:
    """Two depth maps and what they become."""
    return [
        ("foreground_depth", painted("demo_product_depth.png")),
        ("reference_depth", painted("demo_reference_background_depth.png")),
        ("depth", studio.full["Depth of the ad 0"]),
    ]


def composite(studio: Studio) -> Panels:
    """Generated image, photo, ad."""
    return [
        ("generated", studio.full["VAE Decode 0"]),
        ("product, cut out", painted("demo_product.png")),
        ("image", studio.full["Save the ad"]),
    ]


def canvas(studio: Studio) -> Panels:
    """A cut-out on a canvas, and the region around it."""
    return [
        ("product, cut out", painted("demo_product.png")),
        ("image", studio.formats["Canvas 4:5 0"]),
        ("region", studio.formats["Canvas 4:5 2"]),
    ]


def place(studio: Studio) -> Panels:
    """The product's depth where the product stands."""
    return [
        ("depth of the photo", painted("demo_product_depth.png")),
        ("the canvas's image", studio.formats["Canvas 4:5 0"]),
        ("image", studio.formats["Product depth in 4:5 0"]),
    ]


def finish(studio: Studio) -> Panels:
    """What was sampled, and the ad's own size."""
    pairs = (("image, as sampled", "Decode 4:5 0"), ("image, of the ad's size", "Finish 4:5 0"))
    return [(f"{caption}: {(shown := studio.formats[title]).width}x{shown.height}", shown) for caption, title in pairs]


def region_shape(studio: Studio) -> Panels:
    """A half-plane."""
    return [("half_plane, y1 and y2 at the table", studio.formats["Table region in 4:5 0"])]


def region_from_mask(studio: Studio) -> Panels:
    """A product's mask, grown."""
    return [("region", studio.formats["Product region in 4:5 0"])]


def region_builder(studio: Studio) -> Panels:
    """Regions in colours."""
    return [(f"preview, {name}", studio.formats[f"Regions of {name}"]) for name in ("1:1", "4:5", "1.91:1")]


def scale_map(studio: Studio) -> Panels:
    """The subject's rows."""
    product = ("product, 20 cm high", studio.formats["Canvas 1:1 0"])
    return [product, ("scale_map, subject 10 cm high", studio.formats["Scale map preview"])]


def demo(studio: Studio) -> Panels:
    """What the demo's words draw."""
    prompts = ("a red bottle on a wooden table", "a blue mug, grey wall with dots", "a green cone on a marble table")
    ads = []
    for prompt in prompts:
        changes: Changes = {
            ("CLIPTextEncode", "Prompt"): {"text": prompt},
            ("MEPAApply", "Image prompt everywhere"): {"strength": 0.0},
        }
        ads.append((prompt, studio.run("demo_minimal", changes)["Save the ad"]))
    return ads


HELP: dict[str, Callable[[Studio], Panels]] = {
    "PFVMaskRebinarize": rebinarize,
    "PFVImageEncode": encode,
    "MEPAAdapterLoader": load_adapter,
    "PFVTokenCompress": compress,
    "MEPAApply": apply,
    "PFVDepthCompose": depth,
    "StrictIDComposite": composite,
    "PFVDemoModels": demo,
    "PFVAdCanvas": canvas,
    "PFVAdCanvasPlace": place,
    "PFVAdCanvasFinish": finish,
    "MEPARegionShape": region_shape,
    "MEPARegionFromMask": region_from_mask,
    "MEPARegionBuilder": region_builder,
    "PFVScaleMap": scale_map,
}


def sheet(panels: Panels) -> Image.Image:
    """Captioned pictures in a row."""
    canvas = Image.new("RGB", (len(panels) * (PANEL + MARGIN) + MARGIN, PANEL + CAPTION + 2 * MARGIN), PAPER)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    for index, (caption, picture) in enumerate(panels):
        left = MARGIN + index * (PANEL + MARGIN)
        canvas.paste(ImageOps.pad(picture, (PANEL, PANEL), Image.Resampling.BICUBIC, PAPER), (left, MARGIN))
        draw.text((left, MARGIN + PANEL + 4), caption, INK, font)
    return canvas


def thumbnail(studio: Studio, name: str) -> Image.Image:
    """What a workflow, or its demo twin, saves: one picture, or several in two columns."""
    demo_name = name if name.startswith("demo_") else f"demo_{name}"
    ads = (studio.full if demo_name == "demo_full" else studio.run(demo_name)).saved()
    cell = THUMBNAIL if len(ads) == 1 else THUMBNAIL // 2
    canvas = Image.new("RGB", (THUMBNAIL, THUMBNAIL), PAPER)
    for index, ad in enumerate(ads[:4]):
        ad = ImageOps.pad(ad, (cell, cell), Image.Resampling.BICUBIC, PAPER)
        canvas.paste(ad, (index % 2 * cell, index // 2 * cell))
    return canvas


def main() -> None:
    """Draw what was asked for."""
    workflows = sorted(file.stem for file in WORKFLOWS.glob("*.json"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *workflows, *HELP], help="workflows and node ids")
    names = parser.parse_args().names or [*workflows, *HELP]
    host = require_host()
    with tempfile.TemporaryDirectory() as folder:
        copytree(WORKFLOWS / "demo_inputs", Path(folder) / "input")
        with running_host(host, python_for(host), Path(folder), [PACK_ROOT]) as running:
            studio = Studio(Client(running.url))
            for name in names:
                picture = sheet(HELP[name](studio)) if name in HELP else thumbnail(studio, name)
                file = DOCS / f"{name}.jpg" if name in HELP else WORKFLOWS / f"{name}.jpg"
                picture.save(file, quality=85, optimize=True)
                print(f"wrote {file.relative_to(PACK_ROOT)}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ApiError, EnvironmentFailedError, HostNotFoundError, HostStartError, OSError) as error:
        sys.exit(str(error))
