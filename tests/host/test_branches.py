"""Several branches in one layer, and what keeps them in balance, in the real sampler."""

from __future__ import annotations

import comfy.model_sampling
import nodes as host_nodes
import numpy as np
import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_model_advanced import ModelSamplingDiscreteDistilled

from pfv_mepa.nodes.host.cross_attention import ImagePromptPatch, image_prompt_patches
from pfv_mepa.nodes.host.regional_prompt import PromptRun
from pfv_mepa.nodes.host.schedule import NoiseSchedule
from pfv_mepa.nodes.host.slots import host_attention
from pfv_mepa.nodes.mepa.branch_nodes import MEPABranch
from pfv_mepa.tests.core.reference import weighted_std
from pfv_mepa.tests.host.sampling import (
    apply,
    image_prompt,
    outputs,
    recorded_calls,
    reference,
    right_half,
    sample,
)
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

STD_NORM = {"std_norm": True}
TIME = {"time_weighting": True, "gamma": 600}  # 0.33 at the first step, so it takes part in all of them
OPTIONS = pytest.mark.parametrize("option", [STD_NORM, TIME, {**STD_NORM, **TIME}], ids=["std", "time", "both"])
DEFAULTS = {"strength": 1.0, "text_share": 1.0, "gate": "output", "start_percent": 0.0, "end_percent": 1.0}


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


@pytest.fixture(scope="module")
def other_prompt(tiny_clip_vision, linear_adapter_file):
    return image_prompt(tiny_clip_vision, linear_adapter_file, image=reference(seed=5))


def assert_near(first, second):
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4 * float(second.abs().max()))


def branch(prompt, branches=None, **options):
    (made,) = outputs(MEPABranch, image_prompt=prompt, branches=branches, **{**DEFAULTS, **options})
    return made


def test_options_at_their_neutral_values_change_no_bit(model, prompt):
    settings = {"region": right_half(), "text_share": 0.3}
    plain = sample(apply(model, prompt, **settings))
    neutral = {"std_norm": False, "time_weighting": False, "gamma": 123, "branches": None}
    assert torch.equal(sample(apply(model, prompt, **settings, **neutral)), plain)
    assert torch.equal(sample(apply(model, prompt, **settings, branches=())), plain)
    always = {"time_weighting": True, "gamma": 999}  # whole from the first timestep on
    assert torch.equal(sample(apply(model, prompt, **settings, **always)), plain)


@OPTIONS
def test_each_option_changes_the_image_and_strength_zero_is_the_unpatched_model(model, prompt, option):
    assert not torch.equal(sample(apply(model, prompt, **option)), sample(apply(model, prompt)))
    assert (sample(apply(model, prompt, strength=0.0, **option)) - sample(model)).abs().max() == 0.0


