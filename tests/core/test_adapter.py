"""adapter: image projections of every kind, and the keys and values of every cross-attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.adapter.model import (
    Adapter,
    AdapterConfig,
    AdapterKind,
    Eq3Projection,
    LinearProjection,
    TokenProjection,
)
from pfv_mepa.pfv_core.adapter.token_compress import cluster_tokens
from pfv_mepa.pfv_core.reference.vit import VIT_H, EncoderSpec, ImageTokens

from . import reference
from .tiny_adapters import CONTEXT_DIM, LAYERS, WIDTHS, tiny_adapter, tiny_config
from .tolerances import DTYPES, HALF_DTYPES, assert_close
from .weights import noise, randomize

ENCODER = EncoderSpec(32, 8, 3, 16, 12)
BIGG = EncoderSpec(224, 14, 48, 1664, 1280)
VIT_L = EncoderSpec(224, 14, 24, 1024, 768)
KINDS = list(AdapterKind)


def image_tokens(counts: tuple[int, ...] = (17, 9, 5), seed: int = 0) -> ImageTokens:
    """Images that keep different numbers of tokens, the class token counted."""
    penultimate = tuple(noise(count, 16, seed=seed + index) for index, count in enumerate(counts))
    embeds = noise(len(counts), 12, seed=seed + 50)
    return ImageTokens(penultimate, penultimate, embeds, noise(1, 17, 16, seed=seed + 60), ENCODER)


def one_image(tokens: ImageTokens, item: int) -> ImageTokens:
    one = slice(item, item + 1)
    embeds = tokens.image_embeds[one]
    return replace(tokens, last=tokens.last[one], penultimate=tokens.penultimate[one], image_embeds=embeds)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_from_encoded_images_to_keys_and_values(kind):
    adapter = tiny_adapter(kind, ENCODER)
    positive, negative = adapter.image_prompt(image_tokens())
    assert positive.shape == (3, adapter.config.num_tokens, CONTEXT_DIM)
    assert negative.shape == (1, adapter.config.num_tokens, CONTEXT_DIM)
    assert positive.dtype == negative.dtype == torch.float32
    keys_values = adapter.keys_values(positive)
    assert [tuple(key.shape) for key, _ in keys_values] == [(3, adapter.config.num_tokens, width) for width in WIDTHS]
    assert [tuple(value.shape) for _, value in keys_values] == [
        (3, adapter.config.num_tokens, width) for width in WIDTHS
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_images_is_per_item(kind):
    adapter, tokens = tiny_adapter(kind, ENCODER), image_tokens()
    together, negative = adapter.image_prompt(tokens)
    for item in range(3):
        alone, same_negative = adapter.image_prompt(one_image(tokens, item))
        assert_close(together[item], alone[0])
        assert_close(negative, same_negative)


def test_keys_and_values_are_the_files_matrices_in_its_order():
    adapter, prompt = tiny_adapter(AdapterKind.LINEAR, ENCODER), noise(2, 4, CONTEXT_DIM, seed=1)
    state = adapter.state_dict()
    for layer, (key, value) in enumerate(adapter.keys_values(prompt)):
        assert_close(key, prompt.double() @ state[f"ip_adapter.to_k_ip.{layer}.weight"].double().T)
        assert_close(value, prompt.double() @ state[f"ip_adapter.to_v_ip.{layer}.weight"].double().T)


def test_linear_projection_is_one_matrix_and_a_norm_per_token():
    module = LinearProjection(tiny_config(AdapterKind.LINEAR, ENCODER))
    randomize(module, seed=2)
    embeds = noise(3, 12, seed=3)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    projected = embeds.double().numpy() @ weights["proj.weight"].T + weights["proj.bias"]
    rows = [projected[:, CONTEXT_DIM * token : CONTEXT_DIM * (token + 1)] for token in range(4)]
    expected = [reference.layer_norm(row, weights["norm.weight"], weights["norm.bias"]) for row in rows]
    assert_close(module(embeds), np.stack(expected, 1))


def test_token_projection_takes_each_token_alone_and_fills_up_with_the_class_token():
    module = TokenProjection(tiny_config(AdapterKind.TOKENS, ENCODER))
    randomize(module, seed=2)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    kept = noise(2, module.num_tokens - 3, 16, seed=3)
    projected = kept.double().numpy() @ weights["proj.weight"].T + weights["proj.bias"]
    expected = np.stack(
        [reference.layer_norm(rows, weights["norm.weight"], weights["norm.bias"]) for rows in projected]
    )
    out = module(kept)
    assert_close(out[:, :-3], expected)
    assert torch.equal(out[:, -3:], out[:, :1].expand(-1, 3, -1))
    with pytest.raises(
        ValueError, match=rf"{module.num_tokens + 1} tokens for an adapter that takes {module.num_tokens}"
    ):
        module(noise(1, module.num_tokens + 1, 16, seed=4))


def eq3_projection(seed: int = 4) -> Eq3Projection:
    module = Eq3Projection(tiny_config(AdapterKind.EQ3, ENCODER))
    randomize(module, seed)
    return module


@pytest.mark.parametrize("normalize", [False, True])
def test_eq3_projection_is_eq3_between_the_omitted_linear_operations(normalize):
    module, tokens = eq3_projection(), noise(2, 7, 16, seed=5)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}

    def norm(name: str, values: np.ndarray) -> np.ndarray:
        return reference.layer_norm(values, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def linear(name: str, values: np.ndarray) -> np.ndarray:
        return values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    expected = []
    for item in tokens.double().numpy():
        compressed = reference.eq3(norm("norm_in", linear("proj_in", item)), weights["latents"][0])
        compressed = compressed / (7 if normalize else 1)
        expected.append(norm("norm_out", linear("proj_out", norm("norm_mid", compressed))))
    assert_close(module(tokens, normalize), np.stack(expected))


def test_eq3_projection_does_not_depend_on_the_number_of_tokens():
    module, tokens = eq3_projection(), noise(1, 5, 16, seed=6)
    for normalize in (True, False):  # the norm after the product takes a common factor away
        assert_close(module(tokens.repeat(1, 20, 1), normalize), module(tokens, normalize))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [False, True])
def test_eq3_projection_never_overflows(dtype, normalize):
    """257 tokens with the outlier channels of CLIP and trained norms: the product passes fp16's 65504."""
    config = replace(tiny_config(AdapterKind.EQ3, ENCODER), latent_width=640)
    module = Eq3Projection(config)
    randomize(module, seed=7)
    module.norm_in.weight.mul_(4.0)
    tokens = noise(1, 257, 16, seed=8)
    tokens[..., 3] = 60.0
    expected = module(tokens, normalize)
    out = module.to(dtype)(tokens.to(dtype), normalize)
    assert out.dtype == dtype
    assert torch.isfinite(out).all()
    assert (out.float() - expected).abs().max() < 0.1 * expected.abs().max()


