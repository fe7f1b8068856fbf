"""Nodes of a workflow are found by class and title, and only inputs that are there are changed."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from headless.ad.plan import FIND_AT_MOST
from headless.ad.workflow import (
    FIND,
    ImpossibleError,
    NodeNotFoundError,
    load_prompt,
    nodes_of,
    origin,
    possible_part,
    set_inputs,
    the_node,
    without_pfv,
)
from headless.host.find import PACK_ROOT
from pfv_core.ad.formats import FORMATS
from pfv_core.ad.placement import Layout, plan_placement

PROMPT = {
    "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cup"}, "_meta": {"title": "Prompt"}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Negative prompt"}},
    "3": {"class_type": "KSampler", "inputs": {"seed": 1}},
}


def test_the_only_node_of_a_class_needs_no_title():
    assert the_node(PROMPT, "KSampler") is PROMPT["3"]


def test_a_title_tells_nodes_of_one_class_apart():
    assert the_node(PROMPT, "CLIPTextEncode", "Negative prompt") is PROMPT["2"]
    assert nodes_of(PROMPT, "CLIPTextEncode") == [PROMPT["1"], PROMPT["2"]]


@pytest.mark.parametrize(
    ("class_type", "title", "message"),
    [
        ("CLIPTextEncode", None, r"expected one CLIPTextEncode, got 2; .* \['Prompt', 'Negative prompt'\]"),
        ("CLIPTextEncode", "prompt", r"expected one CLIPTextEncode titled 'prompt', got 0"),
        ("VAEDecode", None, r"expected one VAEDecode, got 0; nodes of that class: \[\]"),
    ],
)
def test_none_or_several_is_an_error(class_type, title, message):
    with pytest.raises(NodeNotFoundError, match=message):
        the_node(PROMPT, class_type, title)


def test_set_inputs_changes_the_node_in_place(tmp_path):
    file = tmp_path / "prompt.json"
    file.write_text(json.dumps(PROMPT))
    prompt = load_prompt(file)
    set_inputs(the_node(prompt, "KSampler"), seed=7)
    assert prompt["3"]["inputs"] == {"seed": 7}


def test_an_input_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match=r"KSampler has no input 'steps', only \['seed'\]"):
        set_inputs(PROMPT["3"], steps=4)


def test_origin_follows_a_link():
    prompt = {**PROMPT, "4": {"class_type": "Join", "inputs": {"first": ["1", 0], "second": 5}}}
    assert origin(prompt, prompt["4"], "first") is PROMPT["1"]
    with pytest.raises(KeyError, match="Join: input 'second' is the value 5, expected a link"):
        origin(prompt, prompt["4"], "second")


@pytest.mark.parametrize("name", ["ad", "demo_ad"])
def test_without_pfv_a_reference_of_one_node_hides_nothing(name):
    shipped = load_prompt(PACK_ROOT / "workflows" / "api" / f"{name}.json")
    changed = without_pfv(shipped)
    the_node(shipped, "PFVReference")["inputs"]["hide"] = "nothing"
    assert changed == shipped


@pytest.mark.parametrize("name", ["full", "demo_full"])
def test_without_pfv_nothing_is_hidden_and_all_else_stays(name):
    shipped = load_prompt(PACK_ROOT / "workflows" / "api" / f"{name}.json")
    before = json.dumps(shipped)
    changed = without_pfv(shipped)
    assert json.dumps(shipped) == before
    hiding = [i for i, node in shipped.items() if node["class_type"] == "PFVMaskRebinarize"]
    assert len(hiding) == 2
    for i in hiding:
        del shipped[i]["inputs"]["mask"]
    assert changed == shipped


# --- what a server cannot run ---------------------------------------------------------------------------------------------

INFO = {
    "LoadImage": {"input": {"required": {"image": [["a.png"], {}]}}},
    "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}},
    "LoadBackgroundRemovalModel": {"input": {"required": {"name": ["COMBO", {"options": ["birefnet.safetensors"]}]}}},
    "RemoveBackground": {"input": {"required": {"model": ["BG"], "image": ["IMAGE"]}}},
    "PFVCutOut": {"input": {"required": {"photo": ["IMAGE"]}, "optional": {"mask": ["MASK"], "found": ["MASK"]}}},
    "CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": [["sdxl.safetensors"]]}}},
}
CUT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "not there yet.png"}},
    "2": {"class_type": "LoadBackgroundRemovalModel", "inputs": {"name": "birefnet.safetensors"}},
    "3": {"class_type": "RemoveBackground", "inputs": {"model": ["2", 0], "image": ["1", 0]}},
    "4": {
        "class_type": "PFVCutOut",
        "inputs": {"photo": ["1", 0], "mask": ["1", 1], "found": ["3", 0]},
        "_meta": {"title": "Cut out"},
    },
    "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
}
OWN = "Cut out finds by itself what found would have told it"


def test_what_a_server_has_runs_as_it_is():
    assert possible_part(CUT, INFO) == (CUT, [])


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"RemoveBackground": {}}, "RemoveBackground: there is no node RemoveBackground"),
        (
            {"LoadBackgroundRemovalModel": {"input": {"required": {"name": ["COMBO", {"options": []}]}}}},
            "LoadBackgroundRemovalModel: there is no file birefnet.safetensors",
        ),
        (
            {"LoadBackgroundRemovalModel": {"input": {"required": {"name": [["other.safetensors"]]}}}},
            "LoadBackgroundRemovalModel: there is no file birefnet.safetensors",
        ),
    ],
)
def test_what_is_missing_leaves_with_all_that_led_to_it_and_is_said(info, reason):
    kept, said = possible_part(CUT, INFO | info)
    assert set(kept) == {"1", "4", "5"}
    assert kept["4"]["inputs"] == {"photo": ["1", 0], "mask": ["1", 1]}
    assert said == [reason, OWN]
    assert CUT["4"]["inputs"]["found"] == ["3", 0]


def test_what_nothing_takes_the_place_of_is_an_error():
    prompt = CUT | {
        "5": {"class_type": "SaveImage", "inputs": {"images": ["6", 0]}},
        "6": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "gone.safetensors"}},
    }
    with pytest.raises(
        ImpossibleError, match=r"cannot run there: CheckpointLoaderSimple: there is no file gone\.safetensors"
    ):
        possible_part(prompt, INFO)
    masked = copy.deepcopy(CUT)  # what a mask hides is never passed over
    masked["4"]["inputs"]["mask"] = ["3", 0]
    with pytest.raises(ImpossibleError, match="there is no node RemoveBackground"):
        possible_part(masked, INFO | {"RemoveBackground": {}})


@pytest.mark.parametrize("name", ["ad", "formats"])
@pytest.mark.parametrize("shape", [(60, 20), (40, 40), (30, 42), (20, 60)], ids=["slim", "square", "shoe", "wide"])
def test_as_shipped_a_product_of_any_shape_fits_every_format(name, shape):
    """And its shadow is as large as it is: none of the settings is one format's or one product's."""
    prompt = load_prompt(PACK_ROOT / "workflows" / "api" / f"{name}.json")
    product = torch.ones(shape, dtype=torch.bool)
    for canvas in nodes_of(prompt, "PFVAdCanvas"):
        inputs = canvas["inputs"]
        layout = Layout(inputs["position"], inputs["scale_by"], inputs["share"], inputs["margin"])
        for width, height in FORMATS.values():
            placed = plan_placement(product, (height, width), layout).target
            assert placed.height * placed.width > 0.001 * height * width
    assert {node["inputs"]["shadow_size"] for node in nodes_of(prompt, "StrictIDComposite")} == {0}


def test_as_shipped_all_things_of_a_name_are_looked_for():
    """SAM 3 Detect keeps one of a name that has no number, and what it leaves comes through."""
    named = the_node(load_prompt(PACK_ROOT / "workflows" / "api" / "ad.json"), "CLIPTextEncode", FIND)
    assert named["inputs"]["text"] == f"the bottle:{FIND_AT_MOST}"
