"""An attention-couple pack in the same graph: it repeats the rows of the positive prompt, one set for each text region."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.nodes.mepa.text_nodes import MEPAApplyText
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, right_half, sample
from pfv_mepa.tests.support.tiny_stack.models import tiny_conditioning


@pytest.fixture(scope="module")
def coupled(unet_couple):
    """Function: MODEL -> MODEL with one more text prompt in the right half."""

    def patched(model, second_seed):
        base, second = tiny_conditioning(model, seed=6), tiny_conditioning(model, seed=second_seed)
        clone = model.clone()
        mask = torch.stack([1 - right_half(), right_half()])
        clone.set_model_attn2_patch(
            unet_couple.unet_attn2_couple_wrapper(base, [second], 2, False, torch.device("cpu"), torch.float32)
        )
        clone.set_model_attn2_output_patch(unet_couple.unet_attn2_output_couple_wrapper(mask))
        return clone

    return patched


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


@pytest.mark.parametrize("order", ["couple first", "MEPA first"])
def test_couple_and_image_prompt_together(tiny_model, coupled, prompt, order):
    def both(second_seed):
        if order == "couple first":
            return apply(coupled(tiny_model, second_seed), prompt, region=right_half())
        return coupled(apply(tiny_model, prompt, region=right_half()), second_seed)

    together = sample(both(8), steps=1)
    for single in (coupled(tiny_model, 8), apply(tiny_model, prompt, region=right_half())):
        assert (sample(single, steps=1) - together).norm() / together.norm() > 1e-3
    # Two equal texts are one text: the pack's row juggling must not change what the image prompt gives.
    same = sample(both(6), steps=1)
    alone = sample(apply(tiny_model, prompt, region=right_half()), steps=1)
    assert (same - alone).norm() / alone.norm() < 2e-5


def test_negative_and_positive_are_not_mixed_up(tiny_model, coupled, prompt):
    """At cfg 1 the positive runs alone; just above it, beside the negative. Taking one's rows for the other's would show."""
    patched = apply(coupled(tiny_model, 8), prompt)
    alone = sample(patched, steps=1, cfg=1.0)
    with_negative = sample(patched, steps=1, cfg=1.0 + 1e-6)
    assert (with_negative - alone).norm() / alone.norm() < 1e-4


@pytest.mark.parametrize("order", ["couple first", "MEPA first"])
def test_couple_and_a_region_with_a_text_of_its_own(tiny_model, coupled, order):
    """The couple's rows keep its second text; the main text once more, in its other half or anywhere, is the couple alone."""

    def both(seed, region):
        def with_text(model):
            given = {"text": tiny_conditioning(tiny_model, seed=seed), "region": region, "strength": 1.0}
            return outputs(MEPAApplyText, model=model, **given, start_percent=0.0, end_percent=1.0)[0]

        patched = with_text(coupled(tiny_model, 8)) if order == "couple first" else coupled(with_text(tiny_model), 8)
        return sample(patched, steps=1)

    alone = sample(coupled(tiny_model, 8), steps=1)
    for region in (1 - right_half(), torch.ones_like(right_half())):
        assert (both(6, region) - alone).norm() / alone.norm() < 2e-5
    assert (both(11, 1 - right_half()) - alone).norm() / alone.norm() > 1e-3
