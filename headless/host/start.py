"""A ComfyUI server in a child process, with folders of its own, that sees chosen packs and the user's models."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import torch_stand_ins
from .find import Host

START_SECONDS = 300  # a first start compiles the host's bytecode and may sit on a slow disk
STOP_SECONDS = 15
LOG_LINES_IN_ERRORS = 15

HOST_FOLDERS = ("models", "custom_nodes", "input", "output", "temp", "user")
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "out", "tests")


class HostStartError(RuntimeError):
    """ComfyUI did not come up; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class TorchBuild:
    """What the torch of some Python is: its version, whether ComfyUI can leave the CPU, and the stand-ins it needs."""

    version: str
    accelerator: bool
    stand_ins: tuple[str, ...]


@dataclass(frozen=True)
class RunningHost:
    """A server that answers.

    Attributes:
        url: where, without a trailing slash.
        torch: what it runs on.
        log: the file its output goes to.
        process: the child process.
    """

    url: str
    torch: TorchBuild
    log: Path
    process: subprocess.Popen[bytes]


@contextmanager
def running_host(
    host: Host,
    python: Path,
    base_directory: Path,
    packs: Sequence[Path],
    options: Sequence[str] = (),
    log_file: Path | None = None,
) -> Iterator[RunningHost]:
    """Start ComfyUI on a free loopback port, and stop it at the end of the `with` block.

    The server's input, output, temp and user folders, its custom_nodes and its first models folder lie in
    `base_directory`; the host's own folder is not written to, and its models are found after those.

    Args:
        host: the checkout to run.
        python: a Python that imports what it needs (`environment.python_for`).
        base_directory: the server's folder; made where absent.
        packs: the only custom node packs it loads, as folders; linked, or copied where links are not allowed.
        options: further options of ComfyUI's main.py.
        log_file: where its output goes; server.log in `base_directory` when None.

    Raises:
        HostStartError: the server ended, or did not answer in time.
    """
    for name in HOST_FOLDERS:
        (base_directory / name).mkdir(parents=True, exist_ok=True)
    for pack in packs:
        _show_pack(pack, base_directory / "custom_nodes" / pack.name)
    torch = probe_torch(python)
    port = _free_port()
    command = _command(host, python, torch, port, base_directory, [pack.name for pack in packs])
    log_file = log_file or base_directory / "server.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], cwd=host.path, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        running = RunningHost(f"http://127.0.0.1:{port}", torch, log_file, process)
        try:
            _wait_until_it_answers(running)
            yield running
        finally:
            _stop(process)


@cache  # a process that imports torch, each time; a Python's torch does not change under a command
def probe_torch(python: Path) -> TorchBuild:
    """What the torch of `python` is, asked in a process of its own, once."""
    command = [str(python), torch_stand_ins.__file__, "--probe"]
    result = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise HostStartError(f"{python} cannot import torch:\n{_last_lines(result.stderr)}")
    found = json.loads(result.stdout.splitlines()[-1])
    return TorchBuild(found["torch"], found["accelerator"], tuple(found["stand_ins"]))


def _show_pack(pack: Path, link: Path) -> None:
    if link.exists():
        return
    try:
        link.symlink_to(pack.resolve(), target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(pack, link, ignore=NOT_COPIED)


def _command(
    host: Host, python: Path, torch: TorchBuild, port: int, base_directory: Path, pack_names: Sequence[str]
) -> list[str]:
    # Unmodified main.py where nothing is missing: torch must not be imported before it sets up CUDA's allocator.
    through_stand_ins = [torch_stand_ins.__file__] if torch.stand_ins else []
    return [
        str(python),
        *through_stand_ins,
        str(host.path / "main.py"),
        *("--base-directory", str(base_directory)),
        *("--extra-model-paths-config", str(_write_model_paths(host, base_directory))),
        *("--port", str(port)),
        *("--database-url", "sqlite:///:memory:"),  # the default is a file in the checkout
        *("--disable-auto-launch", "--disable-api-nodes", "--disable-all-custom-nodes"),
        *(["--whitelist-custom-nodes", *pack_names] if pack_names else []),
        *([] if torch.accelerator else ["--cpu"]),
    ]


def _write_model_paths(host: Host, base_directory: Path) -> Path:
    """The host's own models folders as a list of extra ones; --base-directory would hide them. JSON is YAML."""
    models = host.path / "models"
    folders = {folder.name: str(folder) for folder in sorted(models.iterdir()) if folder.is_dir()}
    file = base_directory / "host_models.yaml"
    file.write_text(json.dumps({"host": folders}), encoding="utf-8")
    return file


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(running: RunningHost) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _answers(f"{running.url}/system_stats"):
        if running.process.poll() is not None:
            raise HostStartError(f"ComfyUI ended while starting:\n{_last_lines(_text(running.log))}")
        if time.monotonic() > deadline:
            raise HostStartError(f"ComfyUI did not answer in {START_SECONDS} s:\n{_last_lines(_text(running.log))}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _text(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")


def _last_lines(text: str) -> str:
    return os.linesep.join(text.strip().splitlines()[-LOG_LINES_IN_ERRORS:])
