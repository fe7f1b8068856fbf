"""resampler: the projection of the public IP-Adapter-plus files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.adapter.model import AdapterKind, resampler_of
from pfv_mepa.pfv_core.adapter.resampler import Resampler
from pfv_mepa.pfv_core.reference.vit import EncoderSpec

from . import reference
from .tiny_adapters import tiny_config
from .tolerances import DTYPES, HALF_DTYPES, assert_close
from .weights import noise, randomize, seeded

ENCODER = EncoderSpec(32, 8, 3, 16, 12)
TWO_HEADS = {"encoder_width": 10, "width": 12, "inner_width": 128, "depth": 3, "feedforward": 24}


def resampler(seed: int = 1, num_tokens: int = 5, context_dim: int = 9) -> Resampler:
    module = Resampler(**TWO_HEADS, num_tokens=num_tokens, context_dim=context_dim)
    randomize(module, seed)
    return module


@pytest.mark.parametrize("num_patches", [1, 17])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_the_explicit_attention_of_the_public_layout(batch, num_patches):
    module, tokens = resampler(), noise(batch, num_patches, 10, seed=2)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    expected = np.stack([reference.resampler(weights, item.double().numpy(), depth=3) for item in tokens])
    assert_close(module(tokens), expected)


def test_it_is_built_from_an_adapters_configuration():
    module = resampler_of(tiny_config(AdapterKind.RESAMPLER, ENCODER))
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    assert shapes["latents"] == (1, 4, 20)
    assert shapes["proj_in.weight"] == (20, 16)
    assert shapes["layers.1.0.to_kv.weight"] == (128, 20)
    assert shapes["layers.1.1.1.weight"] == (40, 20)
    assert shapes["proj_out.weight"] == (24, 20)
    assert "layers.2.0.to_q.weight" not in shapes


def test_the_order_of_tokens_does_not_matter():
    module, tokens = resampler(), noise(1, 12, 10, seed=3)
    order = torch.randperm(12, generator=seeded(4))
    assert_close(module(tokens[:, order]), module(tokens))


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_half_precision_is_near_and_finite(dtype):
    module, tokens = resampler(), noise(2, 17, 10, seed=5)
    out = resampler().to(dtype)(tokens.to(dtype))
    assert out.dtype == dtype
    assert_close(out, module(tokens))


@pytest.mark.parametrize("normalize", [False, True])
def test_eq3_is_the_equation_between_the_files_own_projections(normalize):
    module, tokens = resampler(), noise(2, 7, 10, seed=6)
    weights = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    expected = []
    for item in tokens.double().numpy():
        projected = item @ weights["proj_in.weight"].T + weights["proj_in.bias"]
        compressed = reference.eq3(projected, weights["latents"][0]) / (7 if normalize else 1)
        out = compressed @ weights["proj_out.weight"].T + weights["proj_out.bias"]
        expected.append(reference.layer_norm(out, weights["norm_out.weight"], weights["norm_out.bias"]))
    assert_close(module.eq3(tokens, normalize), np.stack(expected))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [False, True])
def test_eq3_never_overflows(dtype, normalize):
    """Tokens with the outlier channels of CLIP make a product past fp16's 65504; the norm brings it back."""
    tokens = noise(1, 257, 10, seed=7)
    tokens[..., 3] = 60.0
    out = resampler().to(dtype).eq3(tokens.to(dtype), normalize)
    expected = resampler().eq3(tokens, normalize)
    assert torch.isfinite(out).all()
    assert (out.float() - expected).abs().max() < 0.15 * expected.abs().max()  # outliers cost bfloat16 its digits


def test_gradients():
    module = Resampler(4, 6, 64, depth=1, feedforward=5, num_tokens=2, context_dim=3).double()
    randomize(module, seed=8)
    parameters = [parameter.requires_grad_() for parameter in module.parameters()]
    tokens = noise(1, 3, 4, seed=9, dtype=torch.float64).requires_grad_()

    def run(tokens, *_):
        return module(tokens)

    assert torch.autograd.gradcheck(run, (tokens, *parameters), fast_mode=True)
