"""What nodes tell the page: bars that move while they work, and lines below their widgets."""

from __future__ import annotations

import ast
import asyncio
import json

import comfy.utils
import numpy as np
import pytest
import torch
from PIL import Image

from headless.host.find import PACK_ROOT
from pfv_mepa.nodes.ad import product_nodes
from pfv_mepa.nodes.ad.product_nodes import StrictIDComposite
from pfv_mepa.nodes.ad.report_words import columns
from pfv_mepa.nodes.extension import PFVExtension
from pfv_mepa.nodes.host.model_facts import model_facts
from pfv_mepa.nodes.mepa.apply_nodes import MEPAApply
from pfv_mepa.nodes.mepa.region_nodes import MEPARegionShape
from pfv_mepa.nodes.reference.encode_nodes import PFVMaskRebinarize
from pfv_mepa.pfv_core.found.reference import Hidden, HiddenBy
from pfv_mepa.pfv_core.reference.patch_mask import PatchMask
from pfv_mepa.tests.host.sampling import apply, image_prompt, painted, reference, right_half
from pfv_mepa.tests.support.tiny_stack import models

NODES = PACK_ROOT / "nodes"


@pytest.fixture
def moves(monkeypatch):
    """(value, total) of each move of a progress bar; newer hosts send ten in a second, unless they are told otherwise."""
    seen = []
    for limit in ("PROGRESS_THROTTLE_MIN_INTERVAL", "PROGRESS_THROTTLE_MIN_PERCENT"):
        monkeypatch.setattr(comfy.utils, limit, 0.0, raising=False)
    hook = lambda value, total, *_, **__: seen.append((value, total))  # noqa: E731
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    return seen


def test_the_bar_moves_layer_by_layer_while_a_reference_is_encoded(plus_adapter_file, moves):
    encoder = models.tiny_clip_vision()
    image_prompt(encoder, plus_adapter_file)
    layers = len(encoder.model.vision_model.encoder.layers)
    one_run = [(number, layers) for number in range(1, layers + 1)]
    assert moves == one_run + one_run  # the reference, and what the encoder makes of zero pixels
    assert not encoder.model.vision_model.encoder.layers[0]._forward_hooks


def test_the_bar_of_a_large_batch_is_full_when_its_last_pass_is_done(plus_adapter_file, moves):
    encoder = models.tiny_clip_vision()
    image_prompt(encoder, plus_adapter_file)
    moves.clear()
    image_prompt(encoder, plus_adapter_file, image=reference(32, 32, batch=40))
    total = 3 * len(encoder.model.vision_model.encoder.layers)  # 16, 16 and 8 pictures
    assert moves == [(number, total) for number in range(1, total + 1)]


def test_the_bar_moves_layer_by_layer_while_a_prompt_is_applied(tiny_model, tiny_clip_vision, plus_adapter_file, moves):
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file, image=reference(seed=77))
    moves.clear()
    apply(tiny_model, prompt)
    assert moves == [(number, 70) for number in range(1, 71)]


def test_the_kept_share_is_said_on_the_node(tiny_clip_vision):
    mask = torch.cat([painted(), torch.zeros_like(painted())])
    mask[1, :3, :3] = 1
    result = PFVMaskRebinarize.execute(tiny_clip_vision, reference(batch=2), "stretch", 0.0, mask)
    first, second = result.ui["kept_share"]
    assert result.ui["pfv_line"] == [f"kept: {first:.0%}, >99%"]
    assert first < second == round(255 / 256, 4)  # one patch of the grid


def test_a_small_region_is_not_nothing_and_a_large_one_not_the_whole_frame(
    tiny_model, tiny_clip_vision, plus_adapter_file
):
    region = torch.zeros(1, 512, 512)
    region[:, :8, :8] = 1
    prompt = image_prompt(tiny_clip_vision, plus_adapter_file)
    settings = (1.0, 1.0, "output", 0.0, 1.0)
    for given, told in ((region, "<1%"), (1 - region, ">99%"), (region * 0 + 1, "100%")):
        result = MEPAApply.execute(tiny_model, prompt, *settings, region=given)
        assert result.ui["pfv_line"] == [f"region: {told} of the frame"]
        (facts,) = model_facts(result.args[0])
        assert columns([facts], [], {})[0][0].lines[0] == f"1. image prompt, {told} of the frame, strength 1"
    drawn = MEPARegionShape.execute(512, 512, "rectangle", 0.0, 0.0, 0.02, 0.02, 0.0)
    assert drawn.ui["pfv_line"] == ["region: <1% of the frame"]


def test_one_hidden_patch_of_many_is_not_all_kept(tiny_clip_vision, monkeypatch):
    many = 255 / 256
    monkeypatch.setattr(PatchMask, "kept_share", property(lambda _: torch.tensor([many, 1.0])))
    result = PFVMaskRebinarize.execute(tiny_clip_vision, reference(batch=2), "stretch", 0.0)
    assert result.ui["pfv_line"] == ["kept: >99%, 100%"]
    nothing = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert Hidden(nothing, (HiddenBy.PAINTED,), (None,)).line((many,)) == "hidden: painted, kept >99%"
    assert Hidden(nothing, (HiddenBy.PAINTED,) * 5, (None,) * 5).line((many, 1.0)).endswith("kept >99% to 100%")


