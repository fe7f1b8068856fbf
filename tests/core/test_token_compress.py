"""token_compress: Eq. 3 literally and normalised, and the compression that needs no weights."""

from __future__ import annotations

import numpy as np
import pytest
import skimage.data
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, unfold

from pfv_mepa.pfv_core.adapter.token_compress import cluster_tokens, compress_eq3

from . import reference
from .tolerances import DTYPES, assert_close
from .weights import noise, ramp, seeded

# Both sides of the choice between (Q Z^T) Z and Q (Z^T Z): few tokens, many tokens, many latents.
SHAPES = [(1, 5, 3, 7), (3, 40, 2, 6), (1, 1, 2, 4), (2, 60, 30, 5), (1, 9, 9, 9)]


@pytest.mark.parametrize(("batch", "num_tokens", "num_latents", "width"), SHAPES)
@pytest.mark.parametrize("normalize", [False, True])
def test_eq3_is_the_printed_product(batch, num_tokens, num_latents, width, normalize):
    tokens, latents = noise(batch, num_tokens, width, seed=1), noise(1, num_latents, width, seed=2)
    out = compress_eq3(tokens, latents, normalize)
    expected = np.stack([reference.eq3(item.double().numpy(), latents[0].double().numpy()) for item in tokens])
    assert_close(out, expected / num_tokens if normalize else expected)


def test_values_by_hand():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]])
    latents = torch.tensor([[[1.0, 0.0], [0.5, 1.0], [0.0, 0.0]]])
    literal = [[[10.0, -1.0], [4.0, 4.5], [0.0, 0.0]]]
    assert compress_eq3(tokens, latents, normalize=False).tolist() == literal
    assert compress_eq3(tokens, latents).tolist() == [[[5.0, -0.5], [2.0, 2.25], [0.0, 0.0]]]


def test_a_batch_of_latents_is_per_item():
    tokens, latents = noise(3, 8, 5, seed=3), noise(3, 2, 5, seed=4)
    out = compress_eq3(tokens, latents)
    for item in range(3):
        assert_close(out[item], compress_eq3(tokens[item : item + 1], latents[item : item + 1])[0])


@pytest.mark.parametrize("copies", [2, 7, 50])
def test_normalised_does_not_grow_with_the_number_of_tokens(copies):
    tokens, latents = noise(1, 6, 10, seed=5), noise(1, 4, 10, seed=6)
    repeated = tokens.repeat(1, copies, 1)
    assert_close(compress_eq3(repeated, latents), compress_eq3(tokens, latents))
    assert_close(compress_eq3(repeated, latents, False), copies * compress_eq3(tokens, latents, False))


def test_the_order_of_tokens_does_not_matter_and_zero_tokens_add_nothing_to_the_literal_form():
    tokens, latents = noise(1, 12, 6, seed=7), noise(1, 3, 6, seed=8)
    order = torch.randperm(12, generator=seeded(9))
    assert_close(compress_eq3(tokens[:, order], latents), compress_eq3(tokens, latents))
    padded = torch.cat([tokens, torch.zeros(1, 5, 6)], 1)
    assert_close(compress_eq3(padded, latents, False), compress_eq3(tokens, latents, False))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normalize", [False, True])
def test_half_precision_never_overflows(dtype, normalize):
    """Outlier channels as in CLIP, at SDXL's width: the literal product reaches 1e5 and more, past fp16."""
    tokens = noise(1, 257, 1280, seed=10)
    tokens[..., 3], tokens[..., 700] = 60.0, -25.0
    latents = noise(1, 16, 1280, seed=11)
    out = compress_eq3(tokens.to(dtype), latents.to(dtype), normalize)
    exact_tokens, exact_latents = tokens.to(dtype).double(), latents.to(dtype).double()
    expected = exact_latents @ exact_tokens.transpose(1, 2) @ exact_tokens
    assert out.dtype == torch.float32
    assert expected.abs().max() > torch.finfo(torch.float16).max
    assert_close(out, expected / 257 if normalize else expected)


@pytest.mark.parametrize("num_tokens", [3, 40])
@pytest.mark.parametrize("normalize", [False, True])
def test_gradients(num_tokens, normalize):
    tokens = noise(2, num_tokens, 5, seed=12, dtype=torch.float64).requires_grad_()
    latents = noise(1, 2, 5, seed=13, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z, q: compress_eq3(z, q, normalize), (tokens, latents))


def test_autocast_does_not_take_the_product_out_of_float32():
    tokens, latents = noise(1, 9, 6, seed=10), noise(1, 2, 6, seed=11)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = compress_eq3(tokens, latents)
    assert out.dtype == torch.float32
    assert torch.equal(out, compress_eq3(tokens, latents))


