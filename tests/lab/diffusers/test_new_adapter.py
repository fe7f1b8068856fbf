"""Adapters made to measure for a U-Net."""

from __future__ import annotations

import pytest
import torch

from lab.diffusers.layers import attention_layers
from lab.diffusers.new_adapter import adapter_config, new_adapter
from pfv_core.adapter.checkpoint import load_adapter, save_adapter
from pfv_core.adapter.model import AdapterKind

from .models import CONTEXT, ENCODER, adapter_for, new_unet, noise


@pytest.mark.parametrize("kind", list(AdapterKind))
def test_a_new_adapter_starts_from_the_texts_projections(demo_unet, kind, tmp_path):
    adapter = adapter_for(demo_unet, kind)
    assert adapter.config.encoder_width == (40 if kind is AdapterKind.LINEAR else 48)
    assert adapter.config.context_dim == CONTEXT
    assert adapter.config.widths == (32,) * 4
    for index, name in enumerate(attention_layers(demo_unet).values()):
        attention = demo_unet.get_submodule(name)
        assert torch.equal(adapter.ip_adapter.to_k_ip[index].weight, attention.to_k.weight)
        assert torch.equal(adapter.ip_adapter.to_v_ip[index].weight, attention.to_v.weight)
        assert adapter.ip_adapter.to_k_ip[index].weight.data_ptr() != attention.to_k.weight.data_ptr()
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in adapter.parameters())
    latents = getattr(adapter.image_proj, "latents", None)
    assert latents is None or 0.5 < float(latents.detach().std()) * 32**0.5 < 1.5
    save_adapter(tmp_path / "new.safetensors", adapter)
    loaded = load_adapter(tmp_path / "new.safetensors")
    assert loaded.config.layers == adapter.config.layers
    tokens = noise(2, 40) if kind is AdapterKind.LINEAR else noise(2, 17, 48)
    torch.testing.assert_close(
        loaded.image_proj(tokens), adapter.image_proj(tokens).detach()
    )  # mapped memory may be unaligned


def test_a_new_adapter_depends_on_its_seed_alone(demo_unet):
    state = torch.random.get_rng_state()
    one, same, other = (adapter_for(demo_unet, AdapterKind.RESAMPLER, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), state)
    states = [adapter.state_dict() for adapter in (one, same, other)]
    for name, values in states[0].items():
        assert torch.equal(values, states[1][name])
        if name in ("image_proj.latents", "image_proj.proj_in.weight", "image_proj.proj_out.bias"):
            assert not torch.equal(values, states[2][name])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"kind": "eq3", "num_tokens": 4}, "latent_width is 0, a eq3 adapter needs 1 or more"),
        ({"kind": "linear", "num_tokens": 4, "depth": 2}, "depth is 2, a linear adapter has none: leave it 0"),
        ({"kind": "linear", "num_tokens": 0}, "num_tokens is 0, expected 1 or more"),
        ({"kind": "linear2", "num_tokens": 1}, "kind is 'linear2', expected one of"),
        (
            {"kind": "resampler", "num_tokens": 1, "latent_width": 8, "inner_width": 96, "depth": 1, "feedforward": 8},
            "inner_width is 96, expected whole heads of 64",
        ),
    ],
)
def test_sizes_that_make_no_adapter_are_refused(demo_unet, sizes, message):
    with pytest.raises(ValueError, match=message):
        adapter_config(demo_unet, base="demo", encoder=ENCODER, **sizes)


def test_an_adapter_for_another_unet_is_refused(demo_unet):
    config = adapter_config(demo_unet, kind=AdapterKind.LINEAR, base="demo", encoder=ENCODER, num_tokens=4)
    with pytest.raises(ValueError, match="for a U-Net of 4 cross-attentions, this one has 16"):
        new_adapter(new_unet("sd15"), config, 0)
