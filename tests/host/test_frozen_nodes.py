"""Saved workflows keep working: nobody renames, reorders, retypes or takes away what is in people's files."""

from __future__ import annotations

import copy
import inspect

import pytest

from pfv_mepa.nodes.extension import NODES
from pfv_mepa.tools import frozen_nodes

RECORDED = frozen_nodes.read()


@pytest.fixture(scope="module")
def current():
    nodes = {}
    for node in NODES:
        info = node.GET_NODE_INFO_V1()
        order = {kind: list(inputs) for kind, inputs in info["input"].items()}  # as the host's server adds it
        nodes[info["name"]] = frozen_nodes.frozen_form(info | {"input_order": order})
    return nodes


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
        lambda node: node["outputs"].append(["glow", "MASK"]),
    ],
)
def test_an_addition_is_allowed_and_wants_to_be_recorded(change):
    nodes = changed(change)
    assert not frozen_nodes.broken_promises(RECORDED, nodes)
    (found,) = frozen_nodes.unrecorded(RECORDED, nodes)
    assert found == f"StrictIDComposite has more than is recorded: {frozen_nodes.HOW_TO_RECORD}"


def test_a_node_that_is_gone_is_found():
    nodes = {name: node for name, node in RECORDED.items() if name != "MEPAApply"}
    assert frozen_nodes.broken_promises(RECORDED, nodes) == ["MEPAApply is gone: a node id stays for ever"]


def test_the_file_is_as_the_command_writes_it():
    assert frozen_nodes.FILE.read_text(encoding="utf-8") == frozen_nodes.to_text(RECORDED)
