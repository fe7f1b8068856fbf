"""Weights by layer and over the sampling: MEPA Weights into MEPA Apply, through the host's own sampler."""

from __future__ import annotations

import comfy.model_sampling
import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscreteDistilled

from pfv_mepa.nodes.feedback import LINE
from pfv_mepa.nodes.host.cross_attention import image_prompt_patches
from pfv_mepa.nodes.host.regional_prompt import PromptRun
from pfv_mepa.nodes.host.schedule import NoiseSchedule
from pfv_mepa.nodes.host.slots import host_attention
from pfv_mepa.nodes.mepa.branch_nodes import MEPAApplyControlNet, MEPABranch
from pfv_mepa.nodes.mepa.weights_nodes import MEPAWeights
from pfv_mepa.pfv_core.attention.weights import PromptWeights
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack import models

STEPS = 4  # at timesteps 999, 666, 333 and 0: 0, a third, two thirds and all of the sampling


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("vega")


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


@pytest.fixture(scope="module")
def other_prompt(tiny_clip_vision, linear_adapter_file):
    return image_prompt(tiny_clip_vision, linear_adapter_file, image=reference(seed=5))


def weights(layers="all", sampling="constant"):
    """Names, or tables where there is a colon."""
    choices = [("custom", text) if ":" in text else (text, "") for text in (layers, sampling)]
    (made,) = outputs(
        MEPAWeights,
        layers=choices[0][0],
        layer_table=choices[0][1],
        sampling=choices[1][0],
        sampling_table=choices[1][1],
    )
    return made


def transformer_of_block(options):
    """As the host counts them in this model: the first number of a name, and which of that level and side."""
    names = {4: "input 1.0", 5: "input 1.1", 7: "input 2.0", 8: "input 2.1"}
    names_out = {0: "output 2.0", 1: "output 2.1", 2: "output 2.2", 3: "output 1.0", 4: "output 1.1", 5: "output 1.2"}
    side, number = options["block"]
    return (names if side == "input" else names_out)[number]


def changed_transformers(model, **size):
    """Those where the attention is another than the text's, in a run; and those where it is the text's own bits."""
    changed, same = set(), set()

    def compare(out, query, key, value, options, **kwargs):
        plain = torch.equal(out, host_attention(options)(query, key, value))
        (same if plain else changed).add(transformer_of_block(options))
        return torch.zeros_like(out)

    for slot in model.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(compare)
    sample(model, steps=1, **size)
    return changed, same


def scales_of_steps(model, **size):
    """By noise level and weights of the layer, what is left of the image scale of each prompt."""
    found = {}
    original = PromptRun.part

    def recording(self, call, query, options, weights):
        part = original(self, call, query, options, weights)
        scales = {index: (round(c.image_scale, 6), round(c.text_share, 6)) for index, c in part.controls.items()}
        found.setdefault(float(options["sigmas"][0]), {})[weights] = scales
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptRun, "part", recording)
        sample(model, **size)
    return [found[sigma] for sigma in sorted(found, reverse=True)]


def test_weights_of_1_are_todays_path_to_the_bit(model, prompt):
    settings = {"region": right_half(), "text_share": 0.3}
    plain = sample(apply(model, prompt, **settings))
    for neutral in (None, PromptWeights(), weights(), weights("all: 1", "0: 1, 1: 1")):
        patched = apply(model, prompt, **settings, weights=neutral)
        assert torch.equal(sample(patched), plain)
        assert [one.of_layers for one in image_prompt_patches(patched)[0].prompts] == [None]
    steps = scales_of_steps(apply(model, prompt, **settings, weights=weights()))
    assert [list(step) for step in steps] == [[(1.0,)], [(1.0,)]]


@pytest.mark.parametrize("nothing", [("all: 0", "constant"), ("all", "0: 0"), ("all: 0", "rising")])
@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_weights_of_0_are_the_unpatched_model_to_the_bit(model, prompt, nothing, text_share):
    patched = apply(model, prompt, region=right_half(), text_share=text_share, weights=weights(*nothing))
    assert (sample(patched) - sample(model)).abs().max() == 0.0


@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_the_image_prompt_is_in_the_layers_that_have_a_weight_and_in_no_other(model, prompt, text_share):
    table = "all: 0, input 2.1: 1, output 1: 0.5, output 1.1: 0"
    patched = apply(model, prompt, region=right_half(), text_share=text_share, weights=weights(table))
    changed, same = changed_transformers(patched)
    assert changed == {"input 2.1", "output 1.0", "output 1.2"}
    assert same == {"input 1.0", "input 1.1", "input 2.0", "output 2.0", "output 2.1", "output 2.2", "output 1.1"}


