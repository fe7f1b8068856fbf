"""RefAdGen: what a training step changes, what a run leaves behind, and which triplets it refuses."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from PIL import Image

from lab.diffusers.fusion import fused
from lab.machine import machine
from lab.train.config import ConfigError, preset
from lab.train.data import DataError
from lab.train.refadgen_training import readings
from pfv_core.attention.fusion import Combine, FusionControl
from pfv_core.research.mask_input import load_mask_input
from pfv_core.research.refadgen import FUSION, REFERENCE, open_refadgen

from .tiny_models import SIZE, Changed, Products, tiny_models
from .tiny_runs import REFADGEN, loss_of, state


@pytest.fixture
def start(tmp_path):
    """A run in a folder of its own."""
    return REFADGEN.starter(tmp_path)


def test_table_2_of_the_paper():
    """Number by number; the rate falls linearly to 0 from the end of the warmup."""
    for base in ("sd15", "sdxl"):
        config = preset(f"refadgen_{base}")
        assert (config.base, config.batch_size, config.weight_decay, config.noise_offset) == (base, 3, 0.01, 0.05)
        assert config.schedule.rate(499) == config.schedule.rate(500) == 1e-5
        assert config.schedule.rate(0) == 1e-5 / 500
        assert config.schedule.rate(360_250) == pytest.approx(0.5e-5, rel=1e-6)
        assert config.schedule.rate(720_000) == pytest.approx(0.0, abs=1e-12)
        assert config.steps == 8 * 600_000 * 9 // 10 // (3 * 2)
        assert config.augment_share == pytest.approx(5 / 6)
        assert config.ema_decay == 0.0


def test_the_generation_unet_stays_and_all_that_is_read_learns(start):
    models = tiny_models()
    before, training = state(models.unet), start(models, steps=3, drop_text_share=0.5)
    trained = {name for name, value in training.module.named_parameters() if value.requires_grad}
    first = state(training.module)
    training.run()
    after = state(training.module)
    assert all(torch.equal(before[name], value) for name, value in models.unet.state_dict().items())
    assert all(parameter.grad is None for parameter in models.unet.parameters())
    assert {name for name in first if not torch.equal(first[name], after[name])} == trained
    left = {name for name in first if name not in trained}
    assert left
    assert all(
        name.startswith(("reference.up_blocks", "reference.conv_norm_out", "reference.conv_out")) for name in left
    )


def test_everything_begins_as_the_base(start):
    """Keys, values and the reference U-Net are the frozen one's, the mask's channel is zeros."""
    training = start()
    unet, module = state(training.models.unet), training.module
    assert all(torch.equal(unet[name], value) for name, value in module.reference.state_dict().items())
    for name, to_k, to_v in zip(module.names, module.to_k, module.to_v, strict=True):
        assert torch.equal(to_k.weight, unet[f"{name}.to_k.weight"])
        assert torch.equal(to_v.weight, unet[f"{name}.to_v.weight"])
    assert not module.mask_kernel.any()
    assert not any(parameter is own for parameter in module.parameters() for own in training.models.unet.parameters())


@torch.no_grad()
def seen(training, batch, scale=1.0, share=True):
    """The generation U-Net's prediction for a batch."""
    models = training.models
    context, pooled = models.encode_text(batch.captions)
    noisy = torch.randn(len(context), 4, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(1))
    added = {"text_embeds": pooled, "time_ids": batch.time_ids}
    conditions = {"encoder_hidden_states": context, "added_cond_kwargs": added}

    def predicted():
        return models.unet(noisy, torch.full((len(context),), 400), **conditions).sample

    if scale is None:
        return predicted()
    latents = training.encoded(batch.product, batch.product_keys)
    reading = readings(models, training.noise, latents, batch.image)
    keys_values, added_share = training.module(*reading, batch.latent_mask)
    with fused(models.unet, keys_values, FusionControl(scale), added_share if share else None):
        return predicted()


