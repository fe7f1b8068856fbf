"""The nodes in the real host: what they give, and that hidden pixels give nothing."""

from __future__ import annotations

import asyncio
import json
import re

import comfy.clip_vision
import nodes as host_nodes
import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from headless.host.find import PACK_ROOT
from pfv_mepa.nodes.ad.compose_nodes import PFVDepthCompose
from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
from pfv_mepa.nodes.extension import NODES, PFVExtension
from pfv_mepa.nodes.host.vit import HostVit
from pfv_mepa.nodes.mepa.apply_nodes import MEPAAdapterLoader, PFVTokenCompress
from pfv_mepa.nodes.reference.encode_nodes import PFVImageEncode, PFVMaskRebinarize
from pfv_mepa.pfv_core.reference.open_clip_vit import OpenClipVit
from pfv_mepa.pfv_core.reference.vit import encode_pixels
from pfv_mepa.tests.host.sampling import NODE_IDS, apply, image_prompt, outputs, painted, reference, sample
from pfv_mepa.tests.support.tiny_stack import models
from pfv_mepa.tools.draw_pictures import HELP

DOCS = PACK_ROOT / "web" / "docs"


def test_node_ids_are_stable():
    nodes = asyncio.run(PFVExtension().get_node_list())
    assert tuple(node.GET_SCHEMA().node_id for node in nodes) == NODE_IDS


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_every_input_and_output_says_what_it_is(node):
    schema = node.GET_SCHEMA()
    assert schema.description
    for port in (*schema.inputs, *schema.outputs):
        assert port.tooltip, port.id
        if port.get_io_type() == "FLOAT":
            assert "0:" in port.tooltip or "0 " in port.tooltip, port.id


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_every_help_page_shows_a_picture_that_the_node_made(node_id):
    page = (DOCS / f"{node_id}.md").read_text(encoding="utf-8")
    (caption,) = re.findall(rf"^!\[(.+)\]\({node_id}\.jpg\)$", page, re.MULTILINE)
    assert len(caption) > 10
    with Image.open(DOCS / f"{node_id}.jpg") as picture:
        assert min(picture.size) > 100
    assert node_id in HELP, "tools/draw_pictures.py cannot draw it"


def rebinarize(clip_vision, image, mask=None, fit="pad", threshold=0.0):
    return outputs(PFVMaskRebinarize, clip_vision=clip_vision, reference=image, fit=fit, threshold=threshold, mask=mask)


def encode(clip_vision, image, patch_mask, mode="drop"):
    return outputs(PFVImageEncode, clip_vision=clip_vision, reference=image, patch_mask=patch_mask, mode=mode)


@pytest.mark.parametrize(("fit", "crop"), [("crop", True), ("stretch", False)])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 201), (224, 224), (100, 60)])
@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_nothing_hidden_is_the_hosts_own_encoder(tiny_clip_vision, fit, crop, height, width, mode):
    image = reference(height, width, batch=2)
    patch_mask, hidden = rebinarize(tiny_clip_vision, image, fit=fit)
    _, output = encode(tiny_clip_vision, image, patch_mask, mode)
    expected = tiny_clip_vision.encode_image(image, crop=crop)
    for name in ("last_hidden_state", "penultimate_hidden_states", "image_embeds"):
        assert torch.equal(output[name], expected[name]), name
    if fit == "stretch":
        assert not hidden.any()


def test_pad_sees_the_whole_of_a_wide_picture(tiny_clip_vision):
    """400x200: 8 of the 16 patch rows hold the picture; the rest is padding and leaves the sequence."""
    image = reference(200, 400)
    patch_mask, hidden = rebinarize(tiny_clip_vision, image)
    tokens, _ = encode(tiny_clip_vision, image, patch_mask)
    assert tokens.penultimate[0].shape == (1 + 8 * 16, models.VISION_WIDTH)
    assert not hidden.any()
    assert patch_mask.kept_share.tolist() == [1.0]


def test_painted_mask_and_preview(tiny_clip_vision, host_base_directory):
    image, mask = reference(), painted()
    result = PFVMaskRebinarize.execute(tiny_clip_vision, image, "crop", 0.0, mask)
    patch_mask, hidden = result.args
    assert (hidden[mask > 0.5] == 1).all()  # whatever is painted is hidden, and whole patches with it
    assert hidden.shape == mask.shape
    (shown,) = result.ui["images"]
    picture = Image.open(host_base_directory / "temp" / shown["subfolder"] / shown["filename"])
    assert picture.size == (320, 240)
    pixel = np.asarray(picture)[97, 137] / 255  # painted, and on no line of the grid
    assert np.allclose(pixel, 0.25 * image[0, 97, 137].numpy() + 0.75 * np.array([0.85, 0.1, 0.35]), atol=0.02)
    assert result.ui["kept_share"] == [round(patch_mask.kept_share.item(), 4)]
    assert 0 < patch_mask.kept_share.item() < 1


