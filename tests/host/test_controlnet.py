"""Image prompts in a ControlNet's cross-attentions, through the host's own ControlNet nodes and sampler."""

from __future__ import annotations

import logging

import comfy.controlnet
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_controlnet import SetUnionControlNetType

from pfv_mepa.nodes.host.slots import host_attention
from pfv_mepa.nodes.mepa.branch_nodes import MEPAApplyControlNet
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


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


def prompted(control_net, model):
    (made,) = outputs(MEPAApplyControlNet, control_net=control_net, model=model)
    return made


def controlled(model, *control_nets, strength=0.8, **options):
    """Sample with a chain of ControlNets, through the host's Apply ControlNet."""
    conditions = tiny_conditioning(model, seed=6), tiny_conditioning(model, seed=7)
    for number, control_net in enumerate(control_nets):
        conditions = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
            *conditions, control_net, reference(128, 128, seed=number), strength, 0.0, 1.0
        )
    return sample(model, *conditions, steps=1, **options)


def test_a_model_without_image_prompts_leaves_the_controlnet_as_it_is(tiny_model, tiny_controlnet, prompt, caplog):
    with caplog.at_level(logging.INFO):
        assert prompted(tiny_controlnet, tiny_model) is tiny_controlnet
    assert "the ControlNet stays as it is" in caplog.text
    assert prompted(tiny_controlnet, apply(tiny_model, prompt, strength=0.0)) is tiny_controlnet


def test_the_controlnets_own_cross_attentions_fire(tiny_model, tiny_controlnet, prompt):
    """The encoder's and the middle's, 34 in SDXL, beside the U-Net's 70; each with its own layer's keys and values."""
    patched = apply(tiny_model, prompt, region=right_half())
    with recorded_calls() as calls:
        together = controlled(patched, prompted(tiny_controlnet, patched))
    with recorded_calls() as unet_calls:
        apart = controlled(patched, tiny_controlnet)
    assert (len(calls), len(unet_calls)) == (104, 70)
    of_unet = {(*call["block"], call["block_index"]): call["layers"] for call in unet_calls}
    of_control_net = {(*call["block"], call["block_index"]): call["layers"] for call in calls[:34]}
    assert of_control_net == {key: layers for key, layers in of_unet.items() if key[0] != "output"}
    assert not torch.equal(together, apart)


def test_off_or_removed_it_is_the_unpatched_controlnet_to_the_bit(tiny_model, tiny_controlnet, prompt):
    before = controlled(tiny_model, tiny_controlnet)
    patched = apply(tiny_model, prompt, region=right_half())
    own = prompted(tiny_controlnet, patched)
    changed = controlled(tiny_model, own)  # in the ControlNet alone, as the paper has it
    assert not torch.equal(changed, before)
    assert torch.equal(controlled(tiny_model, tiny_controlnet), before)
    empty = prompted(tiny_controlnet, apply(tiny_model, prompt, start_percent=0.5, end_percent=0.6))
    assert torch.equal(controlled(tiny_model, empty), before)  # outside its window