def test_lambda_0_and_a_channel_of_zeros_are_the_base_to_the_bit(start):
    training = start()
    batch = training.batches[0]
    assert torch.equal(seen(training, batch, 0.0), seen(training, batch, None))
    assert torch.equal(seen(training, batch, 1.0), seen(training, batch, 1.0, share=False))
    assert not torch.equal(seen(training, batch, 1.0), seen(training, batch, None))


@pytest.mark.parametrize("part", ["product", "latent_mask"])
def test_every_part_of_a_batch_counts(start, part):
    training = start()
    torch.nn.init.normal_(training.module.mask_kernel)
    batch = training.batches[0]
    changed = dataclasses.replace(batch, latents=training.latents(batch), **{part: 1 - getattr(batch, part)})
    assert loss_of(training, changed) != loss_of(training, batch)


def test_without_the_mask_channel_the_mask_counts_for_nothing(start, tmp_path):
    training = start(mask_channel=False)
    batch = training.batches[0]
    assert loss_of(training, dataclasses.replace(batch, latent_mask=1 - batch.latent_mask)) == loss_of(training, batch)
    training.save(tmp_path / "file.safetensors")
    with pytest.raises(ValueError, match="holds no mask input"):
        load_mask_input(tmp_path / "file.safetensors")


def test_the_product_s_part_of_the_picture_may_count_more(start):
    """The weighted mean of the errors there and elsewhere; of a mask that is nowhere, or everywhere, the plain one."""
    batch = start(name="batch").batches[0]
    plain, weighed = (start(name=f"of {weight}", product_weight=weight) for weight in (1.0, 4.0))
    latents = plain.latents(batch)

    for training in (plain, weighed):
        torch.nn.init.zeros_(training.module.mask_kernel)
    mask = torch.zeros_like(batch.latent_mask)
    mask[:, :1] = 1
    shown = [dataclasses.replace(batch, latents=latents, latent_mask=one) for one in (mask, 0 * mask, 0 * mask + 1)]
    ours, theirs = ([loss_of(training, one) for one in shown] for training in (weighed, plain))
    assert theirs[0] == theirs[1] == theirs[2]
    assert ours[1] == pytest.approx(theirs[1], rel=1e-6)
    assert ours[2] == pytest.approx(theirs[2], rel=1e-6)
    assert ours[0] != pytest.approx(theirs[0], rel=1e-3)
    with pytest.raises(ConfigError, match=r"product_weight is 0: input should be greater than 0"):
        start(product_weight=0)


def test_loss_falls(start):
    """The product picture tells its colour, the captions do not."""
    training = start(steps=40, learning_rate=1e-2, drop_text_share=0, augment_share=0, batch_size=8)
    batch = training.batches[0]
    before = loss_of(training, batch)
    training.run()
    after = loss_of(training, batch)
    assert after < before - 0.02
    assert loss_of(training, dataclasses.replace(batch, product=batch.product.roll(1, 0))) > after


def test_cached_equals_uncached(start, tmp_path):
    plain = start(name="plain", augment_share=0)
    plain.run()
    settings = {"cache_latents": str(tmp_path / "cache"), "augment_share": 0}
    start(name="first", **settings).run()
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2 * (len(Products()) - 2)  # ad and product each

    def refuse(*_):
        raise AssertionError("everything is cached")

    second = start(dataclasses.replace(tiny_models(), encode_latents=refuse), name="second", **settings)
    second.run()
    for one, other in zip(plain.module.parameters(), second.module.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=2e-5)  # what is to be cached is encoded one by one


