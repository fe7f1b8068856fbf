"""A text with a region of its own in the same cross-attention: MEPA Apply Text, through the host's own sampler."""

from __future__ import annotations

from typing import Any

import comfy.hooks
import comfy.samplers
import nodes as host_nodes
import pytest
import torch

from pfv_mepa.nodes.feedback import LINE
from pfv_mepa.nodes.host.cross_attention import apply_prompt, image_prompt_patches
from pfv_mepa.nodes.host.regional_prompt import PromptRun, RegionalPrompt
from pfv_mepa.nodes.host.slots import host_attention
from pfv_mepa.nodes.host.text_prompt import TextPrompt
from pfv_mepa.nodes.mepa.branch_nodes import MEPAApplyControlNet
from pfv_mepa.nodes.mepa.text_nodes import MEPAApplyText
from pfv_mepa.pfv_core.attention.control import PromptControl
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, recorded_calls, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack import models
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning

EFFECT = 1e-3  # relative: what a text must change at least, or equality would show nothing
ROUNDING = 2e-5  # relative
MAIN, NEGATIVE, OTHER = 6, 7, 11  # seeds of texts; `sample` has the first two
FIRST_KEY = "diffusion_model.input_blocks.3.1.transformer_blocks.0.attn2.to_k.weight"


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


def text(model, seed=OTHER, **extras):
    ((context, values),) = tiny_conditioning(model, seed=seed)
    return [[context, {**values, **extras}]]


