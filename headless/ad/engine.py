"""What makes an ad from a workflow and its pictures: ComfyUI over its API, or diffusers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from ..host.find import PACK_ROOT
from ..host.start import RunningHost, running_host
from ..host.torch_stand_ins import apply_where_needed
from ..server.blocking import Client, saved_images
from ..server.client import Prompt
from .pictures import Pictures
from .plan import Plan


class Engine(Protocol):
    """Runs the full workflow."""

    def run(self, workflow: Prompt, pictures: Pictures, file: Path) -> Path:
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

    def run(self, workflow: Prompt, pictures: Pictures, file: Path) -> Path:
        """Upload the pictures, run, and fetch the saved image."""
        for name, picture in pictures.items():
            self._client.upload_image(picture, name)
        outputs = self._client.run(workflow)
        return self._client.download(saved_images(outputs)[0], file)


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


def _say_what_runs(server: RunningHost) -> None:
    where = "an accelerator" if server.torch.accelerator else "the CPU"
    print(f"server: {server.url}, torch {server.torch.version} on {where}")
    for stand_in in server.torch.stand_ins:
        print(f"        {stand_in}")
    sys.stdout.flush()
