"""Runs in real processes: killed and started again, and two that share the work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from pfv_core.adapter.checkpoint import read_tensors

PROGRAM = str(Path(__file__).with_name("run_tiny.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def run(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, *command], env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]


def steps_done(folder: Path) -> int:
    file = folder / "losses.jsonl"
    return file.read_text().count("\n") if file.is_file() else 0


def run_until_killed(folder: Path, step: int, *settings: str) -> None:
    """Kill -9 once `step` steps are logged, wherever in the next one the process then is."""
    command = [sys.executable, PROGRAM, str(folder), "train", *settings]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and steps_done(folder) < step:
            time.sleep(0.002)
        time.sleep(random.random() * 0.05)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def state(folder: Path) -> dict[str, object]:
    return torch.load(folder / "state.pt", weights_only=True)


def test_killed_at_random_steps_gives_the_same_bits(tmp_path):
    """Weights, average, optimizer, losses and the finished file."""
    settings = ("steps=24", "save_every=3", "log_every=1", "accumulate=2", "batch_size=3")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(PROGRAM, str(whole), "train", *settings)
    kills = [random.choice((1, 2)), *sorted(random.sample(range(3, 22), 2))]  # the first one before any checkpoint
    for step in kills:
        run_until_killed(parts, step, *settings)
        assert not (parts / "adapter.safetensors").exists()
    run(PROGRAM, str(parts), "train", *settings)
    one, other = state(whole), state(parts)
    assert one["step"] == other["step"] == 24
    for name, value in one["modules"]["adapter"].items():
        assert torch.equal(value, other["modules"]["adapter"][name]), f"{name} after kills at {kills}"
    for left, right in zip(one["average"]["shadow_params"], other["average"]["shadow_params"], strict=True):
        assert torch.equal(left, right)
    for number, moments in one["optimizer"]["state"].items():
        assert torch.equal(moments["exp_avg_sq"], other["optimizer"]["state"][number]["exp_avg_sq"])
    finished = [read_tensors(folder / "adapter.safetensors") for folder in (whole, parts)]
    assert finished[0][1] == finished[1][1]
    assert all(torch.equal(tensor, finished[1][0][name]) for name, tensor in finished[0][0].items())
    logs = [[json.loads(line) for line in (f / "losses.jsonl").read_text().splitlines()] for f in (whole, parts)]
    assert [(line["step"], line["loss"]) for line in logs[0]] == [(line["step"], line["loss"]) for line in logs[1]]


def in_two_processes(*arguments: str) -> None:
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", PROGRAM, *arguments)


def test_two_processes_are_one_with_a_double_batch(tmp_path):
    """Gloo: gradients of the first step, those of two micro-batches through two modules, of RefAdGen's and
    Strictly-ID's first step, and the weights after three steps."""
    for name, batch_size in (("one", 4), ("two", 2)):
        (tmp_path / name).mkdir()
        arguments = (str(tmp_path / name), "compare", f"batch_size={batch_size}", "steps=3", "save_every=3")
        in_two_processes(*arguments) if name == "two" else run(PROGRAM, *arguments)
    one, two = (torch.load(tmp_path / name / "gradients.pt", weights_only=True) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for name, gradient in one["gradients"].items():
        assert float(gradient.abs().max()) > 0
        torch.testing.assert_close(gradient, two["gradients"][name], rtol=1e-4, atol=1e-7, msg=name)
    assert len(one["of_two"]) == 4
    for gradient, other in zip(one["of_two"], two["of_two"], strict=True):
        assert float(gradient.abs().max()) > 0.01
        torch.testing.assert_close(gradient, other, rtol=1e-5, atol=1e-7)
    for kind in ("of_refadgen", "of_strict_id"):
        for name, gradient in one[kind].items():
            assert float(gradient.abs().max()) > 0, name
            torch.testing.assert_close(gradient, two[kind][name], rtol=1e-3, atol=1e-6, msg=name)
    weights = [state(tmp_path / name)["modules"]["adapter"] for name in ("one", "two")]
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-5, msg=name)