@OPTIONS
def test_outside_the_region_the_attention_is_the_texts_to_the_bit(model, prompt, option):
    seen = []

    def compare(out, query, key, value, options, **kwargs):
        rows, columns = options["activations_shape"][-2:]
        same = (out == host_attention(options)(query, key, value)).all(-1).view(-1, rows, columns)
        seen.append((bool(same[:, :, : columns // 2].all()), bool(same[:, :, columns // 2 :].any())))
        return torch.zeros_like(out)

    patched = apply(model, prompt, region=right_half(), **option)
    for slot in patched.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(compare)
    sample(patched, steps=1)
    assert set(seen) == {(True, False)}


def test_a_normalised_branch_has_the_texts_deviation_in_its_region(model, prompt):
    """Eq. 8 at the hook's own output, by NumPy in float64: out - text is lambda times the branch, text_share is 1."""
    ratios = []

    def compare(out, query, key, value, options, **kwargs):
        text = host_attention(options)(query, key, value)
        rows, columns = options["activations_shape"][-2:]
        region = (np.arange(rows * columns) % columns >= columns // 2).astype(float)[:, None]
        for made, plain in zip((out - text).double().numpy(), text.double().numpy(), strict=True):
            ratios.append(weighted_std(made, region) / weighted_std(plain, region))
        return torch.zeros_like(out)

    patched = apply(model, prompt, region=right_half(), strength=0.5, **STD_NORM)
    for slot in patched.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(compare)
    sample(patched, steps=1)
    assert len(ratios) == 2 * 3
    assert np.allclose(ratios, 0.5, rtol=1e-3)


def weights_of_steps(model, **size):
    """What is left of the image scale at every step, from what the hook is called with."""
    found = {}
    original = PromptRun.part

    def recording(self, call, query, options, weights):
        part = original(self, call, query, options, weights)
        found[float(options["sigmas"][0])] = [control.image_scale for control in part.controls.values()]
        return part

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptRun, "part", recording)
        sample(model, **size)
    return [found[sigma] for sigma in sorted(found, reverse=True)]


def test_time_weighting_follows_the_models_timesteps(model, prompt):
    """Steps at timesteps 999, 666, 333 and 0. Gamma 400: absent, then a share, then whole."""
    patched = apply(model, prompt, time_weighting=True, gamma=400)
    assert weights_of_steps(patched, steps=4) == [[], [1 - 266 / 400], [1.0], [1.0]]


@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_a_branch_held_back_leaves_its_region_to_the_text(model, prompt, text_share):
    """One step at timestep 999, where gamma 400 is 0: the unpatched model, whatever the region would keep of the text."""
    patched = apply(model, prompt, region=right_half(), text_share=text_share, time_weighting=True, gamma=400)
    assert torch.equal(sample(patched, steps=1), sample(model, steps=1))
    assert not torch.equal(sample(patched, steps=4), sample(model, steps=4))


def test_a_time_weight_multiplies_window_and_strength(model, prompt):
    weights = weights_of_steps(apply(model, prompt, strength=0.5, end_percent=0.4, **TIME), steps=4)
    assert weights == [[0.5 * (1 - 399 / 600)], [0.5 * (1 - 66 / 600)], [], []]


@pytest.mark.parametrize("gamma", [1000, 4000])
def test_a_gamma_outside_the_schedule_is_refused(model, prompt, gamma):
    """When sampling begins: the schedule in force is known only then."""
    with pytest.raises(ValueError, match=f"gamma is {gamma}, outside the model's schedule of 1000 timesteps"):
        sample(apply(model, prompt, time_weighting=True, gamma=gamma))
    sample(apply(model, prompt, time_weighting=False, gamma=gamma))


@pytest.mark.parametrize(
    ("sampling", "step"),
    [
        (comfy.model_sampling.ModelSamplingDiscrete, 1),
        (ModelSamplingDiscreteDistilled, 20),
        (comfy.model_sampling.ModelSamplingDiscreteEDM, 1),
        (comfy.model_sampling.ModelSamplingContinuousEDM, 1),
    ],
)
def test_the_schedule_is_the_models_own(sampling, step):
    """1000 timesteps each: LCM's 50 noise levels are every 20th, and EDM's noise levels count by their place."""
    sampling = sampling()
    schedule = NoiseSchedule.of(sampling)
    assert schedule.num_timesteps == 1000
    for place in (0, 7, len(sampling.sigmas) - 1):
        assert schedule.timestep(float(sampling.sigmas[place])) == place * step + step - 1
    assert schedule.timestep(1e9) == 999
    assert schedule.timestep(0.0) == step - 1


def test_the_schedule_is_the_hosts_own_answer(model):
    sampling = model.get_model_object("model_sampling")
    schedule = NoiseSchedule.of(sampling)
    for sigma in torch.linspace(0.01, 20, 50):
        assert schedule.timestep(float(sigma)) == float(sampling.timestep(sigma[None]))


def test_one_node_with_branches_is_the_nodes_stacked(model, prompt, other_prompt):
    """Eq. 9 with three branches from two adapters, each with its own region and balance: the same bits."""
    first = {"region": right_half(), "text_share": 0.0, "strength": 0.8}
    second = {"region": 0.6 * (1 - right_half()), "std_norm": True, "gate": "query"}
    third = {**TIME, "start_percent": 0.1, "strength": 0.4}
    stacked = apply(apply(apply(model, prompt, **first), other_prompt, **second), prompt, **third)
    branches = branch(prompt, branch(other_prompt, **second), **third)
    together = apply(model, prompt, **first, branches=branches)
    assert [len(patch.prompts) for patch in image_prompt_patches(together)] == [3]
    latent = sample(together)
    assert torch.equal(latent, sample(stacked))
    for missing in (branches[:1], branches[1:]):
        assert not torch.equal(sample(apply(model, prompt, **first, branches=missing)), latent)


# The guest table of test_guest, with each option on


def guest(model, prompt, option, **settings):
    return apply(model, prompt, region=right_half(), text_share=0.3, **option, **settings)


@OPTIONS
def test_guest_split_chunks_two_positives_and_cfg_one(model, prompt, option):
    patched = guest(model, prompt, option)
    positive, negative = tiny_conditioning(model, seed=6), tiny_conditioning(model, seed=7)
    together = sample(patched, positive, negative, steps=1)
    repeated = [[negative[0][0].repeat(1, 7, 1), negative[0][1]]]
    with recorded_calls() as calls:
        apart = sample(patched, positive, repeated, steps=1)
    assert {tuple(call["cond_or_uncond"]) for call in calls} == {(0,), (1,)}
    assert_near(apart, together)
    assert_near(sample(patched, [*positive, *positive], negative, steps=1), together)
    assert not torch.equal(sample(patched, cfg=1.0, steps=1), together)


@OPTIONS
def test_guest_batches_with_references_and_regions_of_their_own(
    model, tiny_clip_vision, plus_adapter_file, prompt, option
):
    patched = guest(model, prompt, option)
    assert_near(sample(patched, batch=3, steps=1)[:1], sample(patched, steps=1))
    images, regions = reference(batch=2), torch.stack([right_half()[0], 1 - right_half()[0]])
    pair = image_prompt(tiny_clip_vision, plus_adapter_file, image=images)
    together = sample(apply(model, pair, region=regions, text_share=0.0, **option), batch=2, steps=1)
    for index in range(2):
        single = image_prompt(tiny_clip_vision, plus_adapter_file, image=images[index : index + 1])
        alone = apply(model, single, region=regions[index : index + 1], text_share=0.0, **option)
        assert_near(together[index], sample(alone, batch=2, steps=1)[index])


@OPTIONS
def test_guest_lora_freeu_and_area_conditioning(model, prompt, option):
    key = "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_q.weight"
    noise = torch.randn(model.model_state_dict()[key].shape, generator=torch.Generator().manual_seed(3))

    def lora(model):
        clone = model.clone()
        assert clone.add_patches({key: (0.2 * noise,)}, 1.0) == [key]
        return clone

    def freeu(model):
        return FreeU_V2().patch(model, 1.3, 1.4, 0.9, 0.2)[0]

    patched = sample(guest(model, prompt, option))
    for other in (lora, freeu):
        before, after = sample(guest(other(model), prompt, option)), sample(other(guest(model, prompt, option)))
        assert torch.equal(before, after)
        assert not torch.equal(before, patched)
    (area,) = host_nodes.ConditioningSetArea().append(tiny_conditioning(model, seed=6), 64, 128, 64, 0, 1.0)
    assert not torch.equal(sample(guest(model, prompt, option), positive=area), sample(model, positive=area))


@OPTIONS
def test_guest_a_slot_taken_by_another_pack_and_one_added_to(model, prompt, option):
    calls = []

    def foreign(query, key, value, options):
        calls.append(options["block"])
        return host_attention(options)(query, key, value) * 0.5

    taken = model.clone()
    taken.set_model_attn2_replace(foreign, "input", 3)
    before = sample(taken, steps=1)
    calls.clear()
    patched = guest(taken, prompt, option)
    after = sample(patched, steps=1)
    assert calls == [("input", 3)] * 2
    assert not torch.equal(before, after)
    assert torch.equal(sample(taken, steps=1), before)
    clone = patched.clone()
    slots = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    slots[("input", 3, 0)].add(lambda out, *args, **window: out * 0.5, sigma_start=999999999.9, sigma_end=0.0)
    assert not torch.equal(sample(clone, steps=1), after)
    assert torch.equal(sample(patched, steps=1), after)


@OPTIONS
def test_guest_half_precision(model, prompt, option):
    """The hook in bfloat16, the rest in float32."""
    original = ImagePromptPatch.attention

    def in_half(self, layers, query, key, value, options, base):
        made = original(self, layers, *(tensor.bfloat16() for tensor in (query, key, value)), options, base)
        assert made.dtype == torch.bfloat16
        return made.to(query.dtype)

    patched = guest(model, prompt, option)
    full = sample(patched, steps=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImagePromptPatch, "attention", in_half)
        low = sample(patched, steps=1)
    assert 0 < (low - full).norm() / full.norm() < 0.02