def test_eq3_projection_gradients():
    config = replace(
        tiny_config(AdapterKind.EQ3, ENCODER, num_tokens=2), encoder_width=3, latent_width=4, context_dim=3
    )
    module = Eq3Projection(config).double()
    randomize(module, seed=9)
    parameters = [parameter.requires_grad_() for parameter in module.parameters()]
    tokens = noise(1, 6, 3, seed=10, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda tokens, *_: module(tokens), (tokens, *parameters))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_an_adapter_in_its_files_half_precision_gives_float32_prompts(kind, dtype):
    """Public files are float16, and encoded images are float32."""
    expected = tiny_adapter(kind, ENCODER).image_prompt(image_tokens())
    found = tiny_adapter(kind, ENCODER).to(dtype).image_prompt(image_tokens())
    for actual, value in zip(found, expected, strict=True):
        assert actual.dtype == torch.float32
        assert_close(actual, value, dtype)


@pytest.mark.parametrize("kind", [AdapterKind.RESAMPLER, AdapterKind.EQ3])
def test_the_class_token_takes_part_and_the_last_block_does_not(kind):
    adapter, tokens = tiny_adapter(kind, ENCODER), image_tokens()
    plain = adapter.image_prompt(tokens)[0]
    other_last = replace(tokens, last=tuple(t + 1 for t in tokens.last), image_embeds=tokens.image_embeds + 1)
    assert torch.equal(adapter.image_prompt(other_last)[0], plain)
    other_class = replace(tokens, penultimate=tuple(torch.cat([t[:1] + 1, t[1:]]) for t in tokens.penultimate))
    assert not torch.equal(adapter.image_prompt(other_class)[0], plain)


