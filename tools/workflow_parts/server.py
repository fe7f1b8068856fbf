"""What a running ComfyUI with this pack says of its node classes, and what newer ones say of theirs.

The files are built on the oldest host, so that they open there. Of host nodes that came later NEWER_NODES holds the definition,
as the host that had them answered, without what a form does not need.
"""

from __future__ import annotations

import json
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headless.host.environment import python_for
from headless.host.find import PACK_ROOT, require_host
from headless.host.start import running_host

from .definitions import Json

NEWER_NODES = Path(__file__).with_name("newer_nodes.json")


@contextmanager
def object_info_of(server: str | None) -> Iterator[dict[str, Json]]:
    """The answer to /object_info of the ComfyUI at URL `server`, or of one that is started for it, and newer hosts' nodes."""
    if server is not None:
        yield _fetch(server)
        return
    host = require_host()
    with (
        tempfile.TemporaryDirectory() as base_directory,
        running_host(host, python_for(host), Path(base_directory), [PACK_ROOT]) as running,
    ):
        yield _fetch(running.url)


def _fetch(server: str) -> dict[str, Json]:
    with urllib.request.urlopen(f"{server.rstrip('/')}/object_info", timeout=60) as answer:
        object_info: dict[str, Json] = json.load(answer)
        return newer_nodes() | object_info


def newer_nodes() -> dict[str, Json]:
    """Entries of /object_info of the host nodes that the workflows use and the oldest host has not."""
    entries: dict[str, Json] = json.loads(NEWER_NODES.read_text(encoding="utf-8"))
    return entries
