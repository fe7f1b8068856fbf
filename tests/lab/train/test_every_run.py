"""What holds of a run whatever it trains."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lab.train.config import ConfigError
from lab.train.loop import TrainingStateError

from .tiny_models import tiny_models
from .tiny_runs import METHODS, STRICT_ID, losses, opened


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.fixture
def start(method, tmp_path):
    """A run in a folder of its own."""
    return method.starter(tmp_path)


def trained(training):
    return [parameter for parameter in training.module.parameters() if parameter.requires_grad]


def test_gradient_checkpointing_changes_nothing(method, start):
    """The recomputed forward passes still have all that was put into the U-Net in them."""

    def gradients(on):
        training = start(name=str(on), gradient_checkpointing=on, **method.every_part)
        if method is STRICT_ID:
            opened(training)
        training.loss(training.batches[0]).backward()
        return [parameter.grad.clone() for parameter in trained(training)]

    for one, other in zip(gradients(False), gradients(True), strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(one, other)


def test_accumulation_is_a_larger_batch(method, start):
    """Where no step lies between them two halves are the whole."""
    together = {"steps": 2, "ema_decay": 0, **method.every_part}
    whole, halves = start(name="whole", batch_size=8, **together), start(name="halves", accumulate=2, **together)
    for training in (whole, halves):
        training.run()
    for one, other in zip(trained(whole), trained(halves), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=3e-5)


def test_stop_and_go_on_gives_the_same_bits(method, start):
    name, whole = method.training.name, start(name="whole")
    file = whole.train()
    for stop, expected in ((1, f"{name}_00000001"), (4, f"{name}_00000004"), (None, name)):
        parts = start(name="parts")
        part = parts.train(stop)
        assert part.name == f"{expected}.safetensors"
    assert losses(whole) == losses(parts)
    assert len(losses(whole)) == 6
    one, other = load_file(file), load_file(part)
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[key]) for key, value in one.items())


OTHERS = {
    "adapter": ({"preset": "sd15"}, "preset is 'sdxl' there and 'sd15' here"),
    "refadgen": ({"mask_channel": False}, "mask_channel is True there and False here"),
    "strict_id": ({"gamma": 300}, "gamma is 400.0 there and 300.0 here"),
}


def test_the_folder_of_another_run_is_refused(method, start):
    start(steps=2).run()
    changes, message = OTHERS[method.training.name]
    with pytest.raises(TrainingStateError, match=f"belongs to another run, 2 steps .*: {message}"):
        start(steps=2, **changes)
    other = method.dataset()
    known, other.identity = other.identity, "others"
    with pytest.raises(TrainingStateError, match=f"dataset is '{known}' there and 'others' here"):
        start(dataset=other, steps=2)


def test_models_of_another_base_are_refused(start):
    with pytest.raises(ConfigError, match="the models are of base demo, the settings are for sdxl"):
        start(tiny_models("demo"))


def test_another_precision_is_refused(start):
    with pytest.raises(ConfigError, match="accelerator runs in precision no, the settings say bf16"):
        start(precision="bf16")


def test_validation_does_not_disturb(start):
    measured, plain = start(name="measured", validate_every=2), start(name="plain")
    for training in (measured, plain):
        training.run()
    for one, other in zip(trained(measured), trained(plain), strict=True):
        assert torch.equal(one, other)


def test_the_unet_is_left_as_it_was(start):
    """After a run nothing is in it."""
    models = tiny_models()
    weights = {name: value.clone() for name, value in models.unet.state_dict().items()}
    processors = dict(models.unet.attn_processors)
    start(models, steps=2).run()
    assert models.unet.attn_processors == processors
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in models.unet.modules())
    assert all(torch.equal(weights[name], value) for name, value in models.unet.state_dict().items())
    assert all(parameter.grad is None for parameter in models.unet.parameters())
