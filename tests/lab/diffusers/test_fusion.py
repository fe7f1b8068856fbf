"""A reference U-Net's features in a diffusers U-Net: what they add, where nothing changes, what is refused."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import SlicedAttnProcessor

from lab.diffusers.fusion import fused, recorded, self_attentions
from lab.diffusers.refadgen import RefAdGen, names_that_count
from lab.diffusers.unet import image_prompts
from pfv_core.attention.fusion import Combine, FusionControl

from .models import difference, inputs, new_unet, noise, regional_prompt


def products(unet, batch=2, seed=3):
    """Random keys and values."""
    sizes = {name: unet.get_submodule(name).to_q.out_features for name in self_attentions(unet)}
    return {
        name: (noise(batch, 6, width, seed=seed), noise(batch, 6, width, seed=seed + 1))
        for name, width in sizes.items()
    }


@torch.no_grad()
def run(unet, keys_values=None, batch=2, **options):
    arguments = inputs(batch=batch)
    if keys_values is None:
        return unet(**arguments).sample
    with fused(unet, keys_values, **options):
        return unet(**arguments).sample


def test_lambda_0_is_the_unet_itself_bit_for_bit(unet):
    plain = run(unet)
    assert torch.equal(run(unet, products(unet), control=FusionControl(0.0)), plain)
    assert torch.equal(
        run(unet, products(unet), control=FusionControl(0.0), input_share=torch.zeros(2, 16, 8, 12)), plain
    )
    assert difference(run(unet, products(unet)), plain) > 1e-3


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_every_self_attention_has_it(name):
    unet = new_unet(name)
    there = {place for place, _ in unet.named_modules() if place.endswith(".attn1")}
    assert set(self_attentions(unet)) == there
    assert len(there) == {"sd15": 16, "sdxl": 70}[name]


def test_it_is_equation_1(unet):
    """softmax(Q K^T) V + softmax(Q K_ref^T) V_ref, through the layer's own output, against plain matrix products."""
    name = self_attentions(unet)[0]
    attention, reference = unet.get_submodule(name), products(unet)[name]
    hidden = noise(2, 9, attention.to_q.in_features, seed=7)
    with torch.no_grad(), fused(unet, products(unet)):
        out = attention(hidden)
        query, own = attention.to_q(hidden), (attention.to_k(hidden), attention.to_v(hidden))
        both = sum(softmax_attention(attention.heads, query, *pair) for pair in (own, reference))
        expected = attention.to_out[0](both)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def softmax_attention(heads, *parts):
    query, key, value = (part.unflatten(-1, (heads, -1)).movedim(2, 1) for part in parts)
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).movedim(1, 2).flatten(2)


def test_guidance_repeats_the_products(unet):
    """A batch of both halves sees each product in both."""
    keys_values = products(unet, batch=1)
    twice = {name: tuple(tensor.repeat(2, 1, 1) for tensor in pair) for name, pair in keys_values.items()}
    share = noise(1, 16, 8, 12)
    one = run(unet, keys_values, input_share=share)
    assert torch.equal(one, run(unet, twice, input_share=share.repeat(2, 1, 1, 1)))
    with pytest.raises(ValueError, match="the product is given for 2 samples, the batch has 3"):
        run(unet, products(unet), batch=3)


def test_the_input_share_is_added_to_the_first_convolution(unet):
    share, latents = noise(2, 16, 8, 12), inputs()["sample"]
    with torch.no_grad():
        plain = unet.conv_in(latents)
        with fused(unet, products(unet), input_share=share):
            assert torch.equal(unet.conv_in(latents), plain + share)
        assert torch.equal(unet.conv_in(latents), plain)
    assert difference(run(unet, products(unet), input_share=share), run(unet, products(unet))) > 1e-3


def test_it_stands_beside_image_prompts_and_leaves_nothing(unet):
    processors, plain = dict(unet.attn_processors), run(unet)
    prompt = regional_prompt(unet)
    with image_prompts(unet, [prompt], (8, 12)):
        with_prompt, with_both = run(unet), run(unet, products(unet))
    assert difference(with_both, with_prompt) > 1e-3
    assert difference(with_both, run(unet, products(unet))) > 1e-3
    assert unet.attn_processors == processors
    assert torch.equal(run(unet), plain)


def test_blend_takes_the_layers_own_place(unet):
    """At scale 1 the layer's own keys count for nothing."""
    one = run(unet, products(unet), control=FusionControl(1.0, Combine.BLEND))
    assert difference(one, run(unet, products(unet))) > 1e-3


def test_what_is_recorded_goes_into_each_self_attention(unet):
    with torch.no_grad(), recorded(unet) as found:
        unet(**inputs())
    assert list(found) != []
    assert found.keys() == set(self_attentions(unet))
    assert all(found[name].shape[2] == unet.get_submodule(name).to_q.in_features for name in found)


def test_gradients_reach_what_counts_and_nothing_else(unet):
    """The reference's parameters that count are all of those that a pass with numbers gives a gradient."""
    trained = RefAdGen(unet)
    trained.reference.requires_grad_(True)
    arguments = inputs()
    conditions = {name: arguments[name] for name in ("encoder_hidden_states", "added_cond_kwargs")}
    keys_values, share = trained(arguments["sample"], arguments["timestep"], conditions, torch.rand(2, 8, 12))
    sum(tensor.square().sum() for pair in keys_values.values() for tensor in pair).backward(retain_graph=True)
    share.sum().backward()
    found = {name for name, parameter in trained.reference.named_parameters() if parameter.grad is not None}
    assert found == set(names_that_count(unet))
    assert 0 < len(found) < len(list(unet.parameters()))
    assert all(parameter.grad is not None for part in (trained.to_k, trained.to_v) for parameter in part.parameters())
    assert trained.mask_kernel.grad.any()


def test_what_does_not_fit(unet):
    with pytest.raises(ValueError, match="keys and values for 1 self-attentions, the U-Net has 4"):
        run(unet, {"somewhere": (torch.zeros(1, 2, 32),) * 2})
    unet.set_attn_processor(SlicedAttnProcessor(1))
    with pytest.raises(ValueError, match="SlicedAttnProcessor, which ours cannot stand in for"):
        run(unet, products(unet))
