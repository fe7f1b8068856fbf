"""A good guest: everything people put into the same graph works beside the pack, and nothing is left behind."""

from __future__ import annotations

import gc
import logging
from itertools import pairwise

import comfy.model_patcher
import comfy.sd
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_freelunch import FreeU_V2

from pfv_mepa.nodes.host.cross_attention import image_prompt_patches
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

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}  # of the largest value, in float32 through a whole random U-Net


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


@pytest.fixture(scope="module")
def other_prompt(tiny_clip_vision, linear_adapter_file):
    return image_prompt(tiny_clip_vision, linear_adapter_file, image=reference(seed=5))


def assert_near(first, second):
    scale = second.abs().max()
    torch.testing.assert_close(first / scale, second / scale, **TOLERANCE)


def test_cfg_one_runs_the_positive_alone(tiny_model, prompt):
    with recorded_calls() as calls:
        sample(apply(tiny_model, prompt, region=right_half()), cfg=1.0, steps=1)
    assert {tuple(call["cond_or_uncond"]) for call in calls} == {(0,)}


def test_split_chunks_give_what_one_call_gives(tiny_model, prompt):
    """Prompts of 77 and 539 tokens cannot share a call; 77 and 77 do. The negative's length is all that differs."""
    patched = apply(tiny_model, prompt, region=right_half(), text_share=0.3)
    negative = tiny_conditioning(tiny_model, seed=7)
    with recorded_calls() as calls:
        together = sample(patched, negative=negative, steps=1)
    assert {tuple(call["cond_or_uncond"]) for call in calls} == {(1, 0)}
    repeated = [[negative[0][0].repeat(1, 7, 1), negative[0][1]]]  # 539 tokens, the same attention
    with recorded_calls() as calls:
        apart = sample(patched, negative=repeated, steps=1)
    assert {tuple(call["cond_or_uncond"]) for call in calls} == {(0,), (1,)}
    assert_near(apart, together)


def test_two_positives(tiny_model, prompt):
    patched = apply(tiny_model, prompt, region=right_half())
    positive = tiny_conditioning(tiny_model, seed=6)
    with recorded_calls() as calls:
        twice = sample(patched, positive=[*positive, *positive], steps=1)
    assert {tuple(call["cond_or_uncond"]) for call in calls} == {(1, 0, 0)}
    assert_near(twice, sample(patched, positive=positive, steps=1))


@pytest.mark.parametrize("batch", [2, 3])
def test_batches(tiny_model, prompt, batch):
    patched = apply(tiny_model, prompt, region=right_half(), text_share=0.0)
    alone = sample(patched, steps=1)
    together = sample(patched, batch=batch, steps=1)
    assert together.shape[0] == batch
    assert_near(together[:1], alone)
    assert not torch.equal(together[0], together[1])


def test_one_reference_and_one_region_for_each_image(tiny_model, tiny_clip_vision, plus_adapter_file):
    """Image i of a batch is what it is with reference i and region i, which differ in all of them."""
    images = reference(batch=2)
    regions = torch.stack([right_half()[0], 1 - right_half()[0]])
    pair = image_prompt(tiny_clip_vision, plus_adapter_file, image=images)
    together = sample(apply(tiny_model, pair, region=regions, text_share=0.0), batch=2, steps=1)
    for index in range(2):
        single = image_prompt(tiny_clip_vision, plus_adapter_file, image=images[index : index + 1])
        patched = apply(tiny_model, single, region=regions[index : index + 1], text_share=0.0)
        assert_near(together[index], sample(patched, batch=2, steps=1)[index])


def test_a_region_is_cropped_with_the_area_that_is_sampled(tiny_model, prompt, caplog):
    """The right half alone is sampled: a region there is all of it, one on the left is nothing."""
    (area,) = host_nodes.ConditioningSetArea().append(tiny_conditioning(tiny_model, seed=6), 64, 128, 64, 0, 1.0)
    with caplog.at_level(logging.WARNING):
        right, left, everywhere, vanilla = (
            sample(model, positive=area, cfg=1.0)
            for model in (
                apply(tiny_model, prompt, region=right_half(), text_share=0.0),
                apply(tiny_model, prompt, region=1 - right_half(), text_share=0.0),
                apply(tiny_model, prompt, text_share=0.0),
                tiny_model,
            )
        )
    assert torch.equal(right, everywhere)
    assert torch.equal(left, vanilla)
    assert not torch.equal(right, vanilla)
    assert not [record for record in caplog.records if "MEPA" in record.message]


def test_lora_before_and_after(tiny_model, prompt):
    key = "diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_q.weight"
    weight = tiny_model.model_state_dict()[key]
    patches = {key: (torch.randn(weight.shape, generator=torch.Generator().manual_seed(3)) * 0.2,)}

    def lora(model):
        clone = model.clone()
        assert clone.add_patches(patches, 1.0) == [key]
        return clone

    before, after = sample(apply(lora(tiny_model), prompt)), sample(lora(apply(tiny_model, prompt)))
    assert torch.equal(before, after)
    assert not torch.equal(before, sample(apply(tiny_model, prompt)))
    assert not torch.equal(before, sample(lora(tiny_model)))


