"""What a training step changes, what a run leaves behind, and what it refuses."""

from __future__ import annotations

import dataclasses
import errno
import json

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from lab.files import NotWrittenError
from lab.train import adapter_training
from lab.train.adapter_training import AdapterTraining, train_adapter
from lab.train.config import ConfigError
from lab.train.data import DataError, held_out
from lab.train.image_files import open_dataset
from lab.train.loop import TrainingStateError
from pfv_core.adapter.checkpoint import load_adapter, read_tensors

from .made_images import write_images
from .tiny_models import SIZE, Squares, tiny_config, tiny_models


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


@pytest.fixture
def start(tmp_path, accelerator):
    """A run in a folder of its own."""

    def start(models=None, dataset=None, name="run", **changes):
        folder = tmp_path / name
        return AdapterTraining(
            models or tiny_models(), dataset or Squares(), tiny_config(**changes), accelerator, folder
        )

    return start


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def loss_of(training, batch):
    return float(training.loss(batch).detach())


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "losses.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["linear", "eq3", "resampler"])
def test_only_the_adapter_learns(start, kind):
    sizes = {
        "linear": {"latent_width": 0},
        "eq3": {},
        "resampler": {"inner_width": 64, "depth": 1, "feedforward": 8},
    }
    models = tiny_models()
    unet, vision = state(models.unet), state(models.vision)
    training = start(models, kind=kind, steps=3, **sizes[kind])
    before = state(training.adapter)
    training.run()
    after = state(training.adapter)
    assert all(not torch.equal(before[name], after[name]) for name in before), "every part of the adapter learns"
    for frozen, module in ((unet, models.unet), (vision, models.vision)):
        assert all(torch.equal(frozen[name], value) for name, value in module.state_dict().items())
        assert all(parameter.grad is None for parameter in module.parameters())


