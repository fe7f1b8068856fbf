"""Image prompts that are balanced against the text, in a diffusers U-Net."""

from __future__ import annotations

import pytest
import torch

from lab.diffusers.prompts import RegionalPrompt
from lab.diffusers.unet import image_prompts
from pfv_core.attention.control import PromptControl

from .models import SIZE, difference, inputs, left_half, predicted, regional_prompt


def at(timestep: float) -> dict[str, torch.Tensor]:
    """Arguments of a pass whose samples are all at one timestep."""
    return {**inputs(), "timestep": torch.tensor(timestep)}


def test_a_neutral_balance_changes_no_bit(unet):
    values = {"region": left_half(), "text_share": 0.3}
    same = regional_prompt(unet, **values, std_norm=False, gamma=None)
    late = regional_prompt(unet, **values, gamma=500.0)
    arguments = at(400.0)
    expected = predicted(unet, [regional_prompt(unet, **values)], arguments)
    assert torch.equal(predicted(unet, [same], arguments), expected)
    assert torch.equal(predicted(unet, [late], arguments), expected)  # the weight is 1 at gamma and below


@pytest.mark.parametrize("text_share", [0.0, 1.0, torch.tensor([0.2, 0.9])])
def test_a_time_weight_of_0_is_the_unet_itself_bit_for_bit(unet, text_share):
    held_back = regional_prompt(unet, region=left_half(), text_share=text_share, gamma=400.0)
    plain = predicted(unet, [], at(800.0))
    assert torch.equal(predicted(unet, [held_back], at(800.0)), plain)
    assert difference(predicted(unet, [held_back], at(799.0)), predicted(unet, [], at(799.0))) > 0


def test_a_time_weight_between_is_a_weaker_prompt_that_leaves_more_of_the_text(unet):
    """Half way between 2 gamma and gamma, in one context with a later and an earlier step before and after it."""
    held_back = regional_prompt(unet, region=left_half(), image_scale=0.8, text_share=0.2, gamma=400.0)
    weaker = regional_prompt(unet, region=left_half(), image_scale=0.4, text_share=0.6)
    expected = predicted(unet, [weaker], at(600.0))
    with torch.no_grad(), image_prompts(unet, [held_back], SIZE):
        first, middle, last, again = (unet(**at(timestep)).sample for timestep in (900.0, 600.0, 100.0, 600.0))
    assert difference(middle, expected) < 1e-6
    assert torch.equal(middle, again)
    assert torch.equal(first, predicted(unet, [], at(900.0)))
    whole = regional_prompt(unet, region=left_half(), image_scale=0.8, text_share=0.2)
    assert torch.equal(last, predicted(unet, [whole], at(100.0)))


def test_a_prompt_held_back_leaves_the_others_as_they_are(unet):
    late = regional_prompt(unet, seed=1, region=left_half(), text_share=0.0, gamma=400.0)
    other = regional_prompt(unet, seed=2, region=1 - left_half(), text_share=0.3)
    arguments = at(900.0)
    assert torch.equal(predicted(unet, [late, other], arguments), predicted(unet, [other], arguments))


@pytest.mark.parametrize("region", [None, left_half()])
def test_a_normalised_prompt_is_as_loud_as_the_text_however_loud_its_values_are(unet, region):
    made = regional_prompt(unet, region=region)
    louder = [(key, 5 * value) for key, value in made.keys_values]
    for std_norm in (True, False):
        outs = [
            predicted(unet, [RegionalPrompt(pairs, PromptControl(std_norm=std_norm), region)], inputs())
            for pairs in (made.keys_values, louder)
        ]
        assert (difference(*outs) < 1e-5) == std_norm


def test_a_time_weight_wants_one_timestep(unet):
    late = regional_prompt(unet, gamma=400.0)
    arguments = {**inputs(), "timestep": torch.tensor([10.0, 900.0])}
    with pytest.raises(ValueError, match=r"the batch has timesteps \[10.0, 900.0\], a time weight needs one"):
        predicted(unet, [late], arguments)
    predicted(unet, [regional_prompt(unet)], arguments)  # without one they may differ
