"""open_clip_vit: open_clip's own vision tower, masked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pfv_mepa.pfv_core.reference.fit import fit_geometry
from pfv_mepa.pfv_core.reference.open_clip_vit import OPENAI_MEAN, OPENAI_STD, OpenClipVit, load_open_clip
from pfv_mepa.pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_mepa.pfv_core.reference.vit import EncoderSpec, encode_image, encode_pixels, encode_uncond

from .third_party import import_third_party
from .tolerances import assert_close
from .weights import image, noise, randomize

SIZES = {"image_size": 28, "patch_size": 7, "width": 32, "layers": 3, "heads": 4, "mlp_ratio": 2.0, "output_dim": 12}
TINY_MODEL = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 28, "patch_size": 7, "width": 64, "layers": 2},  # heads are 64 wide
    "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def open_clip() -> ModuleType:
    return import_third_party("open_clip")


@pytest.fixture(scope="module")
def make_visual(open_clip):
    def make(**changes) -> nn.Module:
        visual = open_clip.transformer.VisionTransformer(**{**SIZES, **changes})
        return randomize(visual, seed=1)

    return make


def states(visual: nn.Module, pixel_values: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of the last two blocks in the model's own forward pass, (B, 1 + N, D)."""
    seen: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: seen.append(call[2])) for block in visual.transformer.resblocks]
    tokens = visual._embeds(pixel_values)
    visual.transformer(tokens, **options)
    for hook in hooks:
        hook.remove()
    batch_first = seen[-1].shape[0] == pixel_values.shape[0]
    penultimate, last = (state if batch_first else state.transpose(0, 1) for state in seen[-2:])
    return last, penultimate


def make_mask(keep: torch.Tensor, fit: str = "stretch") -> PatchMask:
    return rebinarize(keep, fit_geometry(keep.shape[1], keep.shape[2], 28, 7, fit))


def test_sizes_are_read_from_the_model(make_visual):
    encoder = OpenClipVit(make_visual())
    assert encoder.spec == EncoderSpec(image_size=28, patch_size=7, num_layers=3, hidden_size=32, projection_size=12)
    assert (encoder.mean, encoder.std) == (OPENAI_MEAN, OPENAI_STD)
    assert not encoder.visual.training


def test_a_models_own_normalisation_is_used(make_visual):
    visual = make_visual()
    visual.image_mean, visual.image_std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.1]
    encoder = OpenClipVit(visual)
    assert encoder.mean == (0.5, 0.4, 0.3)
    assert encoder.std == (0.2, 0.2, 0.1)


@pytest.mark.parametrize("changes", [{}, {"no_ln_pre": True}, {"ls_init_value": 0.5}, {"final_ln_after_pool": True}])
@pytest.mark.parametrize("batch", [1, 3])
def test_all_visible_is_the_models_own_answer(make_visual, changes, batch):
    visual = make_visual(**changes)
    pixel_values = noise(batch, 3, 28, 28, seed=2)
    everything = torch.ones(batch, 16, dtype=torch.bool)
    last, penultimate, pooled = encode_pixels(OpenClipVit(visual), pixel_values, everything, everything)
    own_last, own_penultimate = states(visual, pixel_values)
    assert_close(torch.stack(last), own_last)
    assert_close(torch.stack(penultimate), own_penultimate)
    assert_close(pooled, visual(pixel_values))


def test_drop_is_attention_with_minus_infinity_on_hidden_keys(make_visual):
    visual = make_visual()
    encoder = OpenClipVit(visual)
    pixel_values = noise(1, 3, 28, 28, seed=3)
    keep = torch.rand(1, 16, generator=torch.Generator().manual_seed(4)) > 0.5
    last, penultimate, pooled = encode_pixels(encoder, pixel_values, keep, keep)
    with_class_token = torch.cat([torch.tensor([True]), keep[0]])
    bias = torch.zeros(17, 17).masked_fill(~with_class_token[None], float("-inf"))
    own_last, own_penultimate = states(visual, pixel_values, attn_mask=bias)
    assert last[0].shape == (1 + int(keep.sum()), 32)
    assert_close(last[0], own_last[0][with_class_token])
    assert_close(penultimate[0], own_penultimate[0][with_class_token])
    assert_close(pooled, encoder.pool(own_last))


@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_hidden_pixels_change_no_bit(make_visual, mode):
    encoder = OpenClipVit(make_visual())
    keep = torch.ones(2, 40, 30, dtype=torch.bool)
    keep[0, :13], keep[1, 22:, 9:] = False, False
    pixels = image(2, 3, 40, 30, seed=5)
    poisoned = torch.where(keep[:, None], pixels, float("nan"))
    one, two = (encode_image(encoder, which, make_mask(keep, "pad"), mode) for which in (pixels, poisoned))
    assert all(torch.equal(*pair) for pair in zip(one.last, two.last, strict=True))
    assert all(torch.equal(*pair) for pair in zip(one.penultimate, two.penultimate, strict=True))
    assert torch.equal(one.image_embeds, two.image_embeds)


def test_uncond_is_the_models_answer_to_zero_pixels(make_visual):
    visual = make_visual()
    assert_close(encode_uncond(OpenClipVit(visual)), states(visual, torch.zeros(1, 3, 28, 28))[1])


def test_towers_of_another_kind_are_refused_by_name(make_visual, open_clip):
    with pytest.raises(
        ValueError, match=r"Linear is not a plain CLIP ViT \(missing \['conv1', .*use an open_clip model"
    ):
        OpenClipVit(nn.Linear(2, 2))
    without = make_visual()
    without.proj = None
    with pytest.raises(
        ValueError, match=r"VisionTransformer is not a plain CLIP ViT \(missing a class-token projection"
    ):
        OpenClipVit(without)
    for changes in ({"attentional_pool": True, "attn_pooler_heads": 4}, {"pool_type": "avg"}):
        with pytest.raises(ValueError, match="VisionTransformer is not a plain CLIP ViT"):
            OpenClipVit(make_visual(**changes))
    resnet = open_clip.modified_resnet.ModifiedResNet((1, 1, 1, 1), 8, 2, image_size=32, width=8)
    with pytest.raises(ValueError, match="ModifiedResNet is not a plain CLIP ViT"):
        OpenClipVit(resnet)


@pytest.fixture
def tiny_architecture(open_clip, tmp_path) -> str:
    """A model that open_clip knows by name, as it knows ViT-H-14."""
    (tmp_path / "tiny-test-vit.json").write_text(json.dumps(TINY_MODEL), encoding="utf-8")
    open_clip.add_model_config(tmp_path)
    return "tiny-test-vit"


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_are_loaded_from_a_local_file(open_clip, tiny_architecture, tmp_path, suffix, dtype):
    model = randomize(open_clip.create_model(tiny_architecture, pretrained=None), seed=6)
    path = tmp_path / f"weights.{suffix}"
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if suffix == "bin":
        torch.save(state, path)
    else:
        save_file(state, path)
    encoder = load_open_clip(path, tiny_architecture, dtype)
    assert encoder.spec.hidden_size == 64
    assert encoder.visual.conv1.weight.dtype == dtype
    assert torch.equal(encoder.visual.proj, model.visual.proj.to(dtype))


def test_a_missing_file_is_said_with_its_path(open_clip, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no open_clip weights at .*nothing.safetensors"):
        load_open_clip(tmp_path / "nothing.safetensors")


def test_without_open_clip_the_error_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ModuleNotFoundError, match="open_clip"):
        load_open_clip(Path("weights.safetensors"))
