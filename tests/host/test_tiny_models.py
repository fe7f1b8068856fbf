"""The tiny models go through the host's own nodes and stay finite."""

from __future__ import annotations

import nodes
import pytest
import torch

from pfv_mepa.tests.support.tiny_stack.adapter_files import cross_attention_widths
from pfv_mepa.tests.support.tiny_stack.topologies import TOPOLOGIES


def sample(model, positive, negative, latent_size=(16, 24), steps=2):
    latent = {"samples": torch.zeros(1, 4, *latent_size)}
    return nodes.KSampler().sample(model, 1, steps, 5.0, "euler", "normal", positive, negative, latent, 1.0)[0]


@pytest.mark.parametrize(
    ("topology", "num_cross_attentions"),
    [("sdxl", 70), ("ssd1b", 34), ("vega", 15), ("koala700m", 21), ("koala1b", 30), ("sd15", 16)],
)
def test_each_topology_has_its_cross_attentions_and_samples(
    topology, num_cross_attentions, tiny_model_of, tiny_conditioning
):
    model = tiny_model_of(topology)
    assert TOPOLOGIES[topology].num_cross_attentions == num_cross_attentions
    assert len(cross_attention_widths(model.model.diffusion_model)) == num_cross_attentions
    conditioning = tiny_conditioning(model)
    assert torch.isfinite(sample(model, conditioning, conditioning)["samples"]).all()


def test_sdxl_adapter_order_ends_with_the_middle(adapter_widths):
    assert adapter_widths == [64] * 4 + [128] * 20 + [128] * 30 + [64] * 6 + [128] * 10


def test_text_controlnet_sampling_and_vae_fit_together(tiny_model, tiny_clip, tiny_vae, tiny_controlnet):
    positive = nodes.CLIPTextEncode().encode(tiny_clip, "a cup of coffee")[0]
    negative = nodes.CLIPTextEncode().encode(tiny_clip, "")[0]
    plain = sample(tiny_model, positive, negative)["samples"]
    depth = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(0))
    apply_controlnet = nodes.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply_controlnet(positive, negative, tiny_controlnet, depth, 0.8, 0.0, 1.0)
    controlled = sample(tiny_model, positive, negative)
    image = nodes.VAEDecode().decode(tiny_vae, controlled)[0]
    assert not torch.equal(plain, controlled["samples"])
    assert image.shape == (1, 128, 192, 3)
    assert torch.isfinite(image).all()


def test_clip_vision_has_vit_h_geometry(tiny_clip_vision):
    output = nodes.CLIPVisionEncode().encode(tiny_clip_vision, torch.rand(1, 96, 160, 3), "center")[0]
    assert output.penultimate_hidden_states.shape == (1, 257, 64)
    assert output.image_embeds.shape == (1, 32)
    assert torch.isfinite(output.last_hidden_state).all()


def test_same_seed_same_weights(tiny_model_of):
    from pfv_mepa.tests.support.tiny_stack import models

    again = models.tiny_model("vega").model.diffusion_model.state_dict()
    assert all(torch.equal(again[k], v) for k, v in tiny_model_of("vega").model.diffusion_model.state_dict().items())
