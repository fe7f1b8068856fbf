"""What holds of a run whatever it trains."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from lab.train.config import ConfigError
from lab.train.data import DataError
from lab.train.loop import TrainingStateError

from .test_loop import bfloat16 as bfloat16
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


def test_latents_are_encoded_in_the_precision_of_the_autoencoder(method, start, bfloat16):
    """SDXL's overflows in half precision: it is kept in float32, and no step computes it in less."""
    models, seen = tiny_models(), []

    def encode_latents(image):
        seen.append((image @ image.mT).dtype)  # what autocast makes of a product
        return models.encode_latents(image)

    training = start(dataclasses.replace(models, encode_latents=encode_latents), precision="bf16", accelerator=bfloat16)
    computed = []
    training.models.unet.conv_out.register_forward_hook(lambda module, given, out: computed.append(out.dtype))
    training.run(1)
    assert set(computed) == {torch.bfloat16}
    assert set(seen) == {torch.float32}
    assert len(seen) == (2 if method.training.name == "refadgen" else 1)


class Broken:
    """No sample can be read."""

    def __len__(self):
        return 4

    def sample(self, index, generator):
        raise DataError(f"sample {index} is broken")


def test_what_cannot_be_validated_with_is_said_before_the_first_step(start):
    training = start(shown=Broken(), validate_every=4)
    with pytest.raises(DataError, match="sample 0 is broken"):
        training.run()
    assert training.loop.step == 0
    start(name="skips", shown=Broken(), validate_every=0, steps=1).run()
