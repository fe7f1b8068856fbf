"""MEPA Tiles: prompts whose masks are cut to a tile say which part of the ad is sampled; it is what MEPA Crop says."""

from __future__ import annotations

import nodes as host_nodes
import pytest
import torch

from pfv_mepa.nodes.mepa.crop_nodes import MEPATiles
from pfv_mepa.tests.host.beside import (
    assert_apart,
    assert_near,
    assert_same,
    basic,
    cfg,
    controlled,
    guided,
    prompted_control_net,
    prompts,
    run,
)
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference, right_half, sample
from pfv_mepa.tests.host.test_crop import PARTS, ad_mask, crop, put
from pfv_mepa.tests.host.test_mask_input import write as write  # a fixture
from pfv_mepa.tests.support.tiny_stack.models import tiny_controlnet

AD = 128, 256  # rows, columns: that of `ad_mask`
PLACE = 16, 64, 96, 96  # top, left, height, width


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


def located(positive, negative, ad=AD):
    return outputs(MEPATiles, positive=positive, negative=negative, ad_width=ad[1], ad_height=ad[0])


def cut(condition, place=PLACE):
    """As detailers do: the masks of a prompt, cut to a box of the ad."""
    top, left, height, width = place
    inside = (..., slice(top, top + height), slice(left, left + width))
    return [
        [text, {name: value[inside] if name == "mask" else value for name, value in values.items()}]
        for text, values in condition
    ]


def tile(model, place=PLACE):
    """Both prompts of a tile."""
    return [cut(condition, place) for condition in located(*prompts(model))]


def cropped(model, place=PLACE):
    """The same said by MEPA Crop."""
    top, left, height, width = place
    return crop(model, left, top, width, height, ad=AD[::-1])


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("place", [PLACE, (0, 0, 128, 128), (64, 160, 64, 96)])
def test_a_tile_sees_its_part_of_the_mask(model, prompt, write, part, place):
    patched = put(part, model, ad_mask(), prompt, write)
    size = {"height": 2 * place[2], "width": 2 * place[3]}
    made = sample(patched, *tile(model, place), **size)
    assert torch.equal(made, sample(cropped(patched, place), *prompts(model), **size))
    assert not torch.equal(
        made, sample(put(part, model, ad_mask().flip(2), prompt, write), *tile(model, place), **size)
    )


def test_a_prompted_controlnet_sees_it_too(model, prompt):
    control_net = tiny_controlnet(model)
    patched = apply(model, prompt, region=ad_mask(), text_share=0.0)

    def sampled(model, sides):
        sides = controlled(prompted_control_net(control_net, model), *sides)
        return guided(cfg(model, *sides), height=96, width=96)

    made = sampled(patched, tile(model))
    assert_same(made, sampled(cropped(patched), prompts(model)))
    assert_apart(made, sampled(apply(model, prompt, region=1 - ad_mask(), text_share=0.0), tile(model)))


def test_other_guiders_and_samplers(model, prompt):
    patched = apply(model, prompt, region=ad_mask(), text_share=0.0)
    positive, negative = tile(model)
    plain = prompts(model)
    size = {"height": 96, "width": 96}
    assert_same(guided(basic(patched, positive), **size), guided(basic(cropped(patched), plain[0]), **size))
    three = {"cond1": positive, "cond2": positive, "negative": negative, "cfg_conds": 5.0, "cfg_cond2_negative": 2.0}
    others = three | {"cond1": plain[0], "cond2": plain[0], "negative": plain[1]}
    for sampler in ("euler", "dpmpp_2s_ancestral"):
        made, expected = (
            guided(run("DualCFGGuider", model=one, **inputs), sampler=sampler, **size)
            for one, inputs in ((patched, three), (cropped(patched), others))
        )
        assert_same(made, expected)


def test_one_of_the_prompts_is_enough(model, prompt):
    patched = apply(model, prompt, region=ad_mask(), text_share=0.0)
    positive, negative = prompts(model)
    made = sample(patched, tile(model)[0], negative, height=96, width=96)
    assert torch.equal(made, sample(cropped(patched), positive, negative, height=96, width=96))


@pytest.mark.parametrize("cutting", [cut, lambda condition: condition])
def test_a_model_without_parts_of_this_pack_samples_the_prompts_alone(model, cutting):
    sides = [cutting(condition) for condition in located(*prompts(model))]
    for sampler in ("euler", "heun", "uni_pc"):
        plain = sample(model, *prompts(model), height=96, width=96, sampler=sampler)
        assert torch.equal(sample(model, *sides, height=96, width=96, sampler=sampler), plain)


def test_the_prompts_that_were_given_stay_as_they_are(model):
    positive, negative = prompts(model)
    made = located(positive, negative)
    assert len(positive) == len(negative) == 1
    assert made[0][:1] == positive
    assert len(made[0]) == 5


# --- what nobody says -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patched(model, prompt):
    return apply(model, prompt, region=ad_mask(), text_share=0.0)


def refused(patched, positive, negative, message, error=ValueError, **options):
    with pytest.raises(error, match=message):
        sample(patched, positive, negative, **{"height": 96, "width": 96, **options})


def test_masks_that_nobody_has_cut(model, patched):
    """An upscaler that leaves the prompts alone, or the ad's own sampler."""
    sides = located(*prompts(model))
    refused(patched, *sides, r"MEPA Tiles: nobody has cut the prompts' masks to a tile.*with MEPA Crop")
    refused(patched, *sides, "MEPA Tiles: nobody has cut", height=128, width=256)