@pytest.mark.parametrize(
    ("tokens", "latents", "message"),
    [
        ((1, 4, 5), (1, 2, 6), r"tokens are \(1, 4, 5\), latents \(1, 2, 6\): expected \(B, N, D\), \(1, c, D\)"),
        ((4, 5), (1, 2, 5), r"tokens are \(4, 5\), latents \(1, 2, 5\)"),
        ((1, 4, 5), (2, 5), r"tokens are \(1, 4, 5\), latents \(2, 5\)"),
        ((1, 0, 5), (1, 2, 5), "no token to compress: the mask hides every patch"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_their_numbers(tokens, latents, message):
    with pytest.raises(ValueError, match=message):
        compress_eq3(torch.zeros(tokens), torch.zeros(latents))


def photograph_tokens(name: str) -> Tensor:
    """16x16 patches of 4x4 pixels of a photograph: (256, 48)."""
    photograph = torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1)[None].float() / 255
    small = interpolate(photograph, (64, 64), mode="bilinear", antialias=True)
    return unfold(small, 4, stride=4)[0].T


def residual_energy(tokens: Tensor, centres: Tensor) -> float:
    """Squared distance of every token to the nearest centre."""
    return torch.cdist(tokens, centres).amin(1).square().sum().item()


@pytest.mark.parametrize("name", ["astronaut", "coffee", "chelsea", "rocket"])
@pytest.mark.parametrize("side", [2, 4])
def test_clusters_keep_more_of_a_photograph_than_average_pooling(name, side):
    tokens = photograph_tokens(name)
    pooled = avg_pool2d(tokens.T.view(1, 48, 16, 16), 16 // side).flatten(2)[0].T
    clustered = cluster_tokens(tokens, side * side)
    assert clustered.shape == pooled.shape
    assert residual_energy(tokens, clustered) < 0.9 * residual_energy(tokens, pooled)


def test_well_separated_clusters_are_found_exactly():
    centres = 100.0 * ramp(5, 3, low=-3.0, high=4.0)[torch.randperm(5, generator=seeded(14))]
    counts = [3, 1, 7, 2, 5]
    tokens = torch.cat(
        [centre + noise(count, 3, seed=20 + count) for centre, count in zip(centres, counts, strict=True)]
    )
    groups = torch.repeat_interleave(torch.arange(5), torch.tensor(counts))
    order = torch.randperm(len(tokens), generator=seeded(15))
    found = cluster_tokens(tokens[order], 5)
    for group in range(5):
        mean = tokens[groups == group].mean(0)
        assert (found - mean).abs().amax(1).min() < 1e-4


def test_clusters_are_deterministic_and_do_not_touch_their_input():
    tokens = photograph_tokens("coffee")
    kept = tokens.clone()
    torch.manual_seed(1)
    first = cluster_tokens(tokens, 9)
    torch.manual_seed(2)
    assert torch.equal(cluster_tokens(tokens, 9), first)
    assert torch.equal(tokens, kept)


@pytest.mark.parametrize("dtype", DTYPES)
def test_as_many_clusters_as_tokens_are_the_tokens(dtype):
    tokens = noise(7, 4, seed=16, dtype=dtype)
    assert torch.equal(cluster_tokens(tokens, 7), tokens)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_cluster_is_the_mean_in_the_tokens_dtype(dtype):
    tokens = noise(50, 6, seed=17).to(dtype)
    out = cluster_tokens(tokens, 1)
    assert out.dtype == dtype
    assert_close(out, tokens.double().mean(0, keepdim=True))


def test_large_half_precision_tokens_stay_finite():
    tokens = (noise(40, 8, seed=18) * 20_000).clamp(-60_000, 60_000).half()
    assert torch.isfinite(cluster_tokens(tokens, 5)).all()


def test_repeated_tokens_fill_up_with_copies():
    tokens = torch.tensor([[1.0, 2.0], [1.0, 2.0], [5.0, 5.0], [1.0, 2.0]])
    out = cluster_tokens(tokens, 3)
    assert out.shape == (3, 2)
    assert {tuple(row) for row in out.tolist()} == {(1.0, 2.0), (5.0, 5.0)}


@pytest.mark.parametrize("num_tokens", [0, 6, -1])
def test_a_number_of_clusters_that_cannot_be_is_refused(num_tokens):
    message = f"num_tokens is {num_tokens}, expected 1 to 5, the number of kept patches"
    with pytest.raises(ValueError, match=message):
        cluster_tokens(torch.zeros(5, 3), num_tokens)
