"""Saved workflows keep working: nobody renames, reorders, retypes or takes away what is in people's files."""

from __future__ import annotations

import copy
import inspect

import pytest

from pfv_mepa.nodes.extension import NODES
from pfv_mepa.tools import frozen_nodes

RECORDED = frozen_nodes.read()


@pytest.fixture(scope="module")
def object_info():
    """The pack's part of the answer of a server that has it in a folder of another name."""
    nodes = {}
    for node in NODES:
        info = node.GET_NODE_INFO_V1()
        order = {kind: list(inputs) for kind, inputs in info["input"].items()}  # as the host's server adds it
        nodes[info["name"]] = info | {"input_order": order, "python_module": "custom_nodes.another_name"}
    return nodes


@pytest.fixture(scope="module")
def current(object_info):
    return {name: frozen_nodes.frozen_form(info) for name, info in object_info.items()}


def test_nothing_that_files_rely_on_has_changed(current):
    assert not frozen_nodes.broken_promises(RECORDED, current), "old workflows would break: undo it"


def test_everything_that_was_added_is_recorded(current):
    assert not frozen_nodes.unrecorded(RECORDED, current)


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)
def test_an_old_api_file_gets_the_defaults_that_the_page_shows(node):
    """An API file that lacks an optional input runs with `execute`'s default, the page with the schema's."""
    arguments = inspect.signature(node.execute).parameters
    for port in node.GET_SCHEMA().inputs:
        if port.optional:
            assert arguments[port.id].default == getattr(port, "default", None), port.id


def changed(change):
    """A copy of the recorded nodes with StrictIDComposite's entry changed in place."""
    nodes = copy.deepcopy(RECORDED)
    change(nodes["StrictIDComposite"])
    return nodes


ADDED = {"name": "glow", "type": "FLOAT", "kind": "optional", "default": 0.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda node: node["inputs"].reverse(), "StrictIDComposite: inputs were"),
        (lambda node: node["inputs"].pop(4), "StrictIDComposite: inputs were"),
        (lambda node: node["inputs"].insert(4, ADDED), "StrictIDComposite: inputs were"),
        (lambda node: node["inputs"][4].update(name="shrink"), "StrictIDComposite: inputs were"),
        (lambda node: node["inputs"][4].update(type="FLOAT"), "erode: type was 'INT', is 'FLOAT'"),
        (lambda node: node["inputs"][6].update(default="gone"), "rim: default was 'within_mask', is 'gone'"),
        (lambda node: node["inputs"][4].update(max=8), "erode: a saved value of"),
        (lambda node: node["inputs"][4].update(min=1), "erode: a saved value of"),
        (lambda node: node["inputs"][4].update(options=[1, 2]), "erode: a saved value of"),
        (lambda node: node["inputs"][3].update(options=["product"]), "product_mask_selects: a saved value of"),
        (lambda node: node["inputs"].append({**ADDED, "kind": "required"}), "glow was added and is required"),
        (
            lambda node: node["inputs"].append({"name": "glow", "type": "FLOAT", "kind": "optional"}),
            "glow was added without a default",
        ),
        (lambda node: node["outputs"].reverse(), "StrictIDComposite: outputs were"),
    ],
)
def test_a_change_that_breaks_files_is_found(change, message):
    (found, *_) = frozen_nodes.broken_promises(RECORDED, changed(change))
    assert message in found


@pytest.mark.parametrize(
    "change",
    [
        lambda node: node["inputs"].append(ADDED),
        lambda node: node["inputs"][3]["options"].append("both"),
        lambda node: node["inputs"][4].update(default=3),  # required: every file has its own value
        lambda node: node["inputs"][4].update(min=-256, max=512),
        lambda node: node["inputs"][4].pop("max"),
        lambda node: node["outputs"].append(["glow", "MASK", False]),
        lambda node: (
            node["inputs"].append({"name": "glow", "type": "FLOAT", "kind": "optional"}),
            node["sockets"].append("glow"),  # what is no widget needs no default
        ),
    ],
)
def test_an_addition_is_allowed_and_wants_to_be_recorded(change):
    nodes = changed(change)
    assert not frozen_nodes.broken_promises(RECORDED, nodes)
    (found,) = frozen_nodes.unrecorded(RECORDED, nodes)
    assert found == f"StrictIDComposite has more than is recorded: {frozen_nodes.HOW_TO_RECORD}"


@pytest.mark.parametrize(
    ("node_id", "change", "message"),
    [
        ("StrictIDComposite", lambda info: options_of(info, "rim").update(forceInput=True), "sockets were"),
        ("StrictIDComposite", lambda info: options_of(info, "shadow_size").update(forceInput=True), "values were"),
        ("PFVAdReport", lambda info: options_of(info, "report").pop("forceInput"), "sockets were"),
        (
            "StrictIDComposite",
            lambda info: options_of(info, "erode").update(control_after_generate=True),
            "values were",
        ),
        (
            "StrictIDComposite",
            lambda info: options_of(info, "shadow_size").update(control_after_generate=True),
            "values were",
        ),
        ("StrictIDComposite", lambda info: info["output_is_list"].__setitem__(0, True), "outputs were"),
    ],
)
def test_what_moves_values_under_the_same_names_is_found(object_info, node_id, change, message):
    info = copy.deepcopy(object_info[node_id])
    before = {node_id: frozen_nodes.frozen_form(info)}
    change(info)
    found = frozen_nodes.broken_promises(before, {node_id: frozen_nodes.frozen_form(info)})
    assert any(line.startswith(f"{node_id}: {message} ") for line in found), found


def options_of(info, name):
    (spec,) = (inputs[name] for inputs in info["input"].values() if name in inputs)
    return spec[1]


def test_the_upload_button_s_value_stands_behind_all_others(object_info):
    info = copy.deepcopy(object_info["StrictIDComposite"])
    before = frozen_nodes.frozen_form(info)["values"]
    options_of(info, "rim")["image_upload"] = True
    assert frozen_nodes.frozen_form(info)["values"] == [*before, ["upload"]]


def test_the_pack_s_nodes_are_known_in_whatever_folder_it_lies(object_info):
    new = next(iter(object_info.values())) | {"category": f"{frozen_nodes.CATEGORY}/new"}
    others = {
        "KSampler": {"category": "sampling", "python_module": "nodes"},
        "OfANewerHost": {"python_module": "nodes"},
    }
    found = frozen_nodes.own_nodes(others | object_info | {"PFVNew": new})
    assert list(found) == [*object_info, "PFVNew"]


@pytest.mark.parametrize("gone", [["MEPAApply", "MEPACrop"], list(RECORDED)], ids=["some", "all"])
def test_a_server_without_them_is_refused(object_info, gone):
    there = {name: info for name, info in object_info.items() if name not in gone}
    message = f"has {len(RECORDED) - len(gone)} of the {len(RECORDED)} recorded nodes of this pack and lacks {', '.join(gone)}:"
    with pytest.raises(frozen_nodes.NoPackError, match=message):
        frozen_nodes.own_nodes(there)


def test_a_node_that_is_gone_is_found():
    nodes = {name: node for name, node in RECORDED.items() if name != "MEPAApply"}
    assert frozen_nodes.broken_promises(RECORDED, nodes) == ["MEPAApply is gone: a node id stays for ever"]


def test_the_file_is_as_the_command_writes_it():
    assert frozen_nodes.FILE.read_text(encoding="utf-8") == frozen_nodes.to_text(RECORDED)