def test_the_negative_is_the_answer_to_zero_pixels_or_a_zero_embedding():
    tokens = image_tokens()
    for kind in (AdapterKind.RESAMPLER, AdapterKind.EQ3):
        adapter = tiny_adapter(kind, ENCODER)
        assert torch.equal(adapter.image_prompt(tokens)[1], adapter.image_proj(tokens.uncond_penultimate))
    adapter = tiny_adapter(AdapterKind.LINEAR, ENCODER)
    assert torch.equal(adapter.image_prompt(tokens)[1], adapter.image_proj(torch.zeros(1, 12)))


def test_methods_of_a_resampler_file():
    adapter, tokens = tiny_adapter(AdapterKind.RESAMPLER, ENCODER), image_tokens()
    projection = adapter.image_proj
    own = torch.cat([projection(t[None]) for t in tokens.penultimate])
    assert torch.equal(adapter.image_prompt(tokens)[0], own)
    assert torch.equal(adapter.image_prompt(tokens, "adapter", 4)[0], own)
    for method, normalize in [("eq3_normalized", True), ("eq3_literal", False)]:
        expected = torch.cat([projection.eq3(t[None], normalize) for t in tokens.penultimate])
        assert torch.equal(adapter.image_prompt(tokens, method)[0], expected)
        negative = projection.eq3(tokens.uncond_penultimate, normalize)
        assert torch.equal(adapter.image_prompt(tokens, method)[1], negative)


def test_methods_of_an_eq3_file():
    adapter, tokens = tiny_adapter(AdapterKind.EQ3, ENCODER), image_tokens()
    for method, normalize in [("adapter", True), ("eq3_normalized", True), ("eq3_literal", False)]:
        expected = torch.cat([adapter.image_proj(t[None], normalize) for t in tokens.penultimate])
        assert torch.equal(adapter.image_prompt(tokens, method)[0], expected)


@pytest.mark.parametrize("kind", [AdapterKind.RESAMPLER, AdapterKind.EQ3])
@pytest.mark.parametrize(("num_tokens", "clusters"), [(0, 4), (2, 2), (7, 7)])
def test_cluster_reduces_the_kept_patches_before_the_files_own_projection(kind, num_tokens, clusters):
    adapter, tokens = tiny_adapter(kind, ENCODER), image_tokens((17, 9))

    def expected(penultimate: Tensor) -> Tensor:
        reduced = torch.cat([penultimate[:1], cluster_tokens(penultimate[1:], clusters)])
        return adapter.image_proj(reduced[None])

    positive, negative = adapter.image_prompt(tokens, "cluster", num_tokens)
    assert torch.equal(positive, torch.cat([expected(t) for t in tokens.penultimate]))
    assert torch.equal(negative, expected(tokens.uncond_penultimate[0]))
    assert positive.shape == (2, 4, CONTEXT_DIM)


def test_more_clusters_than_kept_patches_are_all_of_them():
    adapter, tokens = tiny_adapter(AdapterKind.RESAMPLER, ENCODER), image_tokens((5, 3))
    assert torch.equal(adapter.image_prompt(tokens, "cluster", 100)[0], adapter.image_prompt(tokens)[0])


@pytest.mark.parametrize(
    ("kind", "method", "num_tokens", "message"),
    [
        (AdapterKind.LINEAR, "cluster", 0, "method is cluster, but a linear adapter takes one pooled embedding"),
        (AdapterKind.LINEAR, "eq3_literal", 0, "method is eq3_literal, but a linear adapter"),
        (AdapterKind.LINEAR, "adapter", 3, "num_tokens is 3, this adapter gives 4: use 0"),
        (AdapterKind.RESAMPLER, "adapter", 5, "num_tokens is 5, but this adapter's file fixes 4: use 0, or .*cluster"),
        (AdapterKind.TOKENS, "eq3_literal", 0, "method is eq3_literal, but a tokens adapter has no latents for Eq. 3"),
        (AdapterKind.EQ3, "eq3_literal", 8, "num_tokens is 8, but this adapter's file fixes 4"),
        (AdapterKind.RESAMPLER, "cluster", -2, "num_tokens is -2, expected 1 or more, or 0 for 4"),
        (AdapterKind.EQ3, "median", 0, r"method is 'median', expected one of \['adapter', 'eq3_normalized'"),
    ],
)
def test_what_an_adapter_cannot_do_is_refused_with_its_numbers(kind, method, num_tokens, message):
    with pytest.raises(ValueError, match=message):
        tiny_adapter(kind, ENCODER).image_prompt(image_tokens(), method, num_tokens)


