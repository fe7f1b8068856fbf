"""The clock of a training step, and a step that is taken apart by it."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from benchmarks import train_step
from benchmarks.random_models import TINY, random_models
from lab.train.adapter_training import AdapterTraining
from lab.train.config import preset


class Seconds:
    def __init__(self):
        self.now = 0.0

    def __call__(self, later=0.0):
        self.now += later
        return self.now


def test_a_part_is_counted_without_the_parts_inside_it(monkeypatch):
    now = Seconds()
    clock = train_step.Clock(torch.device("cpu"), now)

    class Network:
        def forward(self):
            now.now += 1
            self.regions()
            now.now += 2

        def regions(self):
            now.now += 4

    network = Network()
    clock.times(network, "forward", "forward")
    clock.times(Network, "regions", "regions")
    network.forward()
    assert not clock.seconds, "nothing is counted before it runs"
    clock.running = True
    for _ in range(2):
        network.forward()
        now.now += 8
    monkeypatch.setattr(Network, "forward", lambda network: 1 / 0 if now(16) else None)
    broken = Network()
    clock.times(broken, "forward", "forward")
    with pytest.raises(ZeroDivisionError):
        broken.forward()
    assert clock.seconds == {"forward": 2 * 3 + 16, "regions": 2 * 4}


def test_a_step_is_taken_apart(tmp_path, capsys, monkeypatch):
    """Every part of a step is there, whatever it takes, and they are the step."""
    monkeypatch.setattr(train_step.prompts.Passes, "_on", train_step.prompts.Passes._on)  # given back after the test
    config = preset("sdxl").replace(
        batch_size=1, image_size=64, latent_width=64, precision="no", workers=0, validate_every=0, validation_images=0
    )
    models = random_models(TINY, torch.float32, torch.device("cpu"))
    training = AdapterTraining(models, train_step.RandomImages(64), config, Accelerator(cpu=True), tmp_path)
    train_step.measure(training, config, rounds=1)
    lines = capsys.readouterr().out.splitlines()
    parts = {
        line[:32].strip(): float(line.split()[-2]) for line in lines if line.startswith("  ") and line.endswith("%")
    }
    assert parts.keys() == {
        *train_step.NETWORKS,
        train_step.ADAPTER,
        train_step.REGIONS,
        train_step.BATCH,
        train_step.REST,
    }
    assert sum(parts.values()) == pytest.approx(100, abs=0.1)
    assert all(parts[name] > 0 for name in train_step.NETWORKS)
    assert any(line.startswith("our own code: ") for line in lines)
