"""A training's passes mix no devices and read nothing back: shown without a GPU, on torch's `meta`.

Frozen models and what is trained lie on the device, micro-batches in main memory, as they come from the loader.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

from lab.train.adapter_training import AdapterTraining
from lab.train.noise import NoiseSchedule
from tests.support.devices import Device, MixedDevicesError

from .tiny_models import tiny_models
from .tiny_runs import METHODS

META = torch.device("meta")


@pytest.fixture(params=METHODS)
def training(request, tmp_path, monkeypatch):
    """A run that began in main memory, with all that a step finds on the device."""
    models = tiny_models()
    tiny_text = models.encode_text

    def encode_text(captions):
        return tuple(found.to(META) for found in tiny_text(captions))

    def encode_latents(image):
        return image.new_empty(len(image), 4, image.shape[2] // 8, image.shape[3] // 8)

    there = replace(models, encode_text=encode_text, encode_latents=encode_latents)
    training = METHODS[request.param].starter(tmp_path)(there)
    for module in (models.unet, models.vision, training.module):
        module.to(META)
    if isinstance(training, AdapterTraining):
        training.references.uncond = training.references.uncond.to(META)
    autocast = torch.autocast
    monkeypatch.setattr(
        torch, "autocast", lambda kind, **given: nullcontext() if kind == "meta" else autocast(kind, **given)
    )
    monkeypatch.setattr(Accelerator, "device", property(lambda _accelerator: META))
    return training


class Readable(Device):
    """A device of which all that is read back is zero."""

    def read(self, name, tensor):
        self.reads.append(name)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)


def step(training, device, batch):
    with device:
        loss = training.loss(batch)
        loss.backward()
    return loss


def test_forward_and_backward_read_nothing_back(training):
    batches = [training.batches[0], training.batches[1]]
    device = Device("meta", gradients=True)
    for batch in batches:
        assert step(training, device, batch).device == META
    assert device.reads == []
    assert device.copies
    trained = [parameter for parameter in training.module.parameters() if parameter.requires_grad]
    assert {parameter.grad.device for parameter in trained} == {META}


def test_a_validation_mixes_no_devices(training):
    validation = training.new_validation()
    with Readable("meta"):
        line = validation.run(training.module, 0)
    assert line["images"] == 2
    assert (training.folder / "validation" / "00000000.png").is_file()


def test_what_stays_behind_is_seen(training, monkeypatch):
    monkeypatch.setattr(NoiseSchedule, "noisy", lambda _schedule, clean, *_given: clean + torch.ones(clean.shape))
    with pytest.raises(MixedDevicesError, match="on cpu"):
        step(training, Device("meta", gradients=True), training.batches[0])