def test_alpha_hides_what_is_transparent(tiny_clip_vision, host_base_directory):
    """A file with alpha, through the host's own LoadImage."""
    rgba = np.random.default_rng(0).integers(0, 256, (96, 128, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    rgba[30:60, 40:90, 3] = 0
    (host_base_directory / "input").mkdir(exist_ok=True)
    Image.fromarray(rgba, "RGBA").save(host_base_directory / "input" / "cutout.png")
    image, mask = host_nodes.LoadImage().load_image("cutout.png")
    _, hidden = rebinarize(tiny_clip_vision, image, mask, fit="stretch")
    assert (hidden[0, 30:60, 40:90] == 1).all()
    assert (hidden[0, :20] == 0).all()


@pytest.mark.parametrize("mode", ["drop", "zero"])
def test_batch_whose_images_keep_different_numbers(tiny_clip_vision, plus_adapter_file, mode):
    image = reference(batch=3)
    mask = torch.zeros(3, 240, 320)
    for index, side in enumerate((20, 120, 60)):
        mask[index, :side, :side] = 1
    patch_mask, _ = rebinarize(tiny_clip_vision, image, mask)
    tokens, output = encode(tiny_clip_vision, image, patch_mask, mode)
    (adapter,) = outputs(MEPAAdapterLoader, adapter_name=plus_adapter_file.name)
    (prompt,) = outputs(PFVTokenCompress, image_tokens=tokens, adapter=adapter, method="adapter", num_tokens=0)
    assert prompt.positive.shape == (3, 16, models.CONTEXT_DIM)
    assert output["last_hidden_state"].shape[0] == 3
    if mode == "drop":
        assert len({len(image) for image in tokens.last}) == 3
    for index in range(3):
        one, _ = rebinarize(tiny_clip_vision, image[index : index + 1], mask[index : index + 1])
        alone, _ = encode(tiny_clip_vision, image[index : index + 1], one, mode)
        torch.testing.assert_close(tokens.penultimate[index], alone.penultimate[0], rtol=1e-4, atol=1e-5)


def test_uncond_is_the_answer_to_zero_normalised_pixels(tiny_clip_vision):
    image = reference()
    patch_mask, _ = rebinarize(tiny_clip_vision, image)
    tokens, _ = encode(tiny_clip_vision, image, patch_mask)
    with torch.inference_mode():
        _, penultimate, *_ = tiny_clip_vision.model(pixel_values=torch.zeros(1, 3, 224, 224), intermediate_output=-2)
    assert torch.equal(tokens.uncond_penultimate, penultimate)


def test_open_clip_and_the_host_give_the_same_tokens():
    """One set of weights in open_clip's ViT and, through the host's own conversion, in the host's."""
    torch.manual_seed(0)
    visual = open_clip.transformer.VisionTransformer(
        image_size=224, patch_size=14, width=64, layers=4, heads=4, mlp_ratio=4.0, output_dim=32
    )
    state = {f"visual.{name}": tensor.clone() for name, tensor in visual.state_dict().items()}
    clip_vision = models.tiny_clip_vision(width=64, num_layers=4, projection_dim=32)
    state = comfy.clip_vision.convert_to_transformers(state, "visual.")
    missing, _ = clip_vision.load_sd(state)
    assert [name for name in missing if "position_ids" not in name] == []
    theirs, ours = OpenClipVit(visual.requires_grad_(False)), HostVit(clip_vision).load()
    assert theirs.spec == ours.spec
    pixels = torch.randn(2, 3, 224, 224)
    keep = torch.rand(2, 256) > 0.4
    for in_sequence in (keep, torch.ones_like(keep)):
        with torch.inference_mode():
            first, second = (encode_pixels(encoder, pixels, keep, in_sequence) for encoder in (theirs, ours))
        for one, other in zip((*first[0], *first[1], first[2]), (*second[0], *second[1], second[2]), strict=True):
            # The host keeps an encoder's weights in half precision; they are its rounding, and all that differs.
            torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("method", ["adapter", "eq3_normalized", "eq3_literal", "cluster"])
def test_every_compression_reaches_the_image(tiny_model, tiny_clip_vision, plus_adapter_file, method):
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file, method=method)
    assert prompt.positive.shape == (1, 16, models.CONTEXT_DIM)
    assert torch.isfinite(prompt.positive).all()
    assert not torch.equal(sample(apply(tiny_model, prompt), steps=1), sample(tiny_model, steps=1))


def test_keys_and_values_are_computed_once(tiny_model, tiny_clip_vision, plus_adapter_file):
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file)
    first = prompt.keys_values
    apply(tiny_model, prompt, strength=0.5)
    assert prompt.keys_values is first