def test_files_of_a_run(start, tmp_path):
    file = start(validate_every=3, licence="CC-BY-4.0").train()
    found = open_refadgen(file)
    assert (found.base, found.context_dim, found.combine) == ("sdxl", 16, Combine.ADD)
    told = {
        name: found.metadata[name]
        for name in ("format", "licence", "preset", "step", "reference_noise", "reference_prompt")
    }
    assert told == {
        "format": "refadgen",
        "licence": "CC-BY-4.0",
        "preset": "refadgen_sdxl",
        "step": "6",
        "reference_noise": "clean",
        "reference_prompt": "",
    }
    assert found.metadata["machine"] == machine(torch.device("cpu"))
    names = {name for name, _ in tiny_models().unet.named_parameters()}
    assert found.weights(REFERENCE).keys() == names
    assert found.weights(FUSION).keys() == {name for name in names if ".attn1.to_k" in name or ".attn1.to_v" in name}
    assert load_mask_input(file).kernel.any()
    lines = [json.loads(line) for line in (tmp_path / "run/validation/validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    assert lines[0]["loss_without_product"] == lines[1]["loss_without_product"]
    assert lines[0]["loss_with_product"] != lines[1]["loss_with_product"]
    with Image.open(tmp_path / "run/validation/00000006.png") as sheet:
        assert sheet.size == (4 * (SIZE + 8), 2 * (SIZE + 8))


def test_the_file_is_the_averaged_one(start):
    training = start(ema_decay=0.9)
    found = open_refadgen(training.train()).weights(FUSION)
    names = [name for name, parameter in training.module.named_parameters() if parameter.requires_grad]
    average = dict(zip(names, training.loop.average.shadow_params, strict=True))
    assert torch.equal(found[f"{training.module.names[0]}.to_k.weight"], average["to_k.0.weight"])
    assert not torch.equal(average["to_k.0.weight"], training.module.to_k[0].weight)


def test_the_noise_offset_is_one_number_for_a_channel(start):
    plain, offset = start(name="plain"), start(name="offset", noise_offset=0.5)
    batch = plain.batches[0]
    clean = plain.latents(batch)
    (one, first), (other, second) = plain.noised(batch, clean), offset.noised(batch, clean)
    added = other - one
    assert torch.equal(first, second)
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), rtol=0, atol=1e-6)
    assert 0.2 < float(added[:, :, 0, 0].std()) < 1.0


def test_products_are_augmented_and_targets_are_not(start):
    plain, changed = start(name="plain", augment_share=0).batches[0], start(name="changed", augment_share=1).batches[0]
    assert torch.equal(plain.image, changed.image)
    assert torch.equal(plain.latent_mask, changed.latent_mask)
    share = torch.tensor([0.0, 1.0, 0.5, 0.0])  # of rows 8 to 20 in latent pixels of 8
    assert torch.equal(plain.latent_mask[0], share[:, None] * share)
    assert torch.equal(
        plain.product[0], torch.where(plain.image[0] == plain.image[0, :, 10:11, 10:11], plain.image[0], 0.5)
    )
    assert all(not torch.equal(one, other) for one, other in zip(plain.product, changed.product, strict=True))
    assert all(plain.product_keys)
    assert not any(changed.product_keys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"product": None}, "square [0-9]+ has no product picture, which a preset of RefAdGen needs"),
        ({"product_mask": None}, "square [0-9]+ has no product mask"),
        (
            {"product": torch.zeros(3, 24, SIZE)},
            f"the product picture of square [0-9]+ is 24x{SIZE}, the image is {SIZE}x{SIZE}",
        ),
        ({"product_mask": torch.ones(SIZE, 8)}, f"the mask of square [0-9]+ is {SIZE}x8, the image is {SIZE}x{SIZE}"),
        ({"product_mask": torch.zeros(SIZE, SIZE)}, "the mask of square [0-9]+ selects nothing"),
    ],
)
def test_triplets_that_are_none_are_refused(start, changes, message):
    with pytest.raises(DataError, match=message):
        start(dataset=Changed(Products(), **changes)).run()


def test_compile_is_refused():
    with pytest.raises(ConfigError, match="compile is True, which a preset of RefAdGen cannot have"):
        preset("refadgen_sd15").replace(compile=True)
    with pytest.raises(ConfigError, match=r"no such setting: num_tokens\. Of preset refadgen_sd15 there are"):
        preset("refadgen_sd15").replace(num_tokens=4)