def test_several_images(model, patched):
    refused(patched, *tile(model), r"2 images are sampled at once.*batch_size 1", batch=2)


def test_another_part_on_the_other_side(model, patched):
    positive, negative = tile(model)[0], tile(model, (0, 0, 96, 96))[1]
    refused(
        patched,
        positive,
        negative,
        r"say that different parts of the ad are sampled \(96x96 at 64, 16 of 256x128, 96x96 at 0, 0 of 256x128; width",
    )
    refused(
        patched,
        positive,
        cut(located(*prompts(model), ad=(256, 256))[1]),
        "say that different parts of the ad are sampled",
    )


def test_both_nodes(model, patched):
    refused(cropped(patched), *tile(model), "MEPA Crop and MEPA Tiles both say which part of the ad is sampled")


def test_a_mask_that_is_not_the_ads(model, prompt):
    other = apply(model, prompt, region=right_half(), text_share=0.0)
    refused(other, *tile(model), "the region is 128x128, MEPA Tiles says that the ad is 128x256")


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask.flip(2),
        lambda mask: torch.nn.functional.pad(mask, (0, 40, 0, 0)),
        torch.ones_like,
        lambda mask: mask * 0.5,
        lambda mask: mask**1.02,
        lambda mask: mask * torch.nan,
        lambda mask: mask[0],
        lambda mask: mask.expand(2, -1, -1),
    ],
)
def test_masks_that_are_changed_otherwise(model, patched, change):
    positive, negative = tile(model)
    for _, values in positive[1:]:
        values["mask"] = change(values["mask"])
    refused(patched, positive, negative, "changed otherwise than by cutting a tile out and resizing it")


def test_masks_that_are_gone(model, patched):
    positive, negative = tile(model)
    del positive[1][1]["mask"]
    refused(patched, positive, negative, "has taken the masks out of the prompts: put this one last")


def test_uncut_masks_in_half_precision(model, patched):
    sides = located(*prompts(model))
    for _, values in (*sides[0][1:], *sides[1][1:]):
        values["mask"] = values["mask"].bfloat16()
    refused(patched, *sides, "MEPA Tiles: nobody has cut")


def test_a_tile_that_is_the_whole_ad_is_told(model, patched, caplog):
    positive, negative = tile(model, (0, 0, *AD))
    for _, values in (*positive[1:], *negative[1:]):
        values["mask"] = torch.nn.functional.interpolate(values["mask"][None], (64, 128))[0]
    sample(patched, positive, negative, height=64, width=128)
    assert caplog.messages[-1] == "MEPA Tiles: one tile is the whole ad"
    assert "taken for the whole" not in caplog.text


def test_a_time_range_after_it_counts_for_nothing(model):
    """Which makes the host sample what was added; without any part of the pack, for with one it is taken out."""
    joined = host_nodes.ConditioningCombine().combine(*prompts(model))[0]
    sides = (cut(side) for side in located(joined, prompts(model)[1]))
    ranged = [run("ConditioningSetTimestepRange", conditioning=side, start=0.0, end=1.0) for side in sides]
    assert_near(
        sample(model, *ranged, height=96, width=96), sample(model, joined, prompts(model)[1], height=96, width=96)
    )


def test_prompts_that_are_joined_after_it(model, patched):
    positive, negative = tile(model)
    refused(
        patched, [*positive, *positive], negative, "a prompt has 8 of the 4 entries of this node.*put this one last"
    )
    refused(patched, positive[:2], negative, "a prompt has 1 of the 4 entries")


def test_the_hosts_own_nodes_may_come_after_it(model, patched):
    """A ControlNet is put on every entry; what it adds to those that are never sampled is nothing."""
    control_net = tiny_controlnet(model)
    sides = [cut(side) for side in controlled(control_net, *located(*prompts(model)))]
    made = guided(cfg(patched, *sides), height=96, width=96)
    plain = controlled(control_net, *prompts(model))
    assert_same(made, guided(cfg(cropped(patched), *plain), height=96, width=96))


def test_the_old_node_of_a_controlnet_after_it(model, patched):
    """It puts the ControlNet of one prompt into the other one too, entry by entry."""
    control_net, (positive, negative) = tiny_controlnet(model), prompts(model)
    joined = host_nodes.ConditioningCombine().combine(negative, positive)[0]

    def on(condition):
        return host_nodes.ControlNetApply().apply_controlnet(condition, control_net, reference(96, 96), 0.8)[0]

    sides = [cut(side) for side in located(positive, joined)]
    made = sample(patched, on(sides[0]), sides[1], height=96, width=96)
    assert torch.equal(made, sample(cropped(patched), on(positive), joined, height=96, width=96))


def test_a_prompt_that_has_been_through_it(model):
    with pytest.raises(ValueError, match="MEPA Tiles: the prompt has been through this node: use it once"):
        located(*located(*prompts(model)))


def test_an_empty_prompt(model):
    with pytest.raises(ValueError, match="MEPA Tiles: the prompt is empty"):
        located([], prompts(model)[1])


def test_joined_by_the_hosts_combine(model, patched):
    """One prompt of two texts: the node comes after Conditioning (Combine)."""
    first, second = prompts(model)
    joined = host_nodes.ConditioningCombine().combine(first, second)[0]
    positive, negative = (cut(side) for side in located(joined, second))
    made = sample(patched, positive, negative, height=96, width=96)
    assert torch.equal(made, sample(cropped(patched), joined, second, height=96, width=96))
