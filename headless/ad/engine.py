"""What makes an ad from a workflow and its pictures: ComfyUI over its API, or diffusers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from PIL import Image

from ..host.find import PACK_ROOT
from ..host.start import RunningHost, running_host
from ..host.torch_stand_ins import apply_where_needed
from ..server.blocking import Client, saved_images
from ..server.client import Prompt
from ..server.outcome import OUTPUT, Saved
from .made import Made
from .pictures import Pictures, opened
from .plan import Plan
from .workflow import possible_part, title_of


class Engine(Protocol):
    """Runs the workflow `ad`, or `demo_ad`."""

    def run(self, workflow: Prompt, pictures: Pictures, file: Path) -> Made:
        """Make the ad that `workflow` describes and write it to `file`, a PNG that carries the workflow.

        Raises:
            ValueError, ServerError: a picture or a setting that does not fit; the message says which.
        """


class ComfyEngine:
    """A running ComfyUI.

    Args:
        client: of it; closed by who made it.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, workflow: Prompt, pictures: Pictures, file: Path) -> Made:
        """Upload the pictures, run, and fetch the saved image and what the nodes showed.

        What the server's ComfyUI cannot run, because it has no such node or no such file, is left out where the pack has a way
        of its own, and said.
        """
        for name, picture in pictures.items():
            self._client.upload_image(picture, name)
        workflow, left_out = possible_part(workflow, self._descriptions(workflow))
        for line in left_out:
            print(f"left out: {line}", flush=True)
        outputs = self._client.run(workflow)
        images = saved_images(outputs)
        shown = {
            title_of(workflow[image.node_id]): self._picture(image)
            for image in reversed(images)  # the first picture of a node is the one that counts
            if image.type != OUTPUT and image.node_id in workflow
        }
        return Made(self._client.download(images[0], file), workflow, shown, _texts(workflow, outputs))

    def _descriptions(self, workflow: Prompt) -> dict[str, dict[str, Any]]:
        """Of the workflow's classes that the server has."""
        return {name: self._client.object_info(name) for name in {node["class_type"] for node in workflow.values()}}

    def _picture(self, image: Saved) -> Image.Image:
        with TemporaryDirectory(prefix="make-ad-") as folder:
            return opened(self._client.download(image, Path(folder) / "shown"))


@contextmanager
def engine_of(plan: Plan, log_file: Path, packs: Sequence[Path] = (PACK_ROOT,)) -> Iterator[Engine]:
    """The plan's engine, ready to run.

    Args:
        plan: says which.
        log_file: what a server of ComfyUI says goes there.
        packs: custom node packs of that server.
    """
    if plan.host is None:
        apply_where_needed()  # before diffusers is imported, which a torchvision that does not load breaks
        from .diffusers_engine import DiffusersEngine

        yield DiffusersEngine()
        return
    with (
        TemporaryDirectory(prefix="make-ad-") as folder,
        running_host(plan.host, Path(sys.executable), Path(folder), packs, log_file=log_file) as server,
        Client(server.url, report=lambda line: print(f"workflow: {line}", flush=True)) as client,
    ):
        _say_what_runs(server)
        yield ComfyEngine(client)


def _texts(workflow: Prompt, outputs: Mapping[str, Any]) -> dict[str, str]:
    """Title of a node -> what it showed as text, or as a line."""
    shown = {
        node_id: node.get("text") or node.get("pfv_line") for node_id, node in outputs.items() if node_id in workflow
    }
    return {title_of(workflow[node_id]): texts[0] for node_id, texts in shown.items() if texts}


def _say_what_runs(server: RunningHost) -> None:
    where = "an accelerator" if server.torch.accelerator else "the CPU"
    print(f"server: {server.url}, torch {server.torch.version} on {where}")
    for stand_in in server.torch.stand_ins:
        print(f"        {stand_in}")
    sys.stdout.flush()