def test_the_exact_pixels_are_counted_on_the_node(monkeypatch):
    generated, product, mask = reference(batch=2, seed=1), (reference(seed=2) * 255).round() / 255, painted()
    inputs = (generated, product, mask, "product", 0, 0)
    pixels = int((mask > 0.5).sum())
    line = f"exact: {pixels} of {pixels}, {pixels} of {pixels} pixels are the photo's"
    assert StrictIDComposite.execute(*inputs).ui["pfv_line"] == [line]
    monkeypatch.setattr(product_nodes, "paste_back", lambda image, *_: (image, mask.expand(2, -1, -1) > 0))
    line = f"NOT exact: 0 of {pixels}, 0 of {pixels} pixels are the photo's"
    assert StrictIDComposite.execute(*inputs).ui["pfv_line"] == [line]


def test_a_product_that_is_no_8_bit_photo_is_said_on_the_node():
    """One pixel between two steps in the exact part, and one outside of it, which is nobody's business."""
    product, mask = (reference(seed=2) * 255).round() / 255, painted()
    product[0, 0, 0, 0] = 0.5
    inputs = reference(seed=1), product, mask, "product", 0, 0
    result = StrictIDComposite.execute(*inputs)
    assert json.loads(result.args[2])["ads"][0]["pixels_not_8_bit"] == 0
    assert "8-bit" not in result.ui["pfv_line"][0]
    product[0, 70, 120, 1] = torch.nextafter(product[0, 70, 120, 1], torch.tensor(2.0))  # a host's other rounding
    result = StrictIDComposite.execute(*inputs)
    assert json.loads(result.args[2])["ads"][0]["pixels_not_8_bit"] == 1
    pixels = int((mask > 0.5).sum())
    assert result.ui["pfv_line"] == [
        f"exact: {pixels} of {pixels} pixels are the photo's; no 8-bit photo's: 1, which a saved file rounds. The product image "
        "was resized, blurred or edited, or its file is not 8-bit RGB: save it as 8-bit RGB PNG"
    ]


def test_a_region_is_shown_on_the_attentions_grids_and_where_there_is_none_the_whole_frame(
    tiny_model, tiny_clip_vision, plus_adapter_file, host_base_directory
):
    def shown(result):
        (picture,) = result.ui["images"]
        with Image.open(host_base_directory / "temp" / picture["subfolder"] / picture["filename"]) as opened:
            return np.asarray(opened, dtype=int)

    prompt = image_prompt(tiny_clip_vision, plus_adapter_file)
    settings = (1.0, 1.0, "output", 0.0, 1.0)
    result = MEPAApply.execute(tiny_model, prompt, *settings, region=right_half(64, 128))
    assert result.ui["pfv_line"] == ["region: 50% of the frame"]
    off = MEPAApply.execute(tiny_model, prompt, 0.0, *settings[1:], region=right_half(64, 128))
    assert off.ui["pfv_line"] == ["region: 50% of the frame; strength is 0, so the node does nothing"]
    pixels = shown(result)
    assert pixels.shape == (128, 256 + 12 + 256, 3)  # 8 x 4 cells of 16 pixels of the ad, and 4 x 2 of 32
    for cells in (pixels[16::32, 16:256:32], pixels[32::64, 256 + 12 + 32 :: 64]):
        blue = cells[..., 2] - cells[..., 0] > 100
        middle = cells.shape[1] // 2
        assert blue[:, middle:].all()
        assert not blue[:, :middle].any()
    everywhere = MEPAApply.execute(tiny_model, prompt, *settings)
    assert everywhere.ui["pfv_line"] == ["region: the whole frame"]
    pixels = shown(everywhere)
    assert pixels.shape == (256, 256 + 12 + 256, 3)  # 16 x 16 cells, and 8 x 8
    for cells in (pixels[8::16, 8:256:16], pixels[16::32, 256 + 12 + 16 :: 32]):
        assert (cells[..., 2] - cells[..., 0] > 100).all()


@pytest.mark.parametrize("file", sorted(NODES.rglob("*_nodes.py")), ids=lambda file: file.stem)
def test_a_node_that_ever_shows_something_shows_something_on_every_run(file):
    for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(function, ast.FunctionDef) or function.name != "execute":
            continue
        calls = [call for call in ast.walk(function) if isinstance(call, ast.Call)]
        given = [call.keywords for call in calls if ast.unparse(call.func) == "io.NodeOutput"]
        shown = [keyword.value for keywords in given for keyword in keywords if keyword.arg == "ui"]
        assert len(shown) in (0, len(given))
        assert not any(isinstance(value, ast.IfExp | ast.Constant) for value in shown)


def test_newer_hosts_keep_what_nodes_show_and_only_what_saves_is_an_output_node():
    """An output node would let a prompt run in part whose other part has a wrong value."""
    nodes = asyncio.run(PFVExtension().get_node_list())
    assert all(node.HAS_INTERMEDIATE_OUTPUT is True for node in nodes)
    assert [node.GET_SCHEMA().node_id for node in nodes if node.OUTPUT_NODE] == ["PFVSaveReference"]
