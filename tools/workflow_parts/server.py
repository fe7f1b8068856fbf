"""What a running ComfyUI with this pack says of its node classes."""

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


@contextmanager
def object_info_of(server: str | None) -> Iterator[dict[str, Json]]:
    """The answer to /object_info of the ComfyUI at URL `server`, or of one that is started for it."""
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
        return object_info
