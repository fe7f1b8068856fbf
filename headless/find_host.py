"""Where ComfyUI lies on this machine. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parent.parent

DEFAULT_PLACE = Path("comfy") / "ComfyUI"  # below the home folder; where comfy-cli installs

HOW_TO_GET_HOST = (
    "no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py, "
    "or get it with `git clone https://github.com/comfyanonymous/ComfyUI ~/comfy/ComfyUI`"
)


class HostNotFoundError(RuntimeError):
    """There is no ComfyUI where one was looked for; the message says how to get one."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout.

    Attributes:
        path: the folder that holds ComfyUI's main.py.
        found_by: the route that led to it, in words.
        version: ComfyUI's own version string, or "unknown" in a checkout too old to carry one.
    """

    path: Path
    found_by: str
    version: str

    def __str__(self) -> str:
        return f"ComfyUI {self.version} at {self.path} ({self.found_by})"


def find_host(
    environ: Mapping[str, str] | None = None, pack_root: Path = PACK_ROOT, home: Path | None = None
) -> Host | None:
    """Look for ComfyUI in COMFYUI_PATH, around the pack itself, and in comfy-cli's default place, in this order.

    Args:
        environ: where COMFYUI_PATH is read; the process environment when None.
        pack_root: the folder of this pack; a host is assumed around it when it lies in `<host>/custom_nodes/`.
        home: the home folder; the user's own when None.

    Returns:
        The host, or None when there is none.

    Raises:
        HostNotFoundError: COMFYUI_PATH is set, but there is no ComfyUI there.
    """
    environ = os.environ if environ is None else environ
    if wanted := environ.get("COMFYUI_PATH"):
        return _wanted_host(Path(wanted).expanduser().absolute())
    if pack_root.parent.name == "custom_nodes" and _is_host(pack_root.parent.parent):
        return _host(pack_root.parent.parent, "the pack lies in its custom_nodes")
    default = (Path.home() if home is None else home) / DEFAULT_PLACE
    return _host(default, "the default place") if _is_host(default) else None


def require_host() -> Host:
    """`find_host`, for commands that cannot do without one.

    Raises:
        HostNotFoundError: there is no host; the message is one line that says how to get one.
    """
    host = find_host()
    if host is None:
        raise HostNotFoundError(HOW_TO_GET_HOST)
    return host


def _wanted_host(path: Path) -> Host:
    if not _is_host(path):
        raise HostNotFoundError(
            f"COMFYUI_PATH is {path}, but there is no main.py beside a comfy/ folder: "
            "set it to the folder of a ComfyUI checkout, or unset it"
        )
    return _host(path, "COMFYUI_PATH")


def _is_host(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "nodes.py").is_file() and (path / "comfy").is_dir()


def _host(path: Path, found_by: str) -> Host:
    return Host(path, found_by, _version(path / "comfyui_version.py"))


def _version(version_file: Path) -> str:
    text = version_file.read_text(encoding="utf-8") if version_file.is_file() else ""
    match = re.search(r'__version__ = "([^"]+)"', text)
    return match.group(1) if match else "unknown"