def test_a_replaced_adapter_file_is_loaded_anew(plus_adapter_file):
    before = MEPAAdapterLoader.fingerprint_inputs(plus_adapter_file.name)
    assert before == MEPAAdapterLoader.fingerprint_inputs(plus_adapter_file.name)
    plus_adapter_file.touch()
    assert before != MEPAAdapterLoader.fingerprint_inputs(plus_adapter_file.name)


def test_depth_compose(tiny_clip_vision):
    foreground, background = reference(64, 96, seed=1), reference(64, 96, seed=2)
    product, hidden = torch.zeros(1, 64, 96), torch.zeros(1, 64, 96)
    product[:, 20:40, 30:50] = 1
    hidden[:, 10:50, 60:90] = 1
    inputs = {"foreground_depth": foreground, "product_mask": product, "product_mask_selects": "product"}
    (depth,) = outputs(PFVDepthCompose, **inputs, reference_depth=background, fill="far", hidden_mask=hidden)
    assert torch.equal(depth[product > 0], foreground[product > 0])
    assert (depth[(hidden > 0) & (product == 0)] == 0).all()
    elsewhere = (hidden == 0) & (product == 0)
    assert torch.equal(depth[elsewhere], background[elsewhere])
    background[hidden > 0] = float("nan")
    (filled,) = outputs(PFVDepthCompose, **inputs, reference_depth=background, fill="surroundings", hidden_mask=hidden)
    assert torch.isfinite(filled).all()
    inputs |= {"product_mask": 1 - product, "product_mask_selects": "background"}
    (turned,) = outputs(PFVDepthCompose, **inputs, reference_depth=background, fill="far", hidden_mask=hidden)
    assert torch.equal(turned, depth)


def test_depth_compose_takes_an_empty_hidden_mask_as_nothing_hidden():
    """As PFV Mask Re-binarize gives it without a mask; the small empty mask of an unpainted file stays an error."""
    product = torch.zeros(1, 96, 128)
    product[:, 20:40, 30:50] = 1
    inputs = {
        "foreground_depth": reference(96, 128, seed=1),
        "product_mask": product,
        "product_mask_selects": "product",
    }
    inputs |= {"reference_depth": reference(96, 128, seed=2), "fill": "surroundings"}
    (unconnected,) = outputs(PFVDepthCompose, **inputs, hidden_mask=None)
    (empty,) = outputs(PFVDepthCompose, **inputs, hidden_mask=torch.zeros(1, 96, 128))
    assert torch.equal(empty, unconnected)
    with pytest.raises(ValueError, match="hidden_mask holds no mask"):
        outputs(PFVDepthCompose, **inputs, hidden_mask=torch.zeros(1, 64, 64))
    with pytest.raises(ValueError, match="hidden_mask 0 selects the whole image"):
        outputs(PFVDepthCompose, **inputs, hidden_mask=torch.ones(1, 96, 128))


def test_the_saved_png_holds_the_products_own_pixels(host_base_directory):
    """LoadImage -> Strict-ID Composite -> SaveImage: every 8-bit value survives inside the eroded mask."""
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    photo[40:56, 40:56] = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    (host_base_directory / "input").mkdir(exist_ok=True)
    Image.fromarray(photo).save(host_base_directory / "input" / "product.png")
    product, _ = host_nodes.LoadImage().load_image("product.png")
    mask = torch.zeros(1, 96, 128)
    mask[:, 30:70, 30:90] = 254 / 255
    generated = reference(96, 128, batch=2, seed=4)
    inputs = {"generated": generated, "product": product, "product_mask": mask, "product_mask_selects": "product"}
    image, exact, report = outputs(StrictIDComposite, **inputs, erode=2, feather=4)
    assert json.loads(report)["exact"]
    assert exact.sum() == 2 * 36 * 56
    saved = host_nodes.SaveImage()
    saved.output_dir = str(host_base_directory / "output")
    for index, entry in enumerate(saved.save_images(image, "exact", {}, {"workflow": {"nodes": []}})["ui"]["images"]):
        file = Image.open(host_base_directory / "output" / entry["filename"])
        inside = exact[index].bool().numpy()
        assert np.abs(np.asarray(file)[inside].astype(int) - photo[inside].astype(int)).max() == 0
        outside = (mask[0] == 0).numpy()
        assert torch.equal(image[index][mask[0] == 0], generated[index][mask[0] == 0])
        assert not np.array_equal(np.asarray(file)[outside], photo[outside])
        assert json.loads(file.info["workflow"]) == {"nodes": []}
