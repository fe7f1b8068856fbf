"""The IP-Adapter pack that most people use: the same numbers as its node, and both packs on one model."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack import adapter_files, models

MIDDLE = range(121, 140, 2)  # the pack's own key for the middle block is one the host never calls


@pytest.fixture(scope="module")
def wide_model():
    """SDXL's topology and context width, by which the pack recognises SDXL; everything else is tiny."""
    return models.tiny_model("sdxl", context_dim=2048)


@pytest.fixture(scope="module")
def adapter_file(host_base_directory, wide_model):
    """A linear adapter whose middle block has values of 0, so that it adds nothing wherever it is patched."""
    path = adapter_files.write_linear_adapter(
        host_base_directory / "models" / "ipadapter" / "peer.safetensors",
        adapter_files.cross_attention_widths(wide_model.model.diffusion_model),
        image_embed_dim=models.VISION_PROJECTION,
        context_dim=2048,
    )
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    for number in MIDDLE:
        tensors[f"ip_adapter.{number}.to_v_ip.weight"].zero_()
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def theirs(ip_adapter_plus, adapter_file, tiny_clip_vision):
    """Function: MODEL -> MODEL patched by the pack's own node."""
    nested = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in load_file(adapter_file).items():
        part, name = key.split(".", 1)
        with torch.inference_mode():  # as its loader node gets them
            nested[part][name] = tensor.clone()

    def patched(model, weight=1.0, attn_mask=None, image=None, start_at=0.0, end_at=1.0):
        embeds = tiny_clip_vision.encode_image(reference(224, 224) if image is None else image)["image_embeds"]
        with torch.inference_mode():
            out, *_ = ip_adapter_plus.IPAdapterEmbeds().apply_ipadapter(
                model,
                nested,
                embeds,
                weight,
                "linear",
                start_at,
                end_at,
                neg_embed=torch.zeros_like(embeds),
                attn_mask=attn_mask,
            )
        return out

    return patched


@pytest.fixture(scope="module")
def ours(adapter_file, tiny_clip_vision):
    """Function: MODEL -> MODEL patched by MEPA Apply with the same file and picture."""

    def patched(model, image=None, **options):
        prompt = image_prompt(
            tiny_clip_vision, adapter_file, image=reference(224, 224) if image is None else image, fit="crop"
        )
        return apply(model, prompt, **options)

    return patched


def assert_near(first, second, tolerance=2e-5):
    assert (first - second).norm() / second.norm() < tolerance


@pytest.mark.parametrize(
    ("strength", "masked", "batch"), [(1.0, False, 1), (0.6, True, 1), (0.6, False, 2), (1.0, True, 2)]
)  # any two of them in each of their values
def test_masked_equation_4_equals_their_node(wide_model, theirs, ours, strength, masked, batch):
    mask = right_half() if masked else None
    expected = sample(theirs(wide_model, strength, mask), batch=batch)
    assert_near(sample(ours(wide_model, strength=strength, region=mask), batch=batch), expected)
    vanilla = sample(wide_model, batch=batch)
    assert (expected - vanilla).norm() / vanilla.norm() > 0.05  # the adapter does something


def test_the_comparison_can_fail(wide_model, theirs, ours):
    expected = sample(theirs(wide_model, 1.0, right_half()))
    wrong = sample(ours(wide_model, region=1 - right_half()))
    assert (wrong - expected).norm() / expected.norm() > 0.01


def test_both_packs_on_one_model_in_either_order(wide_model, theirs, ours):
    """With all of the text kept both add to it, so their order does not matter, and neither gets lost."""
    other = reference(224, 224, seed=9)
    mask = right_half()
    theirs_first = sample(ours(theirs(wide_model, 1.0, 1 - mask, other), region=mask), steps=1)
    ours_first = sample(theirs(ours(wide_model, region=mask), 1.0, 1 - mask, other), steps=1)
    assert_near(ours_first, theirs_first)
    for single in (ours(wide_model, region=mask), theirs(wide_model, 1.0, 1 - mask, other)):
        assert (sample(single, steps=1) - ours_first).norm() / ours_first.norm() > 1e-3


def test_their_window_is_kept_when_they_come_second(wide_model, theirs, ours):
    mask = right_half()
    alone = ours(wide_model, region=mask)
    never = theirs(alone, 1.0, None, reference(224, 224, seed=9), 0.4, 0.6)  # no step of two falls in it
    assert torch.equal(sample(never), sample(alone))


def test_theirs_on_a_clone_of_ours_leaves_ours_alone(wide_model, theirs, ours):
    mine = ours(wide_model)
    before = sample(mine, steps=1)
    theirs(mine)
    assert torch.equal(sample(mine, steps=1), before)


def test_clip_vision_output_feeds_their_node(wide_model, theirs, ip_adapter_plus, tiny_clip_vision):
    """PFV Image Encode's standard output stands in for the host's encoder."""
    from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize

    image = reference(224, 224)
    inputs = {"clip_vision": tiny_clip_vision, "reference": image}
    patch_mask, _ = outputs(PFVMaskRebinarize, **inputs, fit="crop", threshold=0.0)
    _, output = outputs(PFVImageEncode, **inputs, patch_mask=patch_mask, mode="drop")
    expected = tiny_clip_vision.encode_image(image)
    for name in ("last_hidden_state", "penultimate_hidden_states", "image_embeds"):
        assert torch.equal(output[name], expected[name]), name
    assert output.mm_projected is None
