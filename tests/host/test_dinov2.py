"""PFV with DINOv2 as the host's CLIP Vision loader gives it: 37x37 patches of 518 px and a class token."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from transformers import Dinov2Config, Dinov2Model

from lab.diffusers.vision import Dinov2Encoder
from pfv_core.reference.fit import fit_geometry
from pfv_core.reference.patch_mask import rebinarize
from pfv_core.reference.vit import encode_image
from pfv_mepa.nodes.host.vit import encoder_spec
from pfv_mepa.nodes.mepa.branch_nodes import MEPABranch
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.pfv_core.reference.vit import EncoderSpec
from pfv_mepa.tests.host.sampling import apply, image_prompt, outputs, painted, reference, right_half, sample
from pfv_mepa.tests.support.tiny_stack.host_pack.architectures import clip_vision_from_config
from pfv_mepa.tests.support.tiny_stack.models import VISION_WIDTH, randomize

CONFIG = {  # the host's dino2_large.json, narrow and shallow
    "model_type": "dinov2",
    "hidden_size": VISION_WIDTH,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
    "image_size": 518,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}


@pytest.fixture(scope="module")
def dinov2():
    clip_vision = clip_vision_from_config(CONFIG)
    randomize(clip_vision.model, seed=12)
    with torch.no_grad():  # layer scales are vectors, which are drawn small: as large as in trained ones here
        for layer in clip_vision.model.encoder.layer:
            layer.layer_scale1.lambda1.fill_(0.8)
            layer.layer_scale2.lambda1.fill_(0.6)
    return clip_vision


def encode(dinov2, image, mask=None, fit="stretch", mode="drop"):
    patch_mask, hidden = outputs(
        PFVMaskRebinarize, clip_vision=dinov2, reference=image, fit=fit, threshold=0.0, mask=mask
    )
    tokens, output = outputs(PFVImageEncode, clip_vision=dinov2, reference=image, patch_mask=patch_mask, mode=mode)
    return tokens, output, patch_mask, hidden


def test_its_sizes(dinov2):
    assert encoder_spec(dinov2) == EncoderSpec(518, 14, 3, VISION_WIDTH, VISION_WIDTH)
    assert EncoderSpec(518, 14, 24, 1024, 1024).name.startswith("DINOv2-L/14")


@pytest.mark.parametrize(("fit", "crop"), [("crop", True), ("stretch", False)])
@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_nothing_hidden_is_the_hosts_own_encoder(dinov2, fit, crop, mode):
    image = reference(240, 320, batch=2)
    _, output, _, _ = encode(dinov2, image, fit=fit, mode=mode)
    expected = dinov2.encode_image(image, crop=crop)
    for name in ("last_hidden_state", "penultimate_hidden_states", "image_embeds"):
        assert torch.equal(output[name], expected[name]), name


def test_the_trainers_encoder_gives_the_same_tokens(dinov2, tmp_path):
    """transformers' DINOv2 on the same weights: pictures are encoded in training as the nodes encode them."""
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "layer_norm_eps",
        "use_swiglu_ffn",
        "image_size",
    )
    Dinov2Config(patch_size=14, **{name: CONFIG[name] for name in names}).save_pretrained(tmp_path)
    save_file(dinov2.model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    model = Dinov2Model.from_pretrained(tmp_path, dtype=torch.float32, local_files_only=True).eval()
    theirs = Dinov2Encoder(model)
    assert tuple(vars(theirs.spec).values()) == tuple(vars(encoder_spec(dinov2)).values())
    assert (list(theirs.mean), list(theirs.std)) == (CONFIG["image_mean"], CONFIG["image_std"])
    keep = torch.ones(1, 518, 518, dtype=torch.bool)
    keep[:, :, :140] = False
    picture = reference(518, 518)
    ours, *_ = encode(dinov2, picture, 1.0 - keep.float(), fit="crop", mode="zero")
    patch_mask = rebinarize(keep, fit_geometry(518, 518, 518, 14, "crop"))
    with torch.inference_mode():
        found = encode_image(theirs, picture.movedim(-1, 1), patch_mask, "zero")
    torch.testing.assert_close(found.last[0], ours.last[0], rtol=1e-4, atol=1e-4)


def test_hidden_patches_leave_the_sequence(dinov2):
    """A 14-px cell of the 518-px input each: the left 10 of 37 columns."""
    mask = torch.zeros(1, 518, 518)
    mask[:, :, :140] = 1
    tokens, _, patch_mask, hidden = encode(dinov2, reference(518, 518), mask)
    assert patch_mask.token_keep_mask.shape == (1, 37 * 37)
    assert tokens.last[0].shape == tokens.penultimate[0].shape == (1 + 37 * 27, VISION_WIDTH)
    assert torch.equal(hidden, mask)
    assert torch.equal(tokens.image_embeds[0], tokens.last[0][0])
    zeroed, *_ = encode(dinov2, reference(518, 518), mask, mode="zero")
    assert zeroed.last[0].shape == (1 + 37 * 37, VISION_WIDTH)
    assert not torch.allclose(zeroed.image_embeds, tokens.image_embeds, atol=1e-3)


@pytest.mark.parametrize("mode", ["drop", "zero"])
@pytest.mark.parametrize("value", [0.0, 1e6, float("nan")])
def test_hidden_pixels_change_no_bit_and_visible_ones_do(dinov2, mode, value):
    image, mask = reference(), painted()
    before, _, _, hidden = encode(dinov2, image, mask, mode=mode)
    under = torch.where(hidden[..., None] > 0, value, image)
    after, *_ = encode(dinov2, under, mask, mode=mode)
    assert torch.equal(before.last[0], after.last[0])
    assert torch.equal(before.penultimate[0], after.penultimate[0])
    seen, *_ = encode(dinov2, torch.where(hidden[..., None] > 0, image, 1 - image), mask, mode=mode)
    assert not torch.equal(before.last[0], seen.last[0])


def test_branches_of_both_encoders_in_one_layer(tiny_model_of, tiny_clip_vision, dinov2, plus_adapter_file):
    """Appearance by DINOv2 and style by CLIP, each with its own region, on one model."""
    model = tiny_model_of("vega")
    appearance = image_prompt(dinov2, plus_adapter_file, mask=painted())
    style = image_prompt(tiny_clip_vision, plus_adapter_file)
    assert not torch.allclose(appearance.positive, style.positive, atol=1e-2)
    defaults = {"strength": 1.0, "text_share": 1.0, "gate": "output", "start_percent": 0.0, "end_percent": 1.0}
    (branches,) = outputs(MEPABranch, image_prompt=appearance, **defaults, std_norm=True, region=right_half())
    both = sample(apply(model, style, branches=branches), steps=1)
    assert not torch.equal(both, sample(apply(model, style), steps=1))
    assert not torch.equal(both, sample(apply(model, appearance, region=right_half(), std_norm=True), steps=1))
