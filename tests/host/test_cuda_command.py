"""The prepared command for a machine with a GPU: every part of it runs through, on tiny sizes without one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import cuda
from benchmarks.measure import Figure
from headless.host.find import PACK_ROOT, require_host

TITLES = (
    "Identities on the device",
    "Step time on the device",
    "Hook time on the device",
    "Waits for the device",
    "Memory on the device",
    "Applying an adapter, to the device",
    "TorchCompileModel on the device",
)
UNTIMED = ("Identities", "Waits", "TorchCompileModel")  # what they find must be so on any machine


def test_every_part_runs_through(tmp_path):
    """In a process of its own: it boots a host with sizes of its own."""
    page = tmp_path / "cuda.md"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cuda", "--device", "cpu", "--quick", "--out", str(page)],
        cwd=PACK_ROOT,
        env={**os.environ, "COMFYUI_PATH": str(require_host().path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")] == list(TITLES)
    assert "Not measured" not in text
    for section in text.split("### ")[1:]:
        if section.startswith(UNTIMED):
            assert "**no**" not in section
    assert text in done.stdout


def test_what_there_is_no_time_for_is_named(monkeypatch):
    """A part that is cut off in its middle, and one that is not begun; what was measured before them is kept."""
    measured = Figure("first", "First", "")
    parts = {"first": lambda bench: [measured], "long": lambda bench: time.sleep(60), "late": lambda bench: [measured]}
    monkeypatch.setattr(cuda, "PARTS", {name: (run, 9.0 if name == "late" else 0.0) for name, run in parts.items()})
    figures, missing = cuda.measure(SimpleNamespace(left=0.3, quick=False), tuple(parts))
    assert figures == [measured]
    assert missing == ["long: stopped after 0 s, the budget was spent", "late: left out, 0 s were left"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "on a CPU the full sizes take hours: add --quick"),
        (["--only", "step,lunch"], "unknown parts ['lunch']"),
        ([], "torch sees no CUDA device: run this where there is one, or with --device cpu --quick"),
    ],
)
def test_what_cannot_be_run_is_said(monkeypatch, capsys, options, message):
    monkeypatch.setattr(sys, "argv", ["benchmarks.cuda", *options])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    try:
        status = cuda.main()
    except SystemExit as refused:
        status = refused.code
    assert status == 2
    assert message in capsys.readouterr().err
