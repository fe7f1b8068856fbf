"""Nodes of a workflow are found by class and title, and only inputs that are there are changed."""

from __future__ import annotations

import json

import pytest

from headless.ad.workflow import (
    NodeNotFoundError,
    load_prompt,
    nodes_of,
    origin,
    set_inputs,
    the_node,
    without_pfv,
)
from headless.host.find import PACK_ROOT

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
