"""What must not change: a switched-off, removed or empty prompt leaves the sampled latent as it was, to the bit."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.nodes.host.cross_attention import apply_image_prompt, image_prompt_patches
from pfv_mepa.pfv_core.attention.control import Gate, PromptControl
from pfv_mepa.tests.host.sampling import apply, image_prompt, recorded_calls, right_half, sample
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

# Cross-attentions of the released models, counted in their configurations.
COUNTS = {"sdxl": 70, "ssd1b": 34, "vega": 15, "koala700m": 21, "koala1b": 30}


@pytest.fixture(scope="module")
def prompt(tiny_clip_vision, plus_adapter_file):
    return image_prompt(tiny_clip_vision, plus_adapter_file)


@pytest.fixture(scope="module")
def sd15_adapter_file(host_base_directory, tiny_model_of):
    unet = tiny_model_of("sd15").model.diffusion_model
    return adapter_files.write_plus_adapter(
        host_base_directory / "models" / "ipadapter" / "tiny-sd15-plus.safetensors",
        adapter_files.cross_attention_widths(unet),
        encoder_width=models.VISION_WIDTH,
        context_dim=models.CONTEXT_DIM,
    )


@pytest.mark.parametrize("gate", ["output", "query"])
@pytest.mark.parametrize("text_share", [0.0, 1.0])
def test_strength_zero_is_the_unpatched_model(tiny_model, prompt, gate, text_share):
    patched = apply(tiny_model, prompt, strength=0.0, gate=gate, text_share=text_share, region=right_half())
    assert (sample(patched) - sample(tiny_model)).abs().max() == 0.0


def test_removing_the_node_leaves_the_model_as_it_was(tiny_model, prompt):
    before = sample(tiny_model)
    patched = apply(tiny_model, prompt)
    changed = sample(patched)
    del patched
    assert (sample(tiny_model) - before).abs().max() == 0.0
    assert not torch.equal(changed, before)


def test_empty_region_with_all_text_is_the_unpatched_model(tiny_model, prompt):
    empty = torch.zeros(1, 128, 128)
    patched = apply_image_prompt(tiny_model, prompt, PromptControl(1.0, 1.0, Gate.OUTPUT), empty)
    assert (sample(patched) - sample(tiny_model)).abs().max() == 0.0


def test_empty_region_of_one_image_leaves_that_image_as_it_was(tiny_model, prompt):
    region = right_half(batch=2)
    region[1] = 0
    together, vanilla = sample(apply(tiny_model, prompt, region=region), batch=2), sample(tiny_model, batch=2)
    assert torch.equal(together[1], vanilla[1])
    assert not torch.equal(together[0], vanilla[0])


def test_outside_its_window_a_prompt_is_absent(tiny_model, prompt):
    between = apply(
        tiny_model, prompt, start_percent=0.4, end_percent=0.6
    )  # two steps: the first and the last noise level
    assert (sample(between) - sample(tiny_model)).abs().max() == 0.0
    early = apply(tiny_model, prompt, start_percent=0.0, end_percent=0.4)
    whole = apply(tiny_model, prompt)
    assert not torch.equal(sample(early, steps=4), sample(whole, steps=4))
    assert not torch.equal(sample(early, steps=4), sample(tiny_model, steps=4))


@pytest.mark.parametrize("topology", COUNTS)
def test_every_cross_attention_is_patched_and_fires(tiny_model_of, prompt, topology):
    model = tiny_model_of(topology)
    patched = apply(model, prompt)
    slots = patched.model_options["transformer_options"]["patches_replace"]["attn2"]
    with recorded_calls() as calls:
        sample(patched, steps=1)
    fired = {(*call["block"], call["block_index"]) for call in calls}
    assert len(slots) == len(calls) == len(fired) == COUNTS[topology]
    assert fired == set(slots)
    if topology in ("sdxl", "koala1b"):
        assert any(key[:2] == ("middle", 0) for key in fired)


def test_each_layer_counts(tiny_model, prompt):
    """Silencing one layer's values at a time changes the latent, so each of the 70 feeds its own block."""
    baseline = sample(apply(tiny_model, prompt), steps=1)
    (patch,) = image_prompt_patches(apply(tiny_model, prompt))
    positive, negative = patch.prompts[0].image_prompt.keys_values
    for layer in (0, 3, 23, 24, 53, 54, 59, 60, 69):
        kept = [pairs[layer] for pairs in (positive, negative)]
        for pairs in (positive, negative):
            pairs[layer] = (pairs[layer][0], torch.zeros_like(pairs[layer][1]))
        changed = sample(apply(tiny_model, prompt), steps=1)
        for pairs, pair in zip((positive, negative), kept, strict=True):
            pairs[layer] = pair
        assert not torch.equal(changed, baseline), layer
    assert torch.equal(sample(apply(tiny_model, prompt), steps=1), baseline)


def test_sd15_is_patched_and_fires(tiny_model_of, tiny_clip_vision, sd15_adapter_file):
    prompt = image_prompt(tiny_clip_vision, sd15_adapter_file)
    patched = apply(tiny_model_of("sd15"), prompt)
    with recorded_calls() as calls:
        sample(patched, steps=1)
    assert len(calls) == len({(*call["block"], call["block_index"]) for call in calls}) == 16


def test_the_region_rules_where_it_is(tiny_model, prompt):
    """At the patched attention's own output: rows outside the region are the text's bits, rows inside are not."""
    seen = []

    def compare(out, query, key, value, options, **kwargs):
        from pfv_mepa.nodes.host.slots import host_attention

        text = host_attention(options)(query, key, value)
        rows, columns = options["activations_shape"][-2:]
        same = (out == text).all(-1).view(-1, rows, columns)
        seen.append((bool(same[:, :, : columns // 2].all()), bool(same[:, :, columns // 2 :].any())))
        return torch.zeros_like(out)

    patched = apply(tiny_model, prompt, region=right_half())
    for slot in patched.model_options["transformer_options"]["patches_replace"]["attn2"].values():
        slot.add(compare)
    sample(patched, steps=1)
    assert len(seen) == 70
    assert set(seen) == {(True, False)}
