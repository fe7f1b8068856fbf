"""The image projections of diffusers, which nobody here wrote, on the same weights."""

from __future__ import annotations

import re

import pytest
import torch

from pfv_mepa.pfv_core.adapter.model import AdapterKind, LinearProjection
from pfv_mepa.pfv_core.adapter.resampler import Resampler
from pfv_mepa.pfv_core.reference.vit import EncoderSpec

from .third_party import import_third_party
from .tiny_adapters import CONTEXT_DIM, tiny_config
from .tolerances import assert_close
from .weights import noise, randomize

RENAMED = (  # ours and the public files' -> theirs
    (r"layers\.(\d+)\.0\.norm1", r"layers.\1.ln0"),
    (r"layers\.(\d+)\.0\.norm2", r"layers.\1.ln1"),
    (r"layers\.(\d+)\.0\.to_q", r"layers.\1.attn.to_q"),
    (r"layers\.(\d+)\.0\.to_out", r"layers.\1.attn.to_out.0"),
    (r"layers\.(\d+)\.1\.0", r"layers.\1.ff.0"),
    (r"layers\.(\d+)\.1\.1", r"layers.\1.ff.1.net.0.proj"),
    (r"layers\.(\d+)\.1\.3", r"layers.\1.ff.1.net.2"),
)


@pytest.fixture(scope="module")
def embeddings():
    return import_third_party("diffusers.models.embeddings")


def their_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, tensor in state.items():
        for ours, theirs in RENAMED:
            key = re.sub(ours, theirs, key)
        if "to_kv" in key:
            prefix = key.replace(".0.to_kv.weight", ".attn")
            renamed[f"{prefix}.to_k.weight"], renamed[f"{prefix}.to_v.weight"] = tensor.chunk(2)
        else:
            renamed[key] = tensor
    return renamed


@pytest.mark.parametrize(("heads", "depth", "batch", "num_patches"), [(1, 1, 1, 5), (2, 4, 3, 17), (3, 2, 2, 1)])
def test_resampler(embeddings, heads, depth, batch, num_patches):
    ours = Resampler(10, 12, 64 * heads, depth, feedforward=48, num_tokens=7, context_dim=9).double()
    randomize(ours, seed=1)
    theirs = embeddings.IPAdapterPlusImageProjection(
        embed_dims=10, output_dims=9, hidden_dims=12, depth=depth, dim_head=64, heads=heads, num_queries=7, ffn_ratio=4
    ).double()
    theirs.load_state_dict(their_names(ours.state_dict()))  # strict: every key has a partner
    tokens = noise(batch, num_patches, 10, seed=2, dtype=torch.float64)
    assert_close(ours(tokens), theirs(tokens).detach())


def test_linear_projection(embeddings):
    ours = LinearProjection(tiny_config(AdapterKind.LINEAR, EncoderSpec(32, 8, 3, 16, 12))).double()
    randomize(ours, seed=3)
    theirs = embeddings.ImageProjection(12, CONTEXT_DIM, num_image_text_embeds=4).double()
    state = {key.replace("proj.", "image_embeds."): tensor for key, tensor in ours.state_dict().items()}
    theirs.load_state_dict(state)
    embeds = noise(3, 12, seed=4, dtype=torch.float64)
    assert_close(ours(embeds), theirs(embeds).detach())