def apply_text(model, conditioning, **options):
    defaults = {"region": right_half(), "strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
    (patched,) = outputs(MEPAApplyText, model=model, text=conditioning, **{**defaults, **options})
    return patched


def difference(one, other):
    return float((one - other).norm() / other.norm())


def everywhere(value=1.0):
    return torch.full((1, 128, 128), value)


# --- identities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", [right_half(), 0.4 * right_half(), everywhere()], ids=["hard", "soft", "whole"])
def test_the_main_text_once_more_is_the_model_itself(model, region):
    patched = apply_text(model, text(model, MAIN), region=region)
    assert difference(sample(patched), sample(model)) < ROUNDING
    assert difference(sample(apply_text(model, text(model), region=region)), sample(model)) > EFFECT


def test_a_text_that_rules_everywhere_is_the_main_text(model):
    """The tokens alone: what SDXL takes of a text beside them stays that of the main one."""
    expected = sample(model, positive=text(model, OTHER, **tiny_conditioning(model, seed=MAIN)[0][1]))
    assert difference(sample(apply_text(model, text(model), region=everywhere())), expected) < ROUNDING


def test_strength_0_is_the_model_itself(model):
    assert (sample(apply_text(model, text(model), strength=0.0)) - sample(model)).abs().max() == 0.0
    out_of_window = apply_text(model, text(model), start_percent=0.5, end_percent=0.6)
    assert (sample(out_of_window, steps=1) - sample(model, steps=1)).abs().max() == 0.0


def test_two_halves_with_one_text_are_one_text(model):
    halves = apply_text(apply_text(model, text(model)), text(model), region=1 - right_half())
    assert difference(sample(halves), sample(apply_text(model, text(model), region=everywhere()))) < ROUNDING


def test_in_half_the_frame_the_attention_is_that_of_its_text(model):
    """At the hook: the right half attends the region's text, the left one the main text to the bit; the negative its own."""
    seen = set()
    network = model.model.diffusion_model
    context = text(model)[0][0]

    def compare(out, query, key, value, options, **kwargs):
        side, number = options["block"]
        attention = getattr(network, f"{side}_blocks")[number][1].transformer_blocks[options["block_index"]].attn2
        own = [projected.expand(1, -1, -1) for projected in (attention.to_k(context), attention.to_v(context))]
        columns = options["activations_shape"][-1]
        right = (torch.arange(query.shape[1]) % columns >= columns // 2)[None, :, None]
        for row, index in enumerate(options["cond_or_uncond"]):
            part = slice(row, row + 1)
            main = host_attention(options)(query[part], key[part], value[part])
            regional = host_attention(options)(query[part], *own)
            expected = main if index else torch.where(right, regional, main)
            close = torch.allclose(out[part], expected, rtol=1e-4, atol=1e-5)
            left_exact = torch.equal(out[part].masked_select(~right), main.masked_select(~right))
            seen.add((index, close, left_exact, torch.allclose(main, regional, rtol=1e-2)))
        return torch.zeros_like(out)

    patched = apply_text(model, text(model))
    for slot in patched.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(compare)
    sample(patched, steps=1)
    assert {entry[0] for entry in seen} == {0, 1}
    assert all(entry[1:] == (True, True, False) for entry in seen)


@pytest.mark.parametrize("strength", [0.3, 0.7])
def test_the_formula_in_the_region(model, strength):
    """(1 - strength m) of the main text and strength m of the region's, by two attentions that are taken one by one."""
    outs: dict[str, list[Any]] = {}

    def noted(name, patched):
        outs[name] = []
        for slot in patched.model_options["transformer_options"]["patches_replace"]["attn2"].values():
            slot.add(lambda out, *args, name=name, **kwargs: outs[name].append(out.clone()) or torch.zeros_like(out))
        with torch.no_grad():
            sample(patched, steps=1)

    noted("mixed", apply_text(model, text(model), region=0.5 * right_half(), strength=strength))
    noted("regional", apply_text(model, text(model), region=everywhere()))
    noted("main", apply_text(model, text(model, MAIN), region=everywhere()))
    mixed, regional, main = (outs[name][0] for name in ("mixed", "regional", "main"))  # of the first layer, both rows
    columns = 4
    right = (torch.arange(mixed.shape[1]) % columns >= columns // 2)[None, :, None]
    share = 0.5 * strength * right
    assert difference(mixed, (1 - share) * main + share * regional) < ROUNDING
    assert difference(mixed, main) > EFFECT


# --- beside others ----------------------------------------------------------------------------------------------------


def test_image_and_text_regions_share_one_patch_and_a_partition_adds_up(model, prompt):
    """Halves of the frame: an image's and a text's, in either order; nothing of the main text is left."""
    image = {"region": 1 - right_half(), "text_share": 0.0}
    one = apply_text(apply(model, prompt, **image), text(model))
    other = apply(apply_text(model, text(model)), prompt, **image)
    assert [len(patch.prompts) for patch in image_prompt_patches(one)] == [2]
    latent = sample(one)
    assert difference(sample(other), latent) < ROUNDING
    for left_out in (apply(model, prompt, **image), apply_text(model, text(model))):
        assert difference(sample(left_out), latent) > EFFECT
    main_of_another_seed = text(model, 21, **tiny_conditioning(model, seed=MAIN)[0][1])
    assert difference(sample(one, positive=main_of_another_seed), latent) < ROUNDING


def test_a_normalised_image_prompt_beside_a_text(model, prompt):
    stacked = apply(apply_text(model, text(model)), prompt, region=1 - right_half(), std_norm=True)
    same = apply(apply_text(model, text(model, MAIN)), prompt, region=1 - right_half(), std_norm=True)
    alone = apply(model, prompt, region=1 - right_half(), std_norm=True)
    assert difference(sample(same), sample(alone)) < ROUNDING
    assert difference(sample(stacked), sample(alone)) > EFFECT


@pytest.mark.parametrize("std_norm", [False, True])
def test_without_a_region_a_text_rules_everywhere_and_the_negative_keeps_its_own(model, prompt, std_norm):
    def beside(patched):
        return sample(apply(patched, prompt, strength=0.5, std_norm=std_norm))

    whole = apply_prompt(model, RegionalPrompt(TextPrompt.of(text(model)), PromptControl(1.0, 0.0)))
    expected = beside(apply_text(model, text(model), region=everywhere()))
    assert difference(beside(whole), expected) < ROUNDING
    assert difference(expected, beside(model)) > EFFECT


def test_a_lora_on_the_projections_counts_wherever_it_stands(model):
    noise = torch.randn(model.model_state_dict()[FIRST_KEY].shape, generator=torch.Generator().manual_seed(3))

    def lora(patched):
        clone = patched.clone()
        assert clone.add_patches({FIRST_KEY: (0.5 * noise,)}, 1.0) == [FIRST_KEY]
        return clone

    before, after = sample(apply_text(lora(model), text(model))), sample(lora(apply_text(model, text(model))))
    assert torch.equal(before, after)
    everywhere_else = sample(lora(apply_text(model, text(model, MAIN))))
    assert difference(everywhere_else, sample(lora(model))) < ROUNDING  # the same projections as the main text's
    assert difference(before, sample(apply_text(model, text(model)))) > 1e-5


def test_a_lora_by_hooks_counts_for_the_conditions_that_have_it_alone(model):
    """Two positives, of which one changes the weights for its own calls: the keys and values of the other's would be wrong."""
    noise = torch.randn(model.model_state_dict()[FIRST_KEY].shape, generator=torch.Generator().manual_seed(3))

    def with_hooks(patched):
        hook = comfy.hooks.WeightHook(1.0, 0.0)
        hook.weights, hook.need_weight_init = {FIRST_KEY: (2.0 * noise,)}, False
        group = comfy.hooks.HookGroup()
        group.add(hook)
        target = comfy.hooks.create_target_dict(comfy.hooks.EnumWeightTarget.Model)
        hook.add_hook_patches(patched, patched.model_options, target, comfy.hooks.HookGroup())
        plain = tiny_conditioning(model, seed=MAIN)
        hooked = comfy.hooks.set_hooks_for_conditioning(tiny_conditioning(model, seed=MAIN), group)
        return sample(patched, positive=[*plain, *hooked], cfg=1.0)  # no negative: calls of the same rows

    expected = with_hooks(model.clone())
    assert difference(expected, sample(model, cfg=1.0)) > EFFECT
    assert difference(with_hooks(apply_text(model, text(model, MAIN), region=everywhere())), expected) < ROUNDING


def test_keys_and_values_are_computed_once_in_a_run(model, monkeypatch):
    calls = []
    project = TextPrompt.project

    def counting(self, network, block, query):
        calls.append(block)
        return project(self, network, block, query)

    monkeypatch.setattr(TextPrompt, "project", counting)
    sample(apply_text(model, text(model)), steps=3)
    assert len(calls) == len(set(calls)) == 3


def test_the_controlnet_attends_the_text_by_its_own_projections(model):
    control_net = models.tiny_controlnet(model)

    def controlled(patched, own):
        conditions = tiny_conditioning(model, seed=MAIN), tiny_conditioning(model, seed=NEGATIVE)
        conditions = host_nodes.ControlNetApplyAdvanced().apply_controlnet(
            *conditions, own, reference(128, 128), 0.8, 0.0, 1.0
        )
        return sample(patched, *conditions, steps=1)

    def prompted(patched):
        (made,) = outputs(MEPAApplyControlNet, control_net=control_net, model=patched)
        return made

    same = apply_text(model, text(model, MAIN))
    with recorded_calls() as calls:
        latent = controlled(same, prompted(same))
    assert len(calls) == 3 + 2
    plain = controlled(model, control_net)
    assert difference(latent, plain) < ROUNDING
    other = apply_text(model, text(model))
    assert difference(controlled(model, prompted(other)), plain) > 1e-5
    assert difference(controlled(other, prompted(other)), controlled(other, control_net)) > 1e-5


def test_batches_with_regions_and_texts_of_their_own(model):
    regions = torch.cat([right_half(), 1 - right_half()])
    pair = [[torch.cat([text(model)[0][0], text(model, 12)[0][0]]), {}]]
    together = sample(apply_text(model, pair, region=regions), batch=2, steps=1)
    for index, seed in enumerate((OTHER, 12)):
        alone = apply_text(model, text(model, seed), region=regions[index : index + 1])
        assert difference(together[index], sample(alone, batch=2, steps=1)[index]) < ROUNDING
    with pytest.raises(ValueError, match=r"MEPA Apply Text: the text is a batch of 2, 3 image\(s\) are being sampled"):
        sample(apply_text(model, pair), batch=3, steps=1)


def test_texts_of_other_lengths(model):
    short = [[text(model)[0][0][:, :9], {}]]
    repeated = [[short[0][0].repeat(1, 3, 1), {}]]
    latent = sample(apply_text(model, short))
    assert difference(sample(apply_text(model, repeated)), latent) < ROUNDING
    assert difference(latent, sample(apply_text(model, text(model)))) > EFFECT


def test_areas_and_split_calls(model):
    longer = [
        [tiny_conditioning(model, seed=NEGATIVE)[0][0].repeat(1, 7, 1), tiny_conditioning(model, seed=NEGATIVE)[0][1]]
    ]
    patched = apply_text(model, text(model))
    with recorded_calls() as calls:
        apart = sample(patched, negative=longer, steps=1)
    assert {tuple(call["cond_or_uncond"]) for call in calls} == {(0,), (1,)}
    assert difference(apart, sample(patched, steps=1)) < 1e-4
    (area,) = host_nodes.ConditioningSetArea().append(tiny_conditioning(model, seed=MAIN), 64, 128, 64, 0, 1.0)
    assert (
        difference(sample(apply_text(model, text(model, MAIN)), positive=area), sample(model, positive=area)) < ROUNDING
    )
    assert difference(sample(patched, positive=area), sample(model, positive=area)) > EFFECT


def test_it_is_the_same_at_cfg_1_where_no_negative_runs(model):
    patched = apply_text(model, text(model))
    assert difference(sample(patched, cfg=1.0), sample(patched, cfg=1.0 + 1e-6)) < 1e-4
    swapped = sample(patched, tiny_conditioning(model, seed=NEGATIVE), tiny_conditioning(model, seed=NEGATIVE), cfg=1.0)
    assert not torch.equal(swapped, sample(patched, cfg=1.0))


def test_the_negative_keeps_its_own_text(model):
    """Where positive and negative are one text, only the positive gets the region's: the two differ, so guidance acts."""
    both = tiny_conditioning(model, seed=MAIN)
    patched = apply_text(model, text(model), region=everywhere())
    low, high = (sample(patched, both, both, cfg=cfg, steps=1) for cfg in (2.0, 4.0))
    assert difference(low, high) > EFFECT
    assert difference(*(sample(model, both, both, cfg=cfg, steps=1) for cfg in (2.0, 4.0))) < ROUNDING


def test_a_removed_node_leaves_the_model_as_it_was(model):
    before = sample(model)
    patched = apply_text(model, text(model))
    sample(patched)
    assert torch.equal(sample(model), before)
    assert torch.equal(sample(patched), sample(apply_text(model, text(model))))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ({"area": (8, 8, 0, 0), "strength": 1.0, "set_area_to_bounds": False}, "use the node's own region"),
        ({"mask": torch.ones(1, 8, 8), "mask_strength": 1.0, "set_area_to_bounds": False}, "use the node's own region"),
        ({"start_percent": 0.1, "end_percent": 0.5}, "use the node's own start_percent"),
        ({"clip_start_percent": 0.1, "clip_end_percent": 0.5}, "encode the text without a schedule of hooks"),
        ({"control": object(), "control_apply_to_uncond": False}, "put Apply ControlNet on the main text"),
        ({"hooks": object()}, "put the hooks on the main text"),
        ({"gligen": ("position", None, [])}, "give the text as CLIP Text Encode made it"),
    ],
)
def test_what_would_count_for_nothing_is_refused_by_name(model, extra, what):
    with pytest.raises(ValueError, match="MEPA Apply Text: text carries ") as error:
        apply_text(model, text(model, **extra))
    assert all(name in str(error.value) for name in extra)
    assert what in str(error.value)


def test_what_sdxl_takes_for_the_whole_picture_is_passed_over(model):
    sizes = dict.fromkeys(("width", "height", "crop_w", "crop_h", "target_width", "target_height"), 512)
    assert torch.equal(
        sample(apply_text(model, text(model, **sizes, hooks=None))), sample(apply_text(model, text(model)))
    )


def test_several_entries_another_width_and_an_empty_region_are_refused(model):
    with pytest.raises(
        ValueError, match="text has 2 entries, as from Conditioning Combine: give each a node of its own"
    ):
        apply_text(model, [*text(model), *text(model, 12)])
    with pytest.raises(ValueError, match=r"the text has 768 channels \(sd15\), the model's context has 64"):
        apply_text(model, [[torch.zeros(1, 77, 768), {}]])
    with pytest.raises(ValueError, match="region selects nothing"):
        apply_text(model, text(model), region=everywhere(0.0))
    with pytest.raises(ValueError, match="text has tokens that are not finite numbers"):
        apply_text(model, [[torch.full((1, 77, 64), float("nan")), {}]])
    with pytest.raises(ValueError, match="MEPA Apply Text: the region is 64x192, the image being sampled is 128x128"):
        sample(apply_text(model, text(model), region=torch.ones(1, 64, 192)))


def test_conditions_of_which_nobody_says_their_side_are_refused(model):
    """As for image prompts: only the positive may get the region's text."""

    class Guider(comfy.samplers.CFGGuider):
        def set_conds(self, positive, negative):
            self.inner_set_conds({"positive": positive, "sideways": negative})

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            conds = [self.conds[name] for name in ("positive", "sideways")]
            return comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options or {})[0]

    guider = Guider(apply_text(model, text(model)))
    guider.set_conds(tiny_conditioning(model, seed=MAIN), tiny_conditioning(model, seed=NEGATIVE))
    sigmas = torch.tensor([10.0, 0.0])
    with pytest.raises(ValueError, match="'sideways'"), torch.inference_mode():
        guider.sample(
            torch.randn(1, 4, 16, 16), torch.zeros(1, 4, 16, 16), comfy.samplers.sampler_object("euler"), sigmas, seed=1
        )


def test_the_node_shows_the_region(model):
    with torch.inference_mode():
        result = MEPAApplyText.execute(model, text(model), right_half(), 1.0, 0.0, 1.0)
    assert result.ui["images"]
    assert result.ui[LINE] == ["region: 50% of the frame"]


def test_a_part_knows_the_network_that_runs(model, monkeypatch):
    """Of the U-Net that is sampled, and not of the one that the node was given."""
    seen = []
    part = PromptRun.part

    def noting(self, *args):
        found = part(self, *args)
        seen.append((found.network, found.hooked))
        return found

    monkeypatch.setattr(PromptRun, "part", noting)
    sample(apply_text(model, text(model)), steps=1)
    assert {(id(network), hooked) for network, hooked in seen} == {(id(model.model.diffusion_model), False)}
