"""MEPA Crop: a part of the ad that is sampled as a picture of its own sees its part of every mask."""

from __future__ import annotations

import logging

import pytest
import torch

from pfv_mepa.nodes.host import facts
from pfv_mepa.nodes.mepa.crop_nodes import MEPACrop
from pfv_mepa.pfv_core.research.mask_input import MaskInput
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, right_half, sample
from pfv_mepa.tests.host.test_fusion import fuse
from pfv_mepa.tests.host.test_mask_input import kernel, with_mask
from pfv_mepa.tests.host.test_mask_input import write as write  # a fixture


@pytest.fixture(scope="module")
def model(tiny_model_of):
    return tiny_model_of("few")


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


def crop(model, x, y, width, height, ad=(256, 128)):
    return outputs(MEPACrop, model=model, x=x, y=y, width=width, height=height, ad_width=ad[0], ad_height=ad[1])[0]


def ad_mask():
    """1 in a box of the ad, 256 wide and 128 high, that straddles its middle."""
    mask = torch.zeros(1, 128, 256)
    mask[:, 32:96, 100:200] = 1
    return mask


PARTS = ["prompt", "fusion", "mask"]


def put(part, model, mask, prompt, write):
    if part == "prompt":
        return apply(model, prompt, region=mask, text_share=0.0)
    return fuse(model, product_mask=mask) if part == "fusion" else with_mask(model, write(MaskInput(kernel())), mask)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("at", [0, 64, 128])
def test_a_part_of_the_ad_sees_its_part_of_the_mask(model, prompt, write, part, at):
    whole = put(part, model, ad_mask(), prompt, write)
    cut = put(part, model, ad_mask()[:, :, at : at + 128], prompt, write)
    assert torch.equal(sample(crop(whole, at, 0, 128, 128)), sample(cut))
    other = put(part, model, ad_mask()[:, :, 128 - at : 256 - at].flip(2), prompt, write)
    assert not torch.equal(sample(cut), sample(other))


def test_it_may_be_sampled_at_another_size(model, prompt):
    """As a detailer does: 64x64 pixels of the ad drawn at 128x128."""
    enlarged = ad_mask()[:, 32:96, 64:128].repeat_interleave(2, 1).repeat_interleave(2, 2)
    whole = apply(model, prompt, region=ad_mask(), text_share=0.0)
    assert torch.equal(
        sample(crop(whole, 64, 32, 64, 64)), sample(apply(model, prompt, region=enlarged, text_share=0.0))
    )


def test_the_model_and_its_other_clones_stay_as_they_are(model, prompt):
    patched = apply(model, prompt, region=right_half())
    before = sample(patched)
    cropped = crop(patched, 64, 0, 64, 128, ad=(128, 128))
    assert not torch.equal(sample(cropped, width=64), sample(patched, width=128)[..., :8])
    assert torch.equal(sample(patched), before)


def test_without_it_a_mask_of_another_size_is_said_to_be_the_whole_frame(model, prompt, caplog):
    patched = apply(model, prompt, region=right_half(256, 256))
    with caplog.at_level(logging.WARNING):
        sample(patched)
    (told,) = [record.message for record in caplog.records if "MEPA" in record.message]
    assert "the image being sampled is 128x128, masks of 256x256 (height x width) are taken for the whole of it" in told
    assert "put MEPA Crop before it, or MEPA Tiles on its prompts" in told
    caplog.clear()
    sample(apply(model, prompt, region=right_half()))
    assert "MEPA" not in caplog.text


def test_of_tiles_of_the_masks_own_size_the_node_that_makes_them_is_told(model, prompt, caplog, monkeypatch):
    """Their size does not show that they are none of the ad's whole."""
    monkeypatch.setattr(facts, "drawing_node", lambda: "UltimateSDUpscale")
    patched = apply(model, prompt, region=right_half())
    sample(patched)
    assert "UltimateSDUpscale encodes and decodes by itself" in caplog.text
    assert (
        "masks of 128x128 (height x width) are taken for the whole of each: give it prompts from MEPA Tiles"
        in caplog.text
    )
    caplog.clear()
    sample(crop(patched, 0, 0, 128, 128, ad=(128, 128)))
    sample(apply(model, prompt))
    assert "MEPA" not in caplog.text


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ((200, 0, 64, 128), "along x the part goes from 200 to 264, the ad from 0 to 256"),
        ((0, 100, 64, 64), "along y the part goes from 100 to 164, the ad from 0 to 128"),
    ],
)
def test_a_part_outside_the_ad_is_refused(model, place, message):
    with pytest.raises(ValueError, match=message):
        crop(model, *place)


def test_a_mask_of_another_size_than_the_ad_is_refused(model, prompt):
    patched = crop(apply(model, prompt, region=right_half()), 0, 0, 128, 128)
    with pytest.raises(ValueError, match="the region is 128x128, MEPA Crop says that the ad is 128x256"):
        sample(patched)
    other = crop(apply(model, prompt, region=ad_mask()), 0, 0, 256, 64)
    with pytest.raises(ValueError, match="the region is 64x256, the image being sampled is 128x128"):
        sample(other)
