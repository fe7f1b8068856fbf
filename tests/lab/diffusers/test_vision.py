"""A transformers CLIP vision model as the core's encoder."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lab.diffusers.vision import ClipVisionEncoder, Dinov2Encoder
from pfv_core.reference.fit import fit_geometry
from pfv_core.reference.patch_mask import rebinarize
from pfv_core.reference.vit import EncoderSpec, HideMode, encode_image, encode_pixels, encode_uncond

from .models import ENCODER, noise


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=48,
        intermediate_size=96,
        projection_dim=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    made = CLIPVisionModelWithProjection(config).eval().requires_grad_(False)
    for index, parameter in enumerate(made.parameters()):
        parameter.add_(0.1 * noise(*parameter.shape, seed=index))
    return made


@pytest.fixture(scope="module")
def dinov2():
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8, layerscale_value=0.7
    )
    made = Dinov2Model(config).eval().requires_grad_(False)
    for index, parameter in enumerate(made.parameters()):
        parameter.add_(0.1 * noise(*parameter.shape, seed=index))
    return made


def test_everything_visible_is_dinov2_itself(dinov2):
    encoder = Dinov2Encoder(dinov2)
    assert encoder.spec == EncoderSpec(32, 8, 3, 48, 48)
    assert (encoder.mean[0], encoder.std[2]) == (0.485, 0.225)
    pixels, everything = noise(2, 3, 32, 32), torch.ones(2, 16, dtype=torch.bool)
    last, penultimate, embeds = encode_pixels(encoder, pixels, everything, everything)
    expected = dinov2(pixels, output_hidden_states=True)
    assert torch.equal(torch.stack(last), expected.last_hidden_state)
    assert torch.equal(torch.stack(penultimate), expected.hidden_states[-2])
    assert torch.equal(embeds, expected.pooler_output)


def test_what_dinov2_does_not_see_counts_for_nothing(dinov2):
    encoder, patches = Dinov2Encoder(dinov2), torch.arange(16)[None] < 9
    pixels = noise(1, 3, 32, 32)
    hidden = ~patches.view(1, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None]
    one, other = (
        encode_pixels(encoder, given, patches, patches)[0][0] for given in (pixels, torch.where(hidden, 9.0, pixels))
    )
    assert one.shape == (1 + 9, 48)
    assert torch.equal(one, other)


def test_sizes(model):
    assert ClipVisionEncoder(model).spec == ENCODER


def test_everything_visible_is_the_model_itself(model):
    pixels = noise(2, 3, 32, 32)
    everything = torch.ones(2, 16, dtype=torch.bool)
    last, penultimate, embeds = encode_pixels(ClipVisionEncoder(model), pixels, everything, everything)
    expected = model(pixels, output_hidden_states=True)
    assert torch.equal(torch.stack(penultimate), expected.hidden_states[-2])
    assert torch.equal(torch.stack(last), expected.last_hidden_state)
    assert torch.equal(embeds, expected.image_embeds)


def test_the_unconditional_answer_is_that_to_zero_pixels(model):
    expected = model(torch.zeros(1, 3, 32, 32), output_hidden_states=True).hidden_states[-2]
    assert torch.equal(encode_uncond(ClipVisionEncoder(model)), expected)


@pytest.mark.parametrize("mode", list(HideMode))
def test_hidden_pixels_change_nothing_and_visible_ones_do(model, mode):
    encoder = ClipVisionEncoder(model)
    image = torch.rand(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    keep = torch.ones(1, 48, 48, dtype=torch.bool)
    keep[:, :24, 12:] = False
    mask = rebinarize(keep, fit_geometry(48, 48, 32, 8, "pad"))
    changed_hidden, changed_visible = image.clone(), image.clone()
    changed_hidden[:, :, ~keep[0]] = 0.123
    changed_visible[:, :, keep[0]] = 0.123
    tokens, same, other = (
        encode_image(encoder, pixels, mask, mode) for pixels in (image, changed_hidden, changed_visible)
    )
    assert torch.equal(tokens.penultimate[0], same.penultimate[0])
    assert torch.equal(tokens.image_embeds, same.image_embeds)
    assert not torch.equal(tokens.image_embeds, other.image_embeds)
    assert len(tokens.penultimate[0]) == (17 if mode is HideMode.ZERO else 1 + int(mask.token_keep_mask.sum()))


def test_another_normalisation(model):
    encoder = ClipVisionEncoder(model, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    assert (encoder.mean, encoder.std) == ((0.5,) * 3, (0.25,) * 3)


def test_half_precision(model):
    tokens = encode_uncond(ClipVisionEncoder(CLIPVisionModelWithProjection(model.config).to(torch.bfloat16).eval()))
    assert tokens.dtype == torch.float32
    assert tokens.isfinite().all()


def test_a_model_without_clips_tower_is_refused():
    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    with pytest.raises(ValueError, match="SiglipVisionModel is no CLIP vision model with projection"):
        ClipVisionEncoder(SiglipVisionModel(config))