def test_one_weight_for_all_layers_and_all_the_time_is_a_strength(model, prompt):
    """With all of the text kept; with less of it the weight moves the text's share as well."""
    half = sample(apply(model, prompt, strength=0.8, weights=weights("all: 0.5")))
    assert torch.equal(half, sample(apply(model, prompt, strength=0.4)))
    assert torch.equal(half, sample(apply(model, prompt, strength=0.8, weights=weights("all", "0: 0.5"))))
    assert torch.equal(half, sample(apply(model, prompt, strength=0.8, weights=weights("all: 2", "0: 0.25"))))
    region = {"region": right_half()}
    shared = sample(apply(model, prompt, strength=0.8, text_share=0.2, **region, weights=weights("all: 0.5")))
    assert torch.equal(shared, sample(apply(model, prompt, strength=0.4, text_share=0.6, **region)))
    louder = sample(apply(model, prompt, strength=0.5, text_share=0.2, **region, weights=weights("all: 1.5")))
    assert torch.equal(louder, sample(apply(model, prompt, strength=0.75, text_share=0.2, **region)))


def test_a_curve_is_followed_step_by_step(model, prompt):
    steps = scales_of_steps(apply(model, prompt, strength=0.9, weights=weights("all", "rising")), steps=STEPS)
    shares = [step[(1.0,)].get(0, (0.0, 0.0))[0] for step in steps]
    assert shares == pytest.approx([0.0, 0.3, 0.6, 0.9], abs=1e-5)


def test_layers_and_curve_multiply_and_each_weight_has_one_part(model, prompt):
    table = weights("input: 0.5, input 2.0: 0", "0: 1, 1: 0")
    first, second, *_ = scales_of_steps(apply(model, prompt, text_share=0.0, weights=table), steps=STEPS)
    assert first == {(0.5,): {0: (0.5, 0.5)}, (0.0,): {}, (1.0,): {0: (1.0, 0.0)}}
    assert {key: scales.get(0, (0.0,))[0] for key, scales in second.items()} == pytest.approx(
        {(0.5,): 1 / 3, (0.0,): 0.0, (1.0,): 2 / 3}, abs=1e-5
    )


def test_a_part_is_made_once_for_each_weight_on_a_grid(model, prompt):
    """Ten transformers on two grids, five weights: not one for each layer."""
    made = []
    original = PromptRun._make_part

    def counting(self, call, query, options, weights):
        made.append((query.shape[1], weights))
        return original(self, call, query, options, weights)

    table = "input 1.0: 0.1, input 1.1: 0.2, output 1: 0.2, output 2: 0.3, output 2.1: 0.1"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptRun, "_make_part", counting)
        sample(apply(model, prompt, weights=weights(table)), steps=1)
    assert len(made) == len(set(made)) == 2 + 3  # 0.1 and 0.2 on the fine grid; 1, 0.3 and 0.1 on the coarse one


def test_a_time_weight_and_a_window_count_on_top(model, prompt):
    options = {"time_weighting": True, "gamma": 600, "end_percent": 0.4}
    steps = scales_of_steps(apply(model, prompt, **options, weights=weights("all: 0.5", "falling")), steps=STEPS)
    scales = [next(iter(step.values())).get(0, (0.0,))[0] for step in steps]
    at_start, later = 1 - 399 / 600, 1 - 66 / 600
    assert scales == pytest.approx([0.5 * at_start, 0.5 * later * 2 / 3, 0.0, 0.0], abs=1e-5)


def test_each_prompt_of_a_stack_has_its_own(model, prompt, other_prompt):
    first = {"region": right_half(), "weights": weights("all: 0, input: 1")}
    second = {"region": 1 - right_half(), "weights": weights("output: 0", "rising")}
    stacked = apply(apply(model, prompt, **first), other_prompt, **second)
    assert {(1.0, 1.0), (0.0, 0.0)} == {key for step in scales_of_steps(stacked, steps=2) for key in step}
    (branch,) = outputs(
        MEPABranch,
        image_prompt=other_prompt,
        strength=1.0,
        text_share=1.0,
        gate="output",
        start_percent=0.0,
        end_percent=1.0,
        **second,
    )
    together = apply(model, prompt, **first, branches=branch)
    assert torch.equal(sample(together), sample(stacked))
    assert not torch.equal(
        sample(stacked), sample(apply(apply(model, prompt, **first), other_prompt, region=1 - right_half()))
    )


