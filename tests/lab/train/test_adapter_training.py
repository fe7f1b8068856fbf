"""What a training step changes, what a run leaves behind, and what it refuses."""

from __future__ import annotations

import dataclasses
import errno
import json

import pytest
import torch
from PIL import Image

from lab.files import NotWrittenError
from lab.train import adapter_training
from lab.train.config import ConfigError
from lab.train.data import DataError, held_out
from lab.train.image_files import open_dataset
from pfv_core.adapter.checkpoint import load_adapter, read_tensors

from .made_images import write_images
from .tiny_models import SIZE, Squares, tiny_models
from .tiny_runs import ADAPTER, loss_of, state


@pytest.fixture
def start(tmp_path):
    """A run in a folder of its own."""
    return ADAPTER.starter(tmp_path)


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


def test_files_of_a_run(start):
    training = start(validate_every=3)
    folder = training.folder
    assert training.train() == folder / "adapter.safetensors"
    assert [found.name for found in sorted((folder / "checkpoints").iterdir())] == [
        "adapter_00000002.safetensors",
        "adapter_00000004.safetensors",
    ]
    lines = [json.loads(line) for line in (folder / "validation" / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["loss_without_image"] == lines[1]["loss_without_image"]
    assert lines[0]["loss_with_image"] != lines[1]["loss_with_image"]
    with Image.open(folder / "validation" / "00000006.png") as sheet:
        assert sheet.size == (5 * (SIZE + 8), 2 * (SIZE + 8))


def test_file_is_the_averaged_adapter(start):
    training = start()
    file = training.train()
    loaded = load_adapter(file)
    assert loaded.config.base == "sdxl"
    assert loaded.config.kind.value == "eq3"
    live = list(training.adapter.parameters())
    assert any(not torch.equal(value, own) for value, own in zip(loaded.parameters(), live, strict=True))
    for value, average in zip(loaded.parameters(), training.loop.average.shadow_params, strict=True):
        assert torch.equal(value, average)
    metadata = read_tensors(file)[1]
    assert (metadata["format"], metadata["preset"], metadata["step"]) == ("mepa", "sdxl", "6")


def test_half_precision_file(start):
    file = start(save_precision="fp16").train()
    assert {tensor.dtype for tensor in read_tensors(file)[0].values()} == {torch.float16}
    load_adapter(file)


def test_full_disk(start, tmp_path, monkeypatch):
    """The state and the adapter of the last good save survive; with space again the run ends as if nothing was."""
    expected = start(name="expected").train()
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
        start().train()
    monkeypatch.undo()
    assert torch.load(folder / "state.pt", weights_only=True)["step"] == 4
    assert not [file for file in folder.iterdir() if file.name.startswith(".")]
    file = start().train()
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


def test_skipped_images_are_reported(start, tmp_path, capsys):
    folder = write_images(tmp_path / "images", count=8)
    dataset = open_dataset(folder, SIZE)
    assert 6 not in held_out(8, 2, seed=0)
    (folder / "image6.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"image6.jpg"):
        start(dataset=dataset, name="strict").train()
    start(dataset=dataset, broken_images="skip").train()
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