def test_starts_from_the_text(start):
    """`to_k_ip`, `to_v_ip` begin as copies of the U-Net's own text projections."""
    training = start()
    unet = dict(training.models.unet.named_parameters())
    copied = [value for name, value in unet.items() if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    for parameter in training.adapter.ip_adapter.parameters():
        assert any(torch.equal(parameter, value) for value in copied)
        assert not any(parameter is value for value in copied)


def test_loss_falls(start):
    """The image prompt tells the colours, the captions do not."""
    training = start(
        steps=60, learning_rate=1e-2, drop_image_share=0, mask_share=0, region_share_unmasked=0, batch_size=8
    )
    batch = training.batches[0]
    before = loss_of(training, batch)
    training.run()
    assert loss_of(training, batch) < before - 0.02


def test_unet_is_left_untouched(start):
    """After a run no image prompt is in the U-Net."""
    models = tiny_models()
    processors = dict(models.unet.attn_processors)
    start(models, steps=2).run()
    assert models.unet.attn_processors == processors


def gradients(training):
    training.loss(training.batches[0]).backward()
    return [parameter.grad.clone() for parameter in training.adapter.parameters()]


def test_gradient_checkpointing_changes_nothing(start):
    """The recomputed forward pass still has the image prompts in it."""
    plain, recomputed = (gradients(start(name=str(on), gradient_checkpointing=on)) for on in (False, True))
    for one, other in zip(plain, recomputed, strict=True):
        assert float(one.abs().max()) > 0
        torch.testing.assert_close(one, other)


def test_accumulation_is_a_larger_batch(start):
    """With one gate and no step between them, two halves are the whole."""
    together = {"gates": "output=1", "steps": 2, "ema_decay": 0}
    whole, halves = start(name="whole", batch_size=8, **together), start(name="halves", accumulate=2, **together)
    for training in (whole, halves):
        training.run()
    for one, other in zip(whole.adapter.parameters(), halves.adapter.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_hidden_parts_have_no_influence(start, mode):
    """The image encoder's side of a step: whatever is painted under the hidden square, features are the same bits."""

    class Painted(Squares):
        def sample(self, index, generator):
            sample = super().sample(index, generator)
            return dataclasses.replace(
                sample, image=torch.where(sample.product_mask > 0, 1 - sample.image, sample.image)
            )

    def features(dataset, **settings):
        training = start(dataset=dataset, drop_image_share=0, drop_both_share=0, hide_mode=mode, **settings)
        return training.features(training.batches[0])

    hidden = {"mask_share": 1, "hide_kinds": "dataset=1"}
    for one, other in zip(features(Squares(), **hidden), features(Painted(), **hidden), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(features(Squares(), mask_share=0)[0], features(Painted(), mask_share=0)[0])


def test_text_only_has_the_negative_prompt(start):
    training = start(drop_image_share=1, drop_text_share=0, drop_both_share=0)
    batch = training.batches[0]
    prompts = training.loop.unwrapped("adapter").image_prompt(training.features(batch))
    zeros = torch.zeros(1, SIZE // 8 * SIZE // 8 + 1, 16)
    assert training.features(batch)[0].shape == zeros.shape[1:]
    assert torch.equal(training.features(batch)[0], training.references.uncond[0])
    assert torch.equal(prompts, prompts[:1].expand_as(prompts))
    other = dataclasses.replace(batch, image=1 - batch.image, latents=training.latents(batch))
    same = dataclasses.replace(batch, latents=training.latents(batch))
    assert loss_of(training, other) == loss_of(training, same)


@pytest.mark.parametrize("part", ["pixels", "region", "text_share", "gate"])
def test_every_part_of_a_batch_counts(start, part):
    training = start(drop_image_share=0, mask_share=0, region_share_unmasked=1, region_kinds="half_plane=1")
    for parameter in training.adapter.parameters():
        torch.nn.init.normal_(parameter)
    batch = training.batches[0]
    gates = {"query": "output", "output": "query"}
    other = {
        "pixels": -batch.pixels,
        "region": 1 - batch.region,
        "text_share": 1 - batch.text_share,
        "gate": type(batch.gate)(gates[batch.gate.value]),
    }
    latents = training.latents(batch)
    changed = dataclasses.replace(batch, latents=latents, **{part: other[part]})
    assert loss_of(training, changed) != loss_of(training, batch)


def test_given_latents_are_used(start):
    training = start()
    batch = training.batches[0]
    given = torch.randn(4, 4, SIZE // 8, SIZE // 8)
    assert torch.equal(training.latents(dataclasses.replace(batch, latents=given)), given)


@pytest.mark.parametrize("hide_mode", ["drop", "zero"])
def test_cached_equals_uncached(start, tmp_path, hide_mode):
    plain = start(name="plain", steps=8, hide_mode=hide_mode)
    plain.run()
    folders = {"cache_latents": str(tmp_path / "cache"), "cache_tokens": str(tmp_path / "cache")}
    settings = {"steps": 8, "hide_mode": hide_mode, **folders}
    first = start(name="first", **settings)
    first.run()
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len([file for file in files if "latents-" in str(file)]) == len(Squares()) - 2  # held out
    assert len([file for file in files if "tokens-" in str(file)]) > len(Squares()) - 2

    def refuse(*_):
        raise AssertionError("everything is cached")

    second = start(dataclasses.replace(tiny_models(), encode_latents=refuse), name="second", **settings)
    second.run()
    for trained in zip(*(training.adapter.parameters() for training in (plain, first, second)), strict=True):
        torch.testing.assert_close(trained[0], trained[1], rtol=2e-3, atol=2e-5)  # tokens are kept in half precision
        assert torch.equal(trained[1], trained[2])


def test_damaged_cache_file_is_made_again(start, tmp_path):
    settings = {"steps": 1, "cache_latents": str(tmp_path), "cache_tokens": str(tmp_path / "other"), "ema_decay": 0}
    one = start(name="one", **settings)
    one.run()
    kept = [*tmp_path.glob("latents-*/*/*.safetensors"), *tmp_path.glob("other/tokens-*/*/*.safetensors")]
    assert len(kept) > 4
    for file in kept:
        file.write_bytes(file.read_bytes()[:20])
    two = start(name="two", **settings)
    two.run()
    for left, right in zip(one.adapter.parameters(), two.adapter.parameters(), strict=True):
        assert torch.equal(left, right)


def test_files_of_a_run(tmp_path, accelerator):
    config = tiny_config(validate_every=3)
    file = train_adapter(tiny_models(), Squares(), config, accelerator, tmp_path)
    assert file == tmp_path / "adapter.safetensors"
    assert [found.name for found in sorted((tmp_path / "checkpoints").iterdir())] == [
        "adapter_00000002.safetensors",
        "adapter_00000004.safetensors",
    ]
    assert len(losses(tmp_path)) == 6
    lines = [json.loads(line) for line in (tmp_path / "validation" / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["loss_without_image"] == lines[1]["loss_without_image"]
    assert lines[0]["loss_with_image"] != lines[1]["loss_with_image"]
    with Image.open(tmp_path / "validation" / "00000006.png") as sheet:
        assert sheet.size == (5 * (SIZE + 8), 2 * (SIZE + 8))


def test_validation_does_not_disturb(start):
    with_pictures, without = start(name="with", validate_every=2), start(name="without")
    with_pictures.run()
    without.run()
    for one, other in zip(with_pictures.adapter.parameters(), without.adapter.parameters(), strict=True):
        assert torch.equal(one, other)


def test_file_is_the_averaged_adapter(tmp_path, accelerator):
    file = train_adapter(tiny_models(), Squares(), tiny_config(), accelerator, tmp_path)
    training = AdapterTraining(tiny_models(), Squares(), tiny_config(), accelerator, tmp_path)
    loaded = load_adapter(file)
    assert loaded.config.base == "sdxl"
    assert loaded.config.kind.value == "eq3"
    live = list(training.adapter.parameters())
    assert any(not torch.equal(value, own) for value, own in zip(loaded.parameters(), live, strict=True))
    for value, average in zip(loaded.parameters(), training.loop.average.shadow_params, strict=True):
        assert torch.equal(value, average)
    metadata = read_tensors(file)[1]
    assert (metadata["format"], metadata["preset"], metadata["step"]) == ("mepa", "sdxl", "6")


def test_half_precision_file(tmp_path, accelerator):
    file = train_adapter(tiny_models(), Squares(), tiny_config(save_precision="fp16"), accelerator, tmp_path)
    assert {tensor.dtype for tensor in read_tensors(file)[0].values()} == {torch.float16}
    load_adapter(file)


def test_stop_and_go_on(tmp_path, accelerator):
    whole = train_adapter(tiny_models(), Squares(), tiny_config(), accelerator, tmp_path / "whole")
    for stop in (1, 4, None):
        file = train_adapter(tiny_models(), Squares(), tiny_config(), accelerator, tmp_path / "parts", stop_at=stop)
        if stop:
            assert file.name == f"adapter_{stop:08d}.safetensors"
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    one, other = read_tensors(whole)[0], read_tensors(file)[0]
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_full_disk(tmp_path, accelerator, monkeypatch):
    """The state and the adapter of the last good save survive; with space again the run ends as if nothing was."""
    config = tiny_config()
    expected = train_adapter(tiny_models(), Squares(), config, accelerator, tmp_path / "expected")
    folder = tmp_path / "run"
    save, writes = torch.save, []

    def full_at_third(state, file):
        writes.append(file)
        if len(writes) == 3:
            file.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, file)

    monkeypatch.setattr(torch, "save", full_at_third)
    with pytest.raises(NotWrittenError, match=r"cannot write .*state.pt: .*No space left.*is as it was before"):
        train_adapter(tiny_models(), Squares(), config, accelerator, folder)
    monkeypatch.undo()
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 4
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    file = train_adapter(tiny_models(), Squares(), config, accelerator, folder)
    one, other = read_tensors(expected)[0], read_tensors(file)[0]
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_full_disk_at_an_adapter_file(start, monkeypatch):
    training = start()
    file = training.folder / "adapter.safetensors"
    training.save(file)
    good = file.read_bytes()

    def full(path, *_):
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adapter_training, "save_adapter", full)
    with pytest.raises(NotWrittenError, match="No space left"):
        training.save(file)
    assert file.read_bytes() == good


def test_folder_of_another_preset(start):
    start(steps=2).run()
    with pytest.raises(
        TrainingStateError, match=r"belongs to another run, 2 steps .*: preset is 'sdxl' there and 'sd15' here"
    ):
        start(steps=2, preset="sd15")


def test_folder_of_other_data(start):
    start(steps=2).run()
    other = Squares(13)
    other.identity = "other squares"
    with pytest.raises(TrainingStateError, match="dataset is 'squares' there and 'other squares' here"):
        start(dataset=other, steps=2)


def test_models_of_another_base(start):
    with pytest.raises(ConfigError, match="the models are of base sdxl, the settings are for demo"):
        start(base="demo")


def test_another_precision(start):
    with pytest.raises(ConfigError, match="accelerator runs in precision no, the settings say bf16"):
        start(precision="bf16")


def test_start_from(start, tmp_path):
    first = start(name="first", steps=3)
    first.run()
    first.save(tmp_path / "good.safetensors")
    again = start(name="again", start_from=str(tmp_path / "good.safetensors"))
    for one, other in zip(again.adapter.parameters(), first.loop.average.shadow_params, strict=True):
        assert torch.equal(one, other)
        assert one.requires_grad


@pytest.mark.parametrize(
    ("models", "changes", "message"),
    [
        (tiny_models("demo"), {"base": "demo"}, "its base is sdxl, here it is demo"),
        (tiny_models(), {"num_tokens": 4}, "its num_tokens is 3, here it is 4"),
        (tiny_models(context=32), {}, "its context_dim is 16, here it is 32"),
    ],
)
def test_start_from_another_adapter(start, tmp_path, models, changes, message):
    start(name="first").save(tmp_path / "other.safetensors")
    with pytest.raises(ConfigError, match=message):
        start(models, start_from=str(tmp_path / "other.safetensors"), **changes)


def test_skipped_images_are_reported(tmp_path, accelerator, capsys):
    folder = write_images(tmp_path / "images", count=8)
    dataset = open_dataset(folder, SIZE)
    assert 6 not in held_out(8, 2, seed=0)
    (folder / "image6.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image6.jpg"):
        train_adapter(tiny_models(), dataset, tiny_config(), accelerator, tmp_path / "strict")
    config = tiny_config(broken_images="skip")
    train_adapter(tiny_models(), dataset, config, accelerator, tmp_path / "run")
    assert "1 broken samples were skipped" in capsys.readouterr().out
    assert "image6.jpg" in (tmp_path / "run" / "skipped_0.txt").read_text()


def test_prompts_of_mixed_lengths_keep_their_order(start):
    """Images that keep different numbers of patches are compressed in groups, and come back in their places."""
    prompts = start().loop.unwrapped("adapter")
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(length, 16, generator=generator) for length in (9, 5, 17, 9, 3, 5)]
    together = prompts.image_prompt(features)
    for alone, row in zip(features, together, strict=True):
        torch.testing.assert_close(prompts.image_prompt([alone])[0], row)