def test_a_normalised_prompt_is_weighted_too(model, prompt):
    patched = apply(model, prompt, region=right_half(), std_norm=True, weights=weights("all: 0, input 2.1: 1"))
    changed, _ = changed_transformers(patched)
    assert changed == {"input 2.1"}


def test_a_layer_that_the_model_has_not_is_refused_at_the_node(model, prompt, tiny_model):
    table = weights("middle: 0")
    with pytest.raises(
        ValueError, match=r"a weight for middle, which the model has not: its transformers are input 1.0,"
    ):
        apply(model, prompt, weights=table)
    apply(tiny_model, prompt, weights=table)
    with pytest.raises(ValueError, match="a weight for input 0"):
        apply(tiny_model, prompt, strength=0.0, weights=weights("input 0: 1"))


@pytest.mark.parametrize(
    "sampling",
    [
        comfy.model_sampling.ModelSamplingDiscrete,
        ModelSamplingDiscreteDistilled,
        comfy.model_sampling.ModelSamplingContinuousEDM,
        comfy.model_sampling.ModelSamplingContinuousV,
    ],
)
def test_a_share_of_the_sampling_is_what_the_hosts_percent_is(sampling):
    """All but ModelSamplingDiscreteEDM, whose percents the host itself turns into noise levels beyond its schedule."""
    sampling = sampling()
    schedule = NoiseSchedule.of(sampling)
    for percent in (0.02, 0.123, 0.5, 0.8, 0.98):
        assert schedule.share(sampling.percent_to_sigma(percent)) == pytest.approx(percent, abs=1e-4)
    assert schedule.share(1e9) == pytest.approx(0.0, abs=1e-6)
    assert schedule.share(0.0) == pytest.approx(1.0, abs=0.02)


def test_the_schedule_in_force_counts_whatever_was_patched_after(model, prompt):
    """A model sampling that comes behind MEPA Apply: shares are those of its noise levels."""

    class Sampling(comfy.model_sampling.ModelSamplingContinuousEDM, comfy.model_sampling.EDM):
        pass

    sampling = Sampling()
    sampling.set_parameters(0.002, 80.0, 1.0)
    patched = apply(model, prompt, weights=weights("all", "rising")).clone()
    patched.add_object_patch("model_sampling", sampling)
    steps = scales_of_steps(patched, steps=STEPS, scheduler="exponential")
    shares = [step[(1.0,)].get(0, (0.0, 0.0))[0] for step in steps]
    assert shares == pytest.approx([0.0, 1 / 3, 2 / 3, 1.0], abs=1e-4)


def test_a_controlnet_has_the_weights_of_the_unets_layers(model, prompt, tiny_controlnet):
    patched = apply(model, prompt, weights=weights("all: 0, input 2.1: 0.5"))
    (own,) = outputs(MEPAApplyControlNet, control_net=models.tiny_controlnet(model), model=patched)
    run = image_prompt_patches(patched)[0].prompts[0]
    at = {
        block[1]: run.weight_at(slot.layers[0])
        for block, slot in own.control_model.slots.items()
        if block[0] == "input"
    }
    assert at == {4: 0.0, 5: 0.0, 7: 0.0, 8: 0.5}
    with pytest.raises(
        ValueError, match="the ControlNet has middle, which the model has not, so nobody says what weight"
    ):
        outputs(MEPAApplyControlNet, control_net=tiny_controlnet, model=patched)
    plain = apply(model, prompt)
    outputs(MEPAApplyControlNet, control_net=tiny_controlnet, model=plain)


def test_the_node_shows_both_and_says_them():
    result = MEPAWeights.execute("look", "", "custom", "0: 0, 0.5: 1")
    assert result.ui["images"]
    (line,) = result.ui[LINE]
    assert "SDXL: input 0, middle 0, output 0 1 0 0 0 0" in line
    assert "one level: input 1, middle 0, output 0 1" in line
    assert line.endswith("sampling: 0 at 0, 1 at 0.5")
    (line,) = MEPAWeights.execute("custom", "input 7.7: 1", "constant", "").ui[LINE]
    assert line == "layers: looked up in the model by MEPA Apply; sampling: 1 all the time"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (("look", "all: 0", "constant", ""), "layer_table has entries that would count for nothing"),
        (("custom", "", "constant", ""), "layers is custom and layer_table is empty"),
        (("all", "", "custom", ""), "sampling is custom and sampling_table is empty"),
        (("everything", "", "constant", ""), "layers is 'everything', expected one of"),
    ],
)
def test_the_node_refuses_what_would_be_ignored(inputs, message):
    with pytest.raises(ValueError, match=message):
        MEPAWeights.execute(*inputs)