def public(kind: AdapterKind, encoder_width: int) -> AdapterConfig:
    return replace(tiny_config(kind, ENCODER), encoder_width=encoder_width)


@pytest.mark.parametrize(
    ("kind", "width", "encoder", "message"),
    [
        (
            AdapterKind.RESAMPLER,
            1280,
            BIGG,
            r"ViT-bigG/14 .*whose hidden state has 1664 channels; this resampler .*1280",
        ),
        (
            AdapterKind.LINEAR,
            1024,
            BIGG,
            "whose image embedding has 1280 channels; this linear adapter takes 1024: .* is CLIP-ViT-H-14$",
        ),
        (
            AdapterKind.LINEAR,
            1280,
            VIT_H,
            "whose image embedding has 1024 channels; this linear adapter takes 1280: .* is CLIP-ViT-bigG-14$",
        ),
        (AdapterKind.RESAMPLER, 1664, VIT_H, "this resampler adapter takes 1664: .* is CLIP-ViT-bigG-14$"),
        (AdapterKind.RESAMPLER, 1280, VIT_L, r"ViT-L/14 .*has 1024 channels.*by this width is CLIP-ViT-H-14$"),
        (
            AdapterKind.EQ3,
            999,
            VIT_H,
            "ViT-H/14 .*whose hidden state has 1280 channels; this eq3 adapter takes 999: .* with$",
        ),
    ],
)
def test_tokens_of_another_encoder_are_refused_with_both_sides(kind, width, encoder, message):
    with pytest.raises(ValueError, match=message):
        public(kind, width).check_encoder(encoder)


def test_tokens_of_the_right_encoder_are_taken():
    public(AdapterKind.LINEAR, 1024).check_encoder(VIT_H)
    public(AdapterKind.LINEAR, 1280).check_encoder(BIGG)
    public(AdapterKind.RESAMPLER, 1280).check_encoder(VIT_H)
    adapter = Adapter(public(AdapterKind.RESAMPLER, 24))
    with pytest.raises(ValueError, match=r"a ViT of 3 layers.* has 16 channels; this resampler adapter takes 24"):
        adapter.image_prompt(image_tokens())


def test_what_our_own_file_says_of_its_encoder_counts_and_nobody_elses_does():
    """CLIP's and DINOv2's ViT-L have tokens of one width."""
    dinov2 = EncoderSpec(224, 14, 24, 1024, 1024)
    says = {"encoder": dinov2.name}
    own, others = (
        replace(public(AdapterKind.RESAMPLER, 1024), metadata=tuple((says | more).items()))
        for more in ({"format": "mepa"}, {})
    )
    own.check_encoder(dinov2)
    assert (own.fits(dinov2), own.fits(VIT_L), others.fits(VIT_L)) == (True, False, True)
    with pytest.raises(
        ValueError, match=r"encoded by ViT-L/14 .*; the adapter was trained with DINOv2-L/14 \(24 layers"
    ):
        own.check_encoder(VIT_L)
    assert own.takes.endswith("of DINOv2-L/14 (24 layers, hidden 1024, projection 1024), with which it was trained")


def test_a_host_can_bring_its_own_layers():
    class Operations:
        class Linear(torch.nn.Linear):
            pass

        class LayerNorm(torch.nn.LayerNorm):
            pass

    for kind in KINDS:
        adapter = Adapter(tiny_config(kind, ENCODER), Operations)
        plain = (torch.nn.Linear, torch.nn.LayerNorm)
        assert not [module for module in adapter.modules() if type(module) in plain]
    assert adapter.config.layers == LAYERS
