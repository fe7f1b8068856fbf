"""The start script of a cluster's worker, outside a container: a real ComfyUI and a real Dask worker beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copytree

import psutil
import pytest

from pfv_mepa.headless import cpu_torch_stand_ins
from pfv_mepa.headless.find_host import PACK_ROOT, require_host
from pfv_mepa.headless.pictures import DEMO_INPUTS
from pfv_mepa.tests.catalogue.harness import ENVIRONMENT, WORKFLOWS, dask, free_port, manifest, run
from pfv_mepa.tests.demo_weights import copy_pack

SCRIPT = PACK_ROOT / "containers" / "catalogue-worker.sh"
PYTHON = """#!/bin/sh
case "$1" in
    main.py) exec "{python}" "{stand_ins}" "$@" ;;
    *) exec "{python}" "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """ComfyUI's base directory with the pack, and a `python` that starts ComfyUI on a torch without CUDA."""
    base = tmp_path_factory.mktemp("worker")
    for name in ("models", "custom_nodes", "output", "temp", "user", "bin"):
        (base / name).mkdir()
    copytree(DEMO_INPUTS, base / "input")
    (base / "custom_nodes" / "pfv-mepa").symlink_to(copy_pack(base))
    python = base / "bin" / "python"
    python.write_text(PYTHON.format(python=sys.executable, stand_ins=cpu_torch_stand_ins.__file__))
    python.chmod(0o755)
    return base


@contextmanager
def worker(folder: Path, scheduler: str, port: int) -> Iterator[subprocess.Popen[str]]:
    """The script with the variables of its container."""
    options = ["--cpu", "--base-directory", str(folder), "--database-url", "sqlite:///:memory:", "--disable-api-nodes"]
    options += ["--disable-all-custom-nodes", "--whitelist-custom-nodes", "pfv-mepa"]
    environment = ENVIRONMENT | {
        "PATH": os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DASK_SCHEDULER": scheduler,
        "DASK_OPTIONS": f"--host 127.0.0.1 --local-directory {folder / 'dask'}",
        "MODELS": str(folder / "models"),
        "COMFYUI": str(require_host().path),
        "COMFYUI_PORT": str(port),
        "COMFYUI_OPTIONS": " ".join(options),
    }
    with (folder / "worker.log").open("w") as log:
        process = subprocess.Popen([str(SCRIPT)], env=environment, stdout=log, stderr=log, text=True)
        try:
            yield process
        finally:
            if process.poll() is None:
                for child in (*psutil.Process(process.pid).children(recursive=True), process):
                    child.kill()
                process.wait()


def wait_for(condition, process, log: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def programs(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """ComfyUI and Dask's worker among the script's own children."""
    found = {}
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            line = " ".join(child.cmdline())
            found |= {name: child for name, mark in (("comfyui", "main.py"), ("dask", "dask worker")) if mark in line}
    return found


def test_it_makes_the_ads_of_a_catalogue_and_ends_with_its_comfyui(folder, tmp_path):
    scheduler_port, port = free_port(), free_port()
    scheduler = f"tcp://127.0.0.1:{scheduler_port}"
    catalogue = tmp_path / "catalogue.jsonl"
    catalogue.write_text(json.dumps({"name": "bottle", "prompt": "a red bottle", "Sampler.steps": 2, "seeds": [1, 2]}))
    line = [sys.executable, "-m", "pfv_catalogue", str(catalogue), "--out", str(tmp_path / "out"), "--dask", scheduler]
    line += ["--workflow", str(WORKFLOWS / "demo_full.json")]
    log = folder / "worker.log"
    with dask("scheduler", "--port", str(scheduler_port)), worker(folder, scheduler, port) as process:
        wait_for(lambda: "dask" in programs(process), process, log)
        made = run(line)
        assert made.returncode == 0, f"{made.stderr}\n{log.read_text()}"
        lines = manifest(tmp_path / "out")
        assert sorted(found["seed"] for found in lines) == [1, 2]
        assert {found["server"] for found in lines} == {f"http://127.0.0.1:{port}"}
        assert {found["versions"]["comfyui"] for found in lines} == {require_host().version}
        listening = psutil.Process(programs(process)["comfyui"].pid).net_connections()
        assert {one.laddr.ip for one in listening if one.status == "LISTEN"} == {"127.0.0.1"}
        left = programs(process)["dask"]
        programs(process)["comfyui"].kill()
        assert process.wait(60) != 0
        left.wait(30)


def test_it_stops_both_when_it_is_stopped(folder):
    """As an engine stops a container: the signal goes to the script alone."""
    with worker(folder, "tcp://127.0.0.1:1", free_port()) as process:
        log = folder / "worker.log"
        wait_for(lambda: "dask" in programs(process), process, log)
        children = programs(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        psutil.wait_procs(children.values(), timeout=30)
        assert not any(child.is_running() for child in children.values())