def test_the_region_rules_in_the_controlnet_where_it_is(tiny_model, tiny_controlnet, prompt):
    seen = []

    def compare(out, query, key, value, options, **kwargs):
        rows, columns = options["activations_shape"][-2:]
        same = (out == host_attention(options)(query, key, value)).all(-1).view(-1, rows, columns)
        seen.append((bool(same[:, :, : columns // 2].all()), bool(same[:, :, columns // 2 :].any())))
        return torch.zeros_like(out)

    own = prompted(tiny_controlnet, apply(tiny_model, prompt, region=right_half()))
    for slot in own.control_model.slots.values():
        slot.add(compare)
    controlled(tiny_model, own)
    assert len(seen) == 34
    assert set(seen) == {(True, False)}


def test_an_unprompted_controlnet_of_the_same_network_in_the_chain_stays_so(tiny_model, tiny_controlnet, prompt):
    """Both copies share the network's weights; only the one with image prompts has them, whichever comes first."""
    own = prompted(tiny_controlnet, apply(tiny_model, prompt))
    for chain in ((tiny_controlnet, own), (own, tiny_controlnet)):
        with recorded_calls() as calls:
            controlled(tiny_model, *chain)
        assert len(calls) == 34


def test_other_packs_patches_stay_the_unets_alone(tiny_model, tiny_controlnet, prompt):
    """As the host has it: an output patch and an attention override of the model are not for its ControlNets."""
    seen = []
    foreign = apply(tiny_model, prompt)
    foreign.set_model_attn2_output_patch(lambda out, options: seen.append(options["block"]) or out)
    own = prompted(tiny_controlnet, foreign)
    controlled(foreign, own)
    assert len(seen) == 70
    overridden = foreign.clone()
    attentions = []

    def override(attention, *args, **kwargs):
        attentions.append(attention)
        return attention(*args, **kwargs)

    overridden.model_options["transformer_options"]["optimized_attention_override"] = override
    controlled(overridden, own)
    with_prompts = len(attentions)
    attentions.clear()
    controlled(overridden, tiny_controlnet)
    assert len(attentions) == with_prompts > 0


def test_positive_and_negative_in_calls_of_their_own(tiny_model, tiny_controlnet, prompt):
    """The host's split calls: the same latent within rounding, so each row meets its own image prompt."""
    patched = apply(tiny_model, prompt, region=right_half(), text_share=0.0)
    own = prompted(tiny_controlnet, patched)
    together = controlled(patched, own)
    positive, negative = tiny_conditioning(tiny_model, seed=6), tiny_conditioning(tiny_model, seed=7)
    longer = [[negative[0][0].repeat(1, 7, 1), negative[0][1]]]
    conditions = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
        positive, longer, own, reference(128, 128), 0.8, 0.0, 1.0
    )
    apart = sample(patched, *conditions, steps=1)
    torch.testing.assert_close(apart, together, rtol=1e-4, atol=1e-4 * float(together.abs().max()))


def test_balance_and_stacking_reach_it(tiny_model, tiny_controlnet, prompt):
    one = apply(tiny_model, prompt, region=right_half(), std_norm=True)
    two = apply(one, prompt, region=1 - right_half(), time_weighting=True, gamma=600)
    first, both = (controlled(tiny_model, prompted(tiny_controlnet, model)) for model in (one, two))
    assert not torch.equal(first, both)
    plain = apply(tiny_model, prompt, region=right_half())
    assert not torch.equal(controlled(tiny_model, prompted(tiny_controlnet, plain)), first)


def test_applied_twice_it_holds_the_last_models_prompts(tiny_model, tiny_controlnet, prompt):
    one, other = apply(tiny_model, prompt), apply(tiny_model, prompt, strength=0.3)
    again = prompted(prompted(tiny_controlnet, one), other)
    assert torch.equal(controlled(tiny_model, again), controlled(tiny_model, prompted(tiny_controlnet, other)))


def test_it_survives_the_hosts_own_copies(tiny_model, tiny_controlnet, prompt):
    own = prompted(tiny_controlnet, apply(tiny_model, prompt))
    (copied,) = outputs(SetUnionControlNetType, control_net=own, type="auto")
    assert torch.equal(controlled(tiny_model, copied), controlled(tiny_model, own))


def test_what_does_not_fit_is_refused(tiny_model, tiny_model_of, tiny_controlnet, prompt):
    patched = apply(tiny_model, prompt)
    with pytest.raises(ValueError, match="a control-LoRA has no network of its own before sampling"):
        prompted(comfy.controlnet.ControlLora({}), patched)
    with pytest.raises(ValueError, match="this is a T2IAdapter of NoneType, which has no cross-attention"):
        prompted(comfy.controlnet.T2IAdapter(None, 3, 8, "nearest-exact"), patched)
    own = prompted(tiny_controlnet, apply(tiny_model, prompt, region=torch.ones(1, 64, 192)))
    with pytest.raises(ValueError, match="the region is 64x192, the image being sampled is 128x128"):
        controlled(tiny_model, own)
    own = prompted(tiny_controlnet, patched)
    own.extra_conds.remove("pfv_map")
    with pytest.raises(RuntimeError, match="the model was called without the conditions' facts"):
        controlled(tiny_model, own)
    own.extra_conds.remove("transformer_options")
    with pytest.raises(RuntimeError, match="the sampler did not hand this ControlNet its options"):
        controlled(tiny_model, own)
