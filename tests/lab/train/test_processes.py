"""Runs in real processes: killed and started again, and two that share the work."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import torch

from pfv_core.adapter.checkpoint import read_tensors

from .tiny_runs import ADAPTER

PROGRAM = str(Path(__file__).with_name("run_tiny.py"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def statuses(*groups: list[dict[str, object]]) -> list[int]:
    """Exit statuses of jobs of `run_tiny.py`; those of a group run at the same time."""
    done = subprocess.run(
        [sys.executable, PROGRAM, json.dumps(groups)], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[int] = json.loads(done.stdout.splitlines()[-1])
    assert 1 not in found, done.stderr[-3000:]
    return found


def state(folder: Path) -> dict[str, object]:
    return torch.load(folder / "state.pt", weights_only=True)


def test_killed_at_random_steps_gives_the_same_bits(tmp_path):
    """Weights, average, optimizer, losses and the finished file; as in this process, which nobody kills."""
    settings = {"steps": "12", "save_every": "3", "log_every": "1", "accumulate": "2", "batch_size": "3"}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    ADAPTER.starter(tmp_path)(name="whole", **settings).train()
    kills = [random.choice((1, 2)), random.randrange(3, 9)]  # before any checkpoint, and after one
    job = {"folder": str(parts), "what": "train", "settings": settings}
    assert statuses(*([job | {"kill_at": step}] for step in (*kills, None))) == [-signal.SIGKILL, -signal.SIGKILL, 0]
    one, other = state(whole), state(parts)
    assert one["step"] == other["step"] == 12
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


def in_processes(number: int) -> list[dict[str, str]]:
    """What a launcher tells each of them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    told = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [told | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]


def test_two_processes_are_one_with_a_double_batch(tmp_path):
    """Gloo: gradients of the first step, those of two micro-batches through two modules, of RefAdGen's and
    Strictly-ID's first step, and the weights after three steps."""

    def job(name: str, batch_size: int, environment: dict[str, str]) -> dict[str, object]:
        (tmp_path / name).mkdir(exist_ok=True)
        settings = {"batch_size": str(batch_size), "steps": "3", "save_every": "3"}
        return {"folder": str(tmp_path / name), "what": "compare", "settings": settings, "environment": environment}

    assert statuses([job("one", 4, {})], [job("two", 2, told) for told in in_processes(2)]) == [0, 0, 0]
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
