"""vit: masked encoding against an explicit float64 ViT, and against the ordinary encoder."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.reference.fit import fit_geometry
from pfv_mepa.pfv_core.reference.patch_embed import masked_pixel_values
from pfv_mepa.pfv_core.reference.patch_mask import rebinarize
from pfv_mepa.pfv_core.reference.vit import (
    VIT_H,
    EncoderSpec,
    HideMode,
    encode_image,
    encode_pixels,
    encode_uncond,
    passes,
    tokens_in_sequence,
)

from . import reference
from .tiny_vit import MEAN, STD, TinyVit
from .tolerances import HALF_DTYPES, assert_close
from .weights import image, seeded

ENCODER = TinyVit()
OUTPUTS = ("last", "penultimate", "image_embeds")


def make_mask(keep: torch.Tensor, fit: str = "pad", threshold: float = 0.0):
    return rebinarize(keep, fit_geometry(keep.shape[1], keep.shape[2], 32, 8, fit), threshold)


def half_hidden(batch: int = 1, height: int = 48, width: int = 40) -> torch.Tensor:
    """Keep masks that hide a different part of every image."""
    keep = torch.ones(batch, height, width, dtype=torch.bool)
    for item in range(batch):
        keep[item, : 10 + 9 * item, 5:25] = False
    return keep


@pytest.mark.parametrize("mode", ["drop", "zero"])
@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_tokens_are_those_of_the_explicit_float64_vit(mode, fit):
    keep, pixels = half_hidden(), image(1, 3, 48, 40, seed=1)
    patch_mask = make_mask(keep, fit)
    tokens = encode_image(ENCODER, pixels, patch_mask, mode)
    kept = patch_mask.patch_keep_mask[0].numpy()
    in_sequence = kept if mode == "drop" else ~patch_mask.padding_mask.numpy()
    assert 0 < kept.sum() < in_sequence.size
    weights = {name: tensor.double().numpy() for name, tensor in ENCODER.state_dict().items()}
    pixel_values = masked_pixel_values(pixels, patch_mask, MEAN, STD)[0].double().numpy()
    last, penultimate, pooled = reference.vit(weights, pixel_values, kept, in_sequence, num_layers=3, heads=2)
    assert_close(tokens.last[0], last)
    assert_close(tokens.penultimate[0], penultimate)
    assert_close(tokens.image_embeds[0], pooled)


@pytest.mark.parametrize("mode", ["drop", "zero"])
@pytest.mark.parametrize(
    ("size", "fit"), [((48, 64), "crop"), ((64, 33), "crop"), ((50, 41), "stretch"), ((9, 7), "crop")]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_an_all_visible_image_is_the_ordinary_encoders_answer_bit_for_bit(mode, size, fit, batch):
    pixels = image(batch, 3, *size, seed=2)
    patch_mask = make_mask(torch.ones(batch, *size, dtype=torch.bool), fit)
    tokens = encode_image(ENCODER, pixels, patch_mask, mode)
    last, penultimate, pooled = ENCODER(masked_pixel_values(pixels, patch_mask, MEAN, STD))
    assert len(tokens) == batch
    assert torch.equal(torch.stack(tokens.last), last)
    assert torch.equal(torch.stack(tokens.penultimate), penultimate)
    assert torch.equal(tokens.image_embeds, pooled)
    assert tokens.encoder == ENCODER.spec


class Biased(TinyVit):
    """Its patches' embeddings are not 0 where the pixels are, as DINOv2's are not; `where` = of those patches alone."""

    where: torch.Tensor | float = 1.0

    def embed_patches(self, pixel_values):
        return super().embed_patches(pixel_values) + 0.5 * self.where


def test_zero_zeroes_the_embedding_whatever_the_encoder_makes_of_black():
    """D_z of Eq. 1: what hidden patches would have been embedded as changes nothing."""
    pixels, patch_mask = image(1, 3, 48, 40, seed=8), make_mask(half_hidden(), "stretch")
    everywhere, visible = Biased(), Biased()
    visible.where = patch_mask.patch_keep_mask.flatten(1)[..., None].float()
    assert 0 < visible.where.sum() < 16
    found = encode_image(everywhere, pixels, patch_mask, "zero")
    assert torch.equal(found.last[0], encode_image(visible, pixels, patch_mask, "zero").last[0])
    assert not torch.equal(found.last[0], encode_image(ENCODER, pixels, patch_mask, "zero").last[0])


def test_drop_removes_hidden_tokens_and_zero_removes_padding_alone():
    pixels, patch_mask = image(1, 3, 64, 32, seed=3), make_mask(half_hidden(1, 64, 32), "pad")
    own = int((~patch_mask.padding_mask).sum())
    kept = int(patch_mask.patch_keep_mask.sum())
    assert kept < own < 16
    assert encode_image(ENCODER, pixels, patch_mask, "drop").last[0].shape == (1 + kept, 16)
    assert encode_image(ENCODER, pixels, patch_mask, "zero").last[0].shape == (1 + own, 16)


def test_drop_and_zero_are_different_answers():
    pixels, patch_mask = image(1, 3, 48, 40, seed=4), make_mask(half_hidden(), "stretch")
    drop, zero = (encode_image(ENCODER, pixels, patch_mask, mode) for mode in HideMode)
    assert (drop.image_embeds - zero.image_embeds).abs().max() > 1e-3


@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_a_batch_that_keeps_different_numbers_of_tokens_is_per_item(mode):
    pixels, keep = image(3, 3, 48, 40, seed=5), half_hidden(3)
    together = encode_image(ENCODER, pixels, make_mask(keep), mode)
    counts = [len(last) for last in together.last]
    assert len(set(counts)) == (3 if mode == "drop" else 1)
    for item in range(3):
        alone = encode_image(ENCODER, pixels[item : item + 1], make_mask(keep[item : item + 1]), mode)
        for name in OUTPUTS:
            assert_close(getattr(together, name)[item], getattr(alone, name)[0])


def test_images_of_equal_count_stay_in_their_order():
    pixels = image(4, 3, 48, 40, seed=6)
    keep = half_hidden(2)[[0, 1, 0, 1]]
    together = encode_image(ENCODER, pixels, make_mask(keep))
    for item in range(4):
        alone = encode_image(ENCODER, pixels[item : item + 1], make_mask(keep[item : item + 1]))
        assert_close(together.penultimate[item], alone.penultimate[0])


def test_images_that_keep_equally_many_tokens_run_together_and_nothing_else_runs(monkeypatch):
    """Rows and tokens of each pass through the layers; with the uncond at hand nothing runs for the negative."""
    passes = []
    run_blocks = TinyVit.run_blocks
    monkeypatch.setattr(
        TinyVit, "run_blocks", lambda self, tokens: passes.append(tokens.shape[:2]) or run_blocks(self, tokens)
    )
    uncond = encode_uncond(ENCODER)
    passes.clear()
    patch_mask = make_mask(half_hidden(2)[[0, 1, 0, 1]])
    counts = patch_mask.token_keep_mask.sum(1)
    tokens = encode_image(ENCODER, image(4, 3, 48, 40, seed=6), patch_mask, "drop", uncond)
    assert passes == [(2, 1 + int(counts[0])), (2, 1 + int(counts[1]))]
    assert tokens.uncond_penultimate is uncond


@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_a_large_batch_runs_in_passes_and_is_per_item(monkeypatch, mode):
    """40 images that keep two different numbers of tokens; no step sees more than PASS_IMAGES of them."""
    seen = []
    embed, run_blocks = TinyVit.embed_patches, TinyVit.run_blocks
    monkeypatch.setattr(TinyVit, "embed_patches", lambda self, pixels: seen.append(len(pixels)) or embed(self, pixels))
    monkeypatch.setattr(
        TinyVit, "run_blocks", lambda self, tokens: seen.append(len(tokens)) or run_blocks(self, tokens)
    )
    pixels, keep = image(40, 3, 48, 40, seed=12), half_hidden(2)[[0, 1] * 20]
    patch_mask, uncond = make_mask(keep), encode_uncond(ENCODER)
    seen.clear()
    together = encode_image(ENCODER, pixels, patch_mask, mode, uncond)
    expected = [16, 16, 4, 4, 16, 16, 4, 4] if mode == "drop" else [16, 16, 16, 16, 8, 8]
    assert seen == expected
    in_sequence = tokens_in_sequence(patch_mask, mode)
    assert [len(images) for images in passes(in_sequence)] == expected[::2]
    assert sorted(image for images in passes(in_sequence) for image in images) == list(range(40))
    for item in range(40):
        alone = encode_image(ENCODER, pixels[item : item + 1], make_mask(keep[item : item + 1]), mode)
        for name in OUTPUTS:
            assert_close(getattr(together, name)[item], getattr(alone, name)[0])
        assert together.kept_share[item] == alone.kept_share[0]


def test_one_mask_serves_a_batch_of_several_passes():
    pixels, keep = image(20, 3, 48, 40, seed=13), half_hidden()
    shared = encode_image(ENCODER, pixels, make_mask(keep))
    repeated = encode_image(ENCODER, pixels, make_mask(keep.expand(20, -1, -1)))
    assert torch.equal(torch.stack(shared.last), torch.stack(repeated.last))
    assert shared.kept_share == repeated.kept_share == (make_mask(keep).kept_share.item(),) * 20


def test_a_bad_image_of_a_large_batch_is_refused_before_the_first_is_encoded(monkeypatch):
    monkeypatch.setattr(TinyVit, "embed_patches", None)
    pixels = image(20, 3, 48, 40, seed=14)
    pixels[19, 0, 47, 39] = 7.0
    with pytest.raises(ValueError, match=r"reference_image spans \S+\.\.7 where it is visible"):
        encode_image(ENCODER, pixels, make_mask(half_hidden()))


def test_tokens_are_kept_where_they_are_wanted():
    patch_mask = make_mask(half_hidden(2))
    tokens = encode_image(ENCODER, image(2, 3, 48, 40, seed=15), patch_mask, keep_on=torch.device("meta"))
    everything = (*tokens.last, *tokens.penultimate, tokens.image_embeds, tokens.uncond_penultimate)
    assert {tensor.device.type for tensor in everything} == {"meta"}


def test_part_of_the_tokens_is_those_images():
    tokens = encode_image(ENCODER, image(3, 3, 48, 40, seed=16), make_mask(half_hidden(3)))
    part = tokens.part(slice(1, 3))
    assert len(part) == 2
    assert part.last == tokens.last[1:]
    assert part.penultimate == tokens.penultimate[1:]
    assert torch.equal(part.image_embeds, tokens.image_embeds[1:])
    assert part.kept_share == tokens.kept_share[1:]
    assert part.uncond_penultimate is tokens.uncond_penultimate


def test_one_mask_serves_a_batch():
    pixels, keep = image(3, 3, 48, 40, seed=7), half_hidden()
    shared = encode_image(ENCODER, pixels, make_mask(keep))
    repeated = encode_image(ENCODER, pixels, make_mask(keep.expand(3, -1, -1)))
    assert torch.equal(torch.stack(shared.last), torch.stack(repeated.last))


def test_uncond_is_the_answer_to_zero_normalised_pixels_and_can_be_handed_in():
    uncond = encode_uncond(ENCODER)
    assert torch.equal(uncond, ENCODER(torch.zeros(1, 3, 32, 32))[1])
    pixels, patch_mask = image(1, 3, 48, 40, seed=8), make_mask(half_hidden())
    assert torch.equal(encode_image(ENCODER, pixels, patch_mask).uncond_penultimate, uncond)
    mine = torch.zeros(1, 17, 16)
    assert encode_image(ENCODER, pixels, patch_mask, uncond_penultimate=mine).uncond_penultimate is mine


def test_encode_pixels_zeroes_and_removes_independently():
    pixel_values = torch.randn(1, 3, 32, 32, generator=seeded(9))
    keep = torch.tensor([[True, False] * 8])
    in_sequence = torch.tensor([[True] * 12 + [False] * 4])
    last, penultimate, pooled = encode_pixels(ENCODER, pixel_values, keep, in_sequence)
    weights = {name: tensor.double().numpy() for name, tensor in ENCODER.state_dict().items()}
    expected = reference.vit(
        weights, pixel_values[0].double().numpy(), keep.view(4, 4).numpy(), in_sequence.numpy(), num_layers=3, heads=2
    )
    for actual, value in zip((last[0], penultimate[0], pooled[0]), expected, strict=True):
        assert_close(actual, value)


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_a_half_precision_encoder_gives_float32_tokens(dtype):
    pixels, patch_mask = image(2, 3, 48, 40, seed=10), make_mask(half_hidden(2))
    tokens = encode_image(TinyVit().to(dtype), pixels, patch_mask)
    expected = encode_image(ENCODER, pixels, patch_mask)
    for name in OUTPUTS:
        for actual, value in zip(getattr(tokens, name), getattr(expected, name), strict=True):
            assert_close(actual, value, dtype)
            assert actual.dtype == torch.float32


def test_a_mask_for_another_grid_is_refused_with_its_numbers():
    keep = torch.ones(1, 40, 40, dtype=torch.bool)
    patch_mask = rebinarize(keep, fit_geometry(40, 40, 224, 14, "crop"))
    message = (
        "patch mask is for a 224 px input with 14 px patches, the encoder has 32 px and 8 px: re-binarize the mask"
    )
    with pytest.raises(ValueError, match=message):
        encode_image(ENCODER, torch.zeros(1, 3, 40, 40), patch_mask)


def test_an_unknown_mode_is_refused_with_the_choices():
    with pytest.raises(ValueError, match=r"mode is 'mean', expected one of \['drop', 'zero'\]"):
        encode_image(ENCODER, torch.zeros(1, 3, 48, 40), make_mask(half_hidden()), "mean")
    patch_mask = make_mask(half_hidden())
    with pytest.raises(ValueError, match="mode is 'erase'"):
        encode_image(ENCODER, torch.zeros(1, 3, 48, 40), patch_mask, "erase")


def test_encoders_are_named_by_all_their_sizes():
    assert VIT_H.name == "ViT-H/14 (32 layers, hidden 1280, projection 1024)"
    assert EncoderSpec(224, 14, 48, 1664, 1280).name.startswith("ViT-bigG/14 (48 layers")
    assert EncoderSpec(224, 14, 24, 1024, 768).name.startswith("ViT-L/14 (")
    assert ENCODER.spec.name == "a ViT of 3 layers, hidden 16, projection 12"


def test_the_explicit_vit_is_the_ordinary_encoder_when_nothing_is_hidden():
    """The reference is checked too: an error in it would be invisible otherwise."""
    pixel_values = torch.randn(1, 3, 32, 32, generator=seeded(11))
    weights = {name: tensor.double().numpy() for name, tensor in ENCODER.state_dict().items()}
    everything = np.ones((4, 4), dtype=bool)
    expected = reference.vit(weights, pixel_values[0].double().numpy(), everything, everything, num_layers=3, heads=2)
    for actual, value in zip(ENCODER(pixel_values), expected, strict=True):
        assert_close(actual[0], value)
