"""A subgraph as the browser's file defines it, and as a file of its own, which the page offers to every workflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .definitions import Json
from .description import PACK_ID, Group, Instance, Subgraph, named_uuid
from .layout import COLUMN_GAP, TITLE_HEIGHT
from .level import INPUT_NODE, OUTPUT_NODE, Connection, Level, Numbers

END_WIDTH = 170  # of the two nodes that are a subgraph's ends
END_PADDING = 24
SLOT_HEIGHT = 20
OFFERED_UNDER = "PFV-MEPA"  # among the page's subgraphs


def offered_form(
    subgraph: Subgraph, search_words: str, values: Mapping[str, Any], object_info: Mapping[str, Json]
) -> Json:
    """The file of a subgraph below the pack's `subgraphs`: one instance without links, and the definition.

    Args:
        subgraph: the description.
        search_words: under which the page finds it besides its name, with commas.
        values: of the instance's widgets; those that are left out have the host's default.
        object_info: the host's answer to /object_info, at least for the classes used.
    """
    numbers = Numbers()
    group = Group(None, "", ((Instance("instance", subgraph, None, "", values),),))
    root = Level(subgraph.name, (group,), object_info, numbers, complete=False)
    inner = Level(subgraph.name, subgraph.groups, object_info, numbers, subgraph)
    (nodes, _), parts = root.ui_nodes(), inner.ui_nodes()
    state = numbers.last()
    return {
        "revision": 0,
        "last_node_id": state["lastNodeId"],
        "last_link_id": state["lastLinkId"],
        "nodes": [node | {"title": subgraph.name, "properties": {"cnr_id": PACK_ID}} for node in nodes],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph_form(inner, *parts, state) | {"category": OFFERED_UNDER}]},
        "extra": {"BlueprintDescription": subgraph.text, "BlueprintSearchAliases": search_words.split(", ")},
    }


def subgraph_form(level: Level, nodes: list[Json], groups: list[Json], state: Json) -> Json:
    """An entry of `definitions.subgraphs`.

    Args:
        level: the subgraph's canvas.
        nodes, groups: of that canvas.
        state: the highest numbers of the whole file.
    """
    subgraph = level.subgraph
    assert subgraph is not None
    right = max(node["pos"][0] + node["size"][0] for node in nodes)
    inputs = [_slot(level, INPUT_NODE, slot, name) for slot, name in enumerate(subgraph.inputs)]
    outputs = [_slot(level, OUTPUT_NODE, slot, name) for slot, name in enumerate(subgraph.outputs)]
    return {
        "id": subgraph.id,
        "version": 1,
        "state": state,
        "revision": 0,
        "config": {},
        "name": subgraph.name,
        "description": subgraph.text,
        "inputNode": {"id": INPUT_NODE, "bounding": _bounding(-END_WIDTH - 2 * COLUMN_GAP, inputs)},
        "outputNode": {"id": OUTPUT_NODE, "bounding": _bounding(right + 2 * COLUMN_GAP, outputs)},
        "inputs": inputs,
        "outputs": outputs,
        "widgets": [],
        "nodes": nodes,
        "groups": groups,
        "links": [_link(link) for link in level.links],
        "extra": {},
    }


def _slot(level: Level, end: int, slot: int, name: str) -> Json:
    """An input or output, seen from inside."""
    assert level.subgraph is not None
    ends = [(link, link[1:3] if end == INPUT_NODE else link[3:5]) for link in level.links]
    links = [link for link, at in ends if at == (end, slot)]
    return {
        "id": named_uuid(f"subgraphs/{level.subgraph.key}/{end}/{name}"),
        "name": name,
        "type": links[0].type,
        "linkIds": [link.id for link in links],
    }


def _bounding(left: int, slots: list[Json]) -> list[int]:
    return [left, -TITLE_HEIGHT, END_WIDTH, len(slots) * SLOT_HEIGHT + 2 * END_PADDING]


def _link(link: Connection) -> Json:
    return {
        "id": link.id,
        "origin_id": link.origin,
        "origin_slot": link.origin_slot,
        "target_id": link.target,
        "target_slot": link.target_slot,
        "type": link.type,
    }
