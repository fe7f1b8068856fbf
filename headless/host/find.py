"""Where ComfyUI lies on this machine. Standard library only."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

PACK_ROOT = Path(__file__).resolve().parents[2]

DEFAULT_PLACE = Path("comfy")  # below the home folder; comfy-cli installs into ComfyUI in it
UNKNOWN = "unknown"

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

    @property
    def release(self) -> tuple[int, ...]:
        """The numbers of the version, for comparing; none of an unknown one, which so comes before all others."""
        leading = re.match(r"\d+(\.\d+)*", self.version)
        return tuple(int(number) for number in leading[0].split(".")) if leading else ()

    def __str__(self) -> str:
        return f"ComfyUI {self.version} at {self.path} ({self.found_by})"


def find_host(
    environ: Mapping[str, str] | None = None, pack_root: Path = PACK_ROOT, home: Path | None = None
) -> Host | None:
    """Look for ComfyUI in COMFYUI_PATH, around the pack itself, and in the default place, in this order.

    Args:
        environ: where COMFYUI_PATH is read; the process environment when None.
        pack_root: the folder of this pack; a host is assumed around it when it lies in `<host>/custom_nodes/`.
        home: the home folder; the user's own when None.

    Returns:
        The host, of several in the default place the newest, or None when there is none.

    Raises:
        HostNotFoundError: COMFYUI_PATH is set, but there is no ComfyUI there.
    """
    environ = os.environ if environ is None else environ
    if wanted := environ.get("COMFYUI_PATH"):
        return host_at(Path(wanted), "COMFYUI_PATH")
    if pack_root.parent.name == "custom_nodes" and _is_host(pack_root.parent.parent):
        return _host(pack_root.parent.parent, "the pack lies in its custom_nodes")
    hosts = find_hosts(home)
    return replace(hosts[0], found_by=f"the newest {hosts[0].found_by}") if hosts else None


def find_hosts(home: Path | None = None) -> list[Host]:
    """Every ComfyUI directly in the default place, `comfy` in the home folder: the newest first, unknown versions last."""
    place = (Path.home() if home is None else home) / DEFAULT_PLACE
    hosts = [_host(path, f"in {place}") for path in sorted(place.glob("*")) if _is_host(path)]
    return sorted(hosts, key=lambda host: host.release, reverse=True)


def host_at(path: Path, found_by: str) -> Host:
    """The ComfyUI in a folder that somebody named.

    Raises:
        HostNotFoundError: there is none; the message begins with `found_by`, which says where the folder was named.
    """
    path = path.expanduser().absolute()
    if not _is_host(path):
        raise HostNotFoundError(
            f"{found_by} is {path}, but there is no main.py beside a comfy/ folder: "
            "give it the folder of a ComfyUI checkout, or leave it out"
        )
    return _host(path, found_by)


def require_host() -> Host:
    """`find_host`, for commands that cannot do without one.

    Raises:
        HostNotFoundError: there is no host; the message is one line that says how to get one.
    """
    host = find_host()
    if host is None:
        raise HostNotFoundError(HOW_TO_GET_HOST)
    return host


def _is_host(path: Path) -> bool:
    return (path / "main.py").is_file() and (path / "nodes.py").is_file() and (path / "comfy").is_dir()


def _host(path: Path, found_by: str) -> Host:
    return Host(path, found_by, _version(path / "comfyui_version.py"))


def _version(version_file: Path) -> str:
    text = version_file.read_text(encoding="utf-8") if version_file.is_file() else ""
    match = re.search(r'__version__ = "([^"]+)"', text)
    return match.group(1) if match else UNKNOWN
