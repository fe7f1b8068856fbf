"""Stub servers and the command as processes of their own, so that they can be killed; and what they left."""

from __future__ import annotations

import collections
import csv
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from headless.catalogue.workflow.input_kinds import InputKinds

ROOT = Path(__file__).resolve().parents[2]
KINDS = InputKinds(json.loads(Path(__file__).with_name("object_info.json").read_text(encoding="utf-8")))
STUB = Path(__file__).with_name("stub_server.py")
WORKFLOWS = ROOT / "workflows" / "api"
OWN = (
    "product_depth",
    "reference_depth",
)  # the workflow's own will do: a stub draws no depth, and the demo's product has it
SOFT_FAULTS = {
    "drop_request": 0.02,
    "drop_answer": 0.02,
    "error_500": 0.02,
    "torn_picture": 0.02,
    "bad_picture": 0.02,
    "drop_socket": 0.02,
}
"""Nothing that makes a server forget: no job may run twice for any of them."""

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


class StubProcess:
    """A stub server, as a context manager; killed and started again at will.

    Args:
        folder: its log and output go there.
        options: further options of the stub.
    """

    def __init__(self, folder: Path, faults: dict[str, float] | None = None, **options: Any) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / f"runs_{self.port}.txt"
        self._output = folder / f"stub_{self.port}.txt"
        self._command = [sys.executable, str(STUB), "--port", str(self.port), "--log", str(self.log)]
        self._command += ["--faults", json.dumps(faults or {})]
        for name, value in options.items():
            self._command += [f"--{name}", str(value)]

    def __enter__(self) -> StubProcess:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start with empty folders and an empty history; returns when it listens."""
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=output)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self) -> None:
        """As `kill -9`."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def fault(self, **faults: float) -> None:
        """Change the probabilities of faults."""
        request = urllib.request.Request(f"{self.url}/stub", json.dumps(faults).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            answer.read()

    def busy(self) -> dict[str, float]:
        """How many runs there were, in how many seconds, and of these in how many something ran."""
        with urllib.request.urlopen(f"{self.url}/stub", timeout=10) as answer:
            found: dict[str, float] = json.load(answer)
            return found

    def runs(self) -> list[str]:
        """Job of every run that began here, by the first half of its id."""
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [line.rpartition("/")[2] for line in lines]


def free_port() -> int:
    """A loopback port that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def draw_product(file: Path, size: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """A cut-out: an opaque ellipse on transparency, with a gradient so that every pixel counts."""
    image = Image.linear_gradient("L").resize(size).convert("RGB")
    image = Image.blend(image, Image.new("RGB", size, colour), 0.5)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((size[0] // 4, size[1] // 4, 3 * size[0] // 4, 3 * size[1] // 4), fill=255)
    image.putalpha(mask)
    image.save(file)


def write_catalogue(folder: Path, num_products: int, formats: Sequence[str], seeds: str) -> Path:
    """A CSV for workflows/api/full.json: products that are drawn, one for each format, and a reference."""
    folder.mkdir(parents=True, exist_ok=True)
    draw_product(folder / "reference.png", (64, 64), (10, 120, 200))
    with (folder / "catalogue.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "product", "reference", "prompt", "formats", "seeds"])
        for number in range(num_products):
            for text in formats:
                width, height = map(int, text.split("x"))
                draw_product(folder / f"p{number}_{text}.png", (width, height), (number % 256, 90, 40))
            row = [
                f"p{number}",
                f"p{number}_{{format}}.png",
                "reference.png",
                f"a cup, {number}",
                ";".join(formats),
                seeds,
            ]
            table.writerow(row)
    return folder / "catalogue.csv"


def command(catalogue: Path, out: Path, servers: Iterable[str], *options: str, workflow: str = "full") -> list[str]:
    """The command's line."""
    urls = [part for url in servers for part in ("--server", url)]
    line = [sys.executable, "-m", "headless.catalogue", str(catalogue), "--out", str(out), *urls]
    own = [part for column in OWN for part in ("--own", column)]
    return [*line, "--workflow", str(WORKFLOWS / f"{workflow}.json"), *own, *options]


def run(line: Sequence[str], timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run to the end, in a folder where nothing of this repository lies."""
    return subprocess.run(line, env=ENVIRONMENT, cwd="/", capture_output=True, text=True, timeout=timeout, check=False)


def run_and_kill(
    line: Sequence[str],
    out: Path,
    num_done: int,
    timeout: float = 120,
    look: Callable[[int], object] = lambda process_id: None,
) -> None:
    """Start, and kill with SIGKILL as soon as the manifest has so many lines; `look` is called just before."""
    process = subprocess.Popen(line, env=ENVIRONMENT, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + timeout
    while num_lines(out) < num_done:
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < deadline, f"{num_lines(out)} of {num_done} lines"
        time.sleep(0.01)
    look(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()


def num_lines(out: Path) -> int:
    """Whole lines of the manifest."""
    manifest = out / "manifest.jsonl"
    return manifest.read_bytes().count(b"\n") if manifest.is_file() else 0


def manifest(out: Path) -> list[dict[str, Any]]:
    """Every line."""
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_each_once(out: Path, num_products: int, formats: Sequence[str], seeds: range) -> list[dict[str, Any]]:
    """Every product x format x seed is in the ledger once, its picture is there with the bytes that the line names."""
    lines = manifest(out)
    found = collections.Counter((line["name"], "x".join(map(str, line["format"])), line["seed"]) for line in lines)
    wanted = {(f"p{number}", text, seed) for number in range(num_products) for text in formats for seed in seeds}
    assert set(found) == wanted
    assert set(found.values()) == {1}
    files = {file["file"]: file["sha256"] for line in lines for file in line["files"]}
    assert len(files) == len(wanted)
    on_disk = {f"ads/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest() for file in (out / "ads").iterdir()}
    assert on_disk == files
    assert not list((out / ".catalogue" / "partial").iterdir())
    return lines
