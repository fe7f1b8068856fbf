"""Weights by layer and over the sampling, in a diffusers U-Net."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lab.diffusers.layers import attention_layers
from lab.diffusers.unet import image_prompts
from pfv_core.attention.curve import sampling_curve
from pfv_core.attention.layer_weights import LayerWeights
from pfv_core.attention.weights import PromptWeights

from .models import SIZE, difference, inputs, left_half, predicted, regional_prompt


def weights(layers: str = "all: 1", curve: str = "0: 1") -> PromptWeights:
    return PromptWeights(LayerWeights.of("custom", layers), sampling_curve("custom", curve))


def at(timestep: float) -> dict[str, torch.Tensor]:
    return {**inputs(), "timestep": torch.tensor(timestep)}


def test_weights_of_1_change_no_bit_and_weights_of_0_are_the_unet_itself(unet):
    prompt = regional_prompt(unet, region=left_half(), text_share=0.3)
    plain, prompted = predicted(unet, [], at(400.0)), predicted(unet, [prompt], at(400.0))
    assert torch.equal(predicted(unet, [replace(prompt, weights=weights())], at(400.0)), prompted)
    for nothing in (weights("all: 0"), weights(curve="0: 0"), weights(curve="0: 0, 0.7: 0, 1: 1")):
        assert torch.equal(predicted(unet, [replace(prompt, weights=nothing)], at(400.0)), plain)


def test_the_image_prompt_is_in_the_layers_that_have_a_weight_and_in_no_other(unet):
    """What goes into `to_out` of each layer, with the prompt and without it, for as long as the layers before are alike."""
    prompt = replace(regional_prompt(unet), weights=weights("all: 0, output 1.0: 1"))
    seen = [outputs_of_layers(unet, prompts) for prompts in ([prompt], [])]
    alike = {name: torch.equal(seen[0][name], seen[1][name]) for name in seen[0]}
    assert alike == {
        "input 1.0": True,
        "middle": True,
        "output 1.0": False,
        "output 1.1": False,
    }  # the last has other queries


def outputs_of_layers(unet, prompts):
    names = {"input": "input 1.0", "middle": "middle"}
    found, handles = {}, []
    for layer, name in attention_layers(unet).items():
        label = names.get(layer.side.value, f"output 1.{layer.ordinal}")
        projection = unet.get_submodule(name).to_out[0]
        handles.append(
            projection.register_forward_pre_hook(
                lambda module, args, label=label: found.update({label: args[0].clone()})
            )
        )
    predicted(unet, prompts, at(400.0))
    for handle in handles:
        handle.remove()
    return found


def test_one_weight_for_all_is_a_strength_that_moves_the_texts_share(unet):
    half = replace(
        regional_prompt(unet, region=left_half(), image_scale=0.8, text_share=0.2), weights=weights("all: 0.5")
    )
    weaker = regional_prompt(unet, region=left_half(), image_scale=0.4, text_share=0.6)
    assert torch.equal(predicted(unet, [half], at(400.0)), predicted(unet, [weaker], at(400.0)))
    louder = replace(half, weights=weights("all: 2"))
    expected = regional_prompt(unet, region=left_half(), image_scale=1.6, text_share=0.2)
    assert torch.equal(predicted(unet, [louder], at(400.0)), predicted(unet, [expected], at(400.0)))


def test_a_curve_is_read_at_the_timestep_of_each_pass(unet):
    """Rising from 0 to 1 over 1000 timesteps; one context, several passes."""
    rising = replace(regional_prompt(unet, image_scale=0.9), weights=weights(curve="0: 0, 1: 1"))
    with torch.no_grad(), image_prompts(unet, [rising], SIZE):
        first, middle, last = (unet(**at(timestep)).sample for timestep in (999.0, 333.0, 0.0))
    assert torch.equal(first, predicted(unet, [], at(999.0)))
    assert difference(middle, predicted(unet, [regional_prompt(unet, image_scale=0.6)], at(333.0))) < 1e-6
    assert torch.equal(last, predicted(unet, [regional_prompt(unet, image_scale=0.9)], at(0.0)))
    with torch.no_grad(), image_prompts(unet, [rising], SIZE, num_timesteps=500):
        half = unet(**at(249.5)).sample
    assert difference(half, predicted(unet, [regional_prompt(unet, image_scale=0.45)], at(249.5))) < 1e-6


def test_a_curve_wants_one_timestep_and_a_table_layers_that_are_there(unet):
    rising = replace(regional_prompt(unet), weights=weights(curve="0: 0, 1: 1"))
    with pytest.raises(ValueError, match="a time weight needs one for all its samples"):
        predicted(unet, [rising], {**inputs(), "timestep": torch.tensor([10.0, 900.0])})
    with pytest.raises(ValueError, match=r"a weight for input 2\.1, which the model has not"):
        predicted(unet, [replace(rising, weights=weights("input 2.1: 0"))], inputs())
