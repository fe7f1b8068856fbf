"""A server with this pack: demo workflows with changes, and what their nodes showed."""

from __future__ import annotations

import copy
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image

from headless.ad.workflow import load_prompt, set_inputs, the_node
from headless.host.find import PACK_ROOT
from headless.server.blocking import Client, saved_images
from headless.server.client import Prompt

WORKFLOWS = PACK_ROOT / "workflows"

ALSO_SHOWN = (  # node's title, its output, the host's node that shows it
    ("VAE Decode", 0, "PreviewImage"),
    ("Depth of the ad", 0, "PreviewImage"),
    ("Canvas 1:1", 0, "PreviewImage"),
    ("Canvas 4:5", 0, "PreviewImage"),
    ("Canvas 4:5", 2, "MaskPreview"),
    ("Product depth 4:5", 0, "PreviewImage"),
    ("Canvas 4:5", 1, "MaskPreview"),
    ("Grown region 4:5", 0, "MaskPreview"),
    ("Table region 4:5", 0, "MaskPreview"),
    ("Decode 4:5", 0, "PreviewImage"),
    ("Finish 4:5", 0, "PreviewImage"),
)

Changes = dict[tuple[str, str], dict[str, Any]]  # (class, title) -> inputs
Output = list[Any]  # node id, slot
Panels = list[tuple[str, Image.Image]]  # caption, picture


class Draft:
    """A demo workflow that is changed node by node; nodes are called by their titles.

    Args:
        name: of the workflow.
        saving: title of the one Save Image whose picture is wanted; None = all of them.
    """

    def __init__(self, name: str, saving: str | None = None) -> None:
        loaded = load_prompt(WORKFLOWS / "api" / f"{name}.json")
        unwanted = {"SaveImage", "MaskPreview"} if saving else set()
        self.prompt: Prompt = {
            node_id: node
            for node_id, node in loaded.items()
            if node["_meta"]["title"] == saving or node["class_type"] not in unwanted
        }

    def output(self, title: str, slot: int = 0) -> Output:
        """What another node's input is to be given, to be linked to this one."""
        return [id_of(self.prompt, title), slot]

    def add(self, title: str, class_type: str, **inputs: Any) -> Output:
        """A new node; its first output."""
        node_id = f"added {title}"
        self.prompt[node_id] = {"class_type": class_type, "inputs": inputs, "_meta": {"title": title}}
        return [node_id, 0]

    def copy(self, original: str, title: str, **inputs: Any) -> Output:
        """A new node like one that is there, but for some inputs."""
        node = self.prompt[id_of(self.prompt, original)]
        return self.add(title, node["class_type"], **{**node["inputs"], **inputs})

    def give(self, title: str, **inputs: Any) -> None:
        """Give a node inputs, those too that nothing was connected to."""
        self.prompt[id_of(self.prompt, title)]["inputs"] |= inputs

    def show(self, title: str, slot: int = 0, preview: str = "PreviewImage") -> None:
        """Show an output; see `Shown` for its title."""
        also_show(self.prompt, title, slot, preview)


class Studio:
    """A server, its URL, the folder of its files, and what its nodes showed."""

    def __init__(self, url: str, folder: Path) -> None:
        self._client = Client(url)
        self.url, self.folder = url, folder

    def run(self, name: str, changes: Changes | None = None, without: tuple[str, str, str] | None = None) -> Shown:
        """Run a demo workflow with other inputs, or without one link (class, title, input)."""
        prompt = load_prompt(WORKFLOWS / "api" / f"{name}.json")
        for (class_type, title), values in (changes or {}).items():
            set_inputs(the_node(prompt, class_type, title), **values)
        if without is not None:
            del the_node(prompt, *without[:2])["inputs"][without[2]]
        return self._run_with_previews(prompt)

    def make(self, draft: Draft) -> Shown:
        """Run a draft as it is now."""
        prompt = copy.deepcopy(draft.prompt)
        return Shown(self._client, prompt, self._client.run(prompt))

    @cached_property
    def formats(self) -> Shown:
        """The demo's ads in three formats, and one of them brought to its size by the node for it."""
        draft = Draft("demo_formats")
        inputs = {"image": draft.output("Decode 4:5"), "canvas": draft.output("Canvas 4:5", 3)}
        draft.add("Finish 4:5", "PFVAdCanvasFinish", **inputs)
        draft.copy("Product region 4:5", "Grown region 4:5", grow=8, softness=8)
        return self._run_with_previews(draft.prompt)

    @cached_property
    def full(self) -> Shown:
        """The demo's whole workflow as it is shipped."""
        return self.run("demo_full")

    def _run_with_previews(self, prompt: Prompt) -> Shown:
        titles = {node["_meta"]["title"] for node in prompt.values()}
        for title, slot, preview in ALSO_SHOWN:
            if title in titles:
                also_show(prompt, title, slot, preview)
        return Shown(self._client, prompt, self._client.run(prompt))


class Shown:
    """What the nodes of one run showed, by title; an output that was shown besides is called `TITLE SLOT`."""

    def __init__(self, client: Client, prompt: Prompt, outputs: dict[str, Any]) -> None:
        self._client, self._prompt, self._outputs = client, prompt, outputs

    def __getitem__(self, title: str) -> Image.Image:
        return self._image(id_of(self._prompt, title))

    def output(self, title: str) -> dict[str, Any]:
        """All that a node left for the page."""
        return dict(self._outputs[id_of(self._prompt, title)])

    def saved(self) -> list[Image.Image]:
        """What Save Image nodes saved."""
        return [self._image(node_id) for node_id, node in self._prompt.items() if node["class_type"] == "SaveImage"]

    def _image(self, node_id: str) -> Image.Image:
        first = saved_images({node_id: self._outputs[node_id]})[0]
        with TemporaryDirectory() as folder:
            file = self._client.download(first, Path(folder) / "shown.png")
            return Image.open(file).convert("RGB")  # closes the file


def id_of(prompt: Prompt, title: str) -> str:
    """Of the one node with this title."""
    (node_id,) = (node_id for node_id, node in prompt.items() if node["_meta"]["title"] == title)
    return node_id


def also_show(prompt: Prompt, title: str, slot: int, preview: str) -> None:
    """Put a preview, titled `TITLE SLOT`, behind an output of a node that shows nothing itself."""
    node_id = id_of(prompt, title)
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