def test_freeu_before_and_after(tiny_model, prompt):
    def freeu(model):
        return outputs(FreeU_V2, model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    before, after = sample(apply(freeu(tiny_model), prompt)), sample(freeu(apply(tiny_model, prompt)))
    assert torch.equal(before, after)
    assert not torch.equal(before, sample(freeu(tiny_model)))


def test_controlnet(tiny_model, tiny_controlnet, prompt):
    positive, negative = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        tiny_conditioning(tiny_model, seed=6),
        tiny_conditioning(tiny_model, seed=7),
        tiny_controlnet,
        reference(128, 128),
        0.8,
        0.0,
        1.0,
    )
    patched = apply(tiny_model, prompt, region=right_half())
    controlled = sample(patched, positive, negative)
    assert not torch.equal(controlled, sample(patched))
    assert not torch.equal(controlled, sample(tiny_model, positive, negative))


def test_stacked_prompts_are_one_patch_and_their_order_does_not_matter(tiny_model, prompt, other_prompt):
    left, right = 1 - right_half(), right_half()
    one = apply(apply(tiny_model, prompt, region=left, text_share=0.0), other_prompt, region=right, text_share=0.0)
    two = apply(apply(tiny_model, other_prompt, region=right, text_share=0.0), prompt, region=left, text_share=0.0)
    assert [len(patch.prompts) for patch in image_prompt_patches(one)] == [2]
    assert_near(sample(one, steps=1), sample(two, steps=1))
    assert not torch.equal(
        sample(one, steps=1), sample(apply(tiny_model, prompt, region=left, text_share=0.0), steps=1)
    )


def test_a_slot_taken_by_another_pack_stays_in_use(tiny_model, prompt):
    """Whatever sits in a slot already computes the text branch; with everything at its plain value, to the bit."""
    from pfv_mepa.nodes.host.slots import host_attention

    class Foreign:
        calls = 0

        def __call__(self, query, key, value, options):
            Foreign.calls += 1
            return host_attention(options)(query, key, value) * 0.5

    taken = tiny_model.clone()
    taken.set_model_attn2_replace(Foreign(), "input", 4)  # the whole transformer, as the host allows
    before = sample(taken, steps=1)
    patched = apply(taken, prompt, region=right_half())
    Foreign.calls = 0
    after = sample(patched, steps=1)
    assert Foreign.calls == 2
    assert not torch.equal(before, after)
    assert torch.equal(sample(taken, steps=1), before)


def test_what_another_pack_adds_to_a_clone_stays_with_it(tiny_model, prompt):
    patched = apply(tiny_model, prompt)
    baseline = sample(patched, steps=1)
    clone = patched.clone()
    slots = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    slots[("middle", 0, 0)].add(lambda out, *args, weight: out * weight, weight=0.5)
    assert not torch.equal(sample(clone, steps=1), baseline)
    assert torch.equal(sample(patched, steps=1), baseline)


def test_same_inputs_same_image(tiny_model, prompt):
    patched = apply(tiny_model, prompt, region=right_half(), text_share=0.3)
    assert torch.equal(sample(patched), sample(patched))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_unet(tiny_model_of, prompt, dtype):
    """K and V follow the query's dtype; the latent stays near the float32 one."""
    model = tiny_model_of("vega")
    full = sample(apply(model, prompt, region=right_half(), text_share=0.0), steps=1)
    half = comfy.model_patcher.ModelPatcher(model.model, model.load_device, model.offload_device)
    weights = {name: parameter.data for name, parameter in model.model.named_parameters()}
    previous = model.model.diffusion_model.dtype
    try:
        model.model.diffusion_model.to(dtype)  # as the host does: its noise schedule stays float32
        model.model.diffusion_model.dtype = dtype
        low = sample(apply(half, prompt, region=right_half(), text_share=0.0), steps=1)
    finally:
        for name, parameter in model.model.named_parameters():
            parameter.data = weights[name]
        model.model.diffusion_model.dtype = previous
    assert ((low - full).norm() / full.norm()) < 0.05


def test_thirty_cycles_leave_nothing_behind(tiny_model_of, prompt):
    """Clone, patch, clone, sample, drop: no more tensors and patchers are alive afterwards than before.

    Fewer may be: what another test left goes when the host lets go of it.
    """
    model = tiny_model_of("vega")

    def cycle():
        sample(apply(apply(model.clone(), prompt, region=right_half()), prompt).clone(), steps=1)

    def alive():
        gc.collect()
        objects = gc.get_objects()
        return (
            sum(isinstance(thing, torch.Tensor) for thing in objects if issubclass(type(thing), torch.Tensor)),
            sum(type(thing) is comfy.model_patcher.ModelPatcher for thing in objects),
        )

    counts = []
    for _ in range(3):  # the first ten also let the host drop what earlier tests left
        for _ in range(10):
            cycle()
        counts.append(alive())
    for earlier, later in pairwise(counts):
        assert later[0] <= earlier[0]
        assert later[1] <= earlier[1]
