"""The prepared command for a machine with a GPU: every part of it runs through, on tiny sizes without one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

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


def command(*options, **environment):
    """What the command prints and returns, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.cuda", *options],
        cwd=PACK_ROOT,
        env={**os.environ, "COMFYUI_PATH": str(require_host().path), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_every_part_runs_through(tmp_path):
    """In under a minute on a machine that does nothing else."""
    page = tmp_path / "cuda.md"
    done = command("--device", "cpu", "--quick", "--out", str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text()
    assert [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")] == list(TITLES)
    assert "Not measured" not in text
    for section in text.split("### ")[1:]:
        if section.startswith(UNTIMED):
            assert "**no**" not in section
    assert text in done.stdout


def test_what_there_is_no_time_for_is_named(tmp_path):
    """A part that is cut off in its middle, and one that is not begun; what was measured before them is kept."""
    page = tmp_path / "cuda.md"
    done = command("--device", "cpu", "--quick", "--only", "exact,step", "--budget", "0.5", "--out", str(page))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "* exact: stopped after " in page.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cpu"], "on a CPU the full sizes take hours: add --quick"),
        (["--only", "step,lunch"], "unknown parts ['lunch']"),
        ([], "torch sees no CUDA device: run this where there is one, or with --device cpu --quick"),
    ],
)
def test_what_cannot_be_run_is_said(options, message):
    done = command(*options, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert message in done.stderr
