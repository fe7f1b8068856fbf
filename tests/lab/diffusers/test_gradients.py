"""Gradients through a diffusers U-Net into what is trained."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint
from diffusers.models.attention_processor import AttnProcessor

from lab.diffusers.prompts import RegionalPrompt
from lab.diffusers.unet import image_prompts
from pfv_core.attention.control import Gate, PromptControl

from .models import SIZE, adapter_for, inputs, left_half, new_unet, noise, regional_prompt


def loss_and_gradients(unet, adapter, leave_before_backward=False):
    adapter.zero_grad()
    prompt = adapter.image_proj(noise(2, 17, 48))
    control = PromptControl(text_share=torch.tensor([0.0, 0.6]))
    made = RegionalPrompt(adapter.keys_values(prompt), control, left_half())
    arguments = inputs()
    with image_prompts(unet, [made], SIZE):
        loss = unet(**arguments).sample.square().mean()
        if not leave_before_backward:
            loss.backward()
    if leave_before_backward:
        loss.backward()
    return float(loss.detach()), {name: parameter.grad.clone() for name, parameter in adapter.named_parameters()}


def test_gradients_reach_all_of_the_adapter_and_nothing_else(unet):
    adapter = adapter_for(unet)
    _, gradients = loss_and_gradients(unet, adapter)
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients.values())
    assert all(parameter.grad is None for parameter in unet.parameters())
    _, outside = loss_and_gradients(unet, adapter, leave_before_backward=True)
    assert all(torch.equal(gradients[name], outside[name]) for name in gradients)


def test_gradients_are_those_of_finite_differences(demo_unet):
    unet = new_unet("demo").double()
    unet.set_attn_processor(AttnProcessor())
    keys_values = [tuple(t.double() for t in pair) for pair in regional_prompt(unet).keys_values]
    arguments = {
        name: value.double() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in inputs().items()
    }
    arguments["added_cond_kwargs"] = {name: value.double() for name, value in arguments["added_cond_kwargs"].items()}

    control = PromptControl(0.8, 0.3, Gate.QUERY)

    def loss(move, direction):
        pairs = [
            (key + move * dk, value + move * dv) for (key, value), (dk, dv) in zip(keys_values, direction, strict=True)
        ]
        with image_prompts(unet, [RegionalPrompt(pairs, control, left_half())], SIZE):
            return unet(**arguments).sample.square().mean()

    direction = [tuple(noise(*t.shape, seed=i).double() for t in pair) for i, pair in enumerate(keys_values)]
    move = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (analytic,) = torch.autograd.grad(loss(move, direction), move)
    with torch.no_grad():
        numeric = (loss(1e-4, direction) - loss(-1e-4, direction)) / 2e-4
    assert abs(float(analytic - numeric)) < 1e-6 * max(1.0, abs(float(numeric)))
    assert abs(float(numeric)) > 1e-6


def test_gradient_checkpointing_gives_the_same_inside_and_fails_outside():
    unet = new_unet("demo")
    adapter = adapter_for(unet)
    loss, gradients = loss_and_gradients(unet, adapter)
    unet.train()
    unet.enable_gradient_checkpointing()
    again, same = loss_and_gradients(unet, adapter)
    assert again == loss
    assert all(torch.equal(gradients[name], same[name]) for name in gradients)
    with pytest.raises(torch.utils.checkpoint.CheckpointError):
        loss_and_gradients(unet, adapter, leave_before_backward=True)
