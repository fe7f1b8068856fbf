"""The two files of a workflow: the UI form, which a browser opens, and the API form, which POST /prompt takes.

Everything about slots and widgets comes from the host's definitions, so the files cannot drift from the nodes. The UI
form is schema 0.4 as frontend 1.27.10 saves it. The API form has no subgraphs: their nodes stand in it once for each
instance, under the numbers that the frontends send, "<instance>:<node>".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .definitions import Json
from .description import Inlet, Instance, Link, Node, Subgraph, Workflow, named_uuid
from .level import Level, Numbers
from .subgraph_form import subgraph_form

FRONTEND_VERSION = "1.27.10"


class WorkflowFiles:
    """One workflow together with the host's definitions, ready to be written in both forms.

    Args:
        workflow: the description.
        object_info: the host's answer to /object_info, at least for the classes used.

    Raises:
        WorkflowError: a class, input, output or value the host does not have, a link whose types differ, a required
            input without a link, or a node too small for its widgets.
    """

    def __init__(self, workflow: Workflow, object_info: Mapping[str, Json]) -> None:
        self.workflow = workflow
        self._numbers = Numbers()
        self._root = Level(workflow.name, workflow.groups, object_info, self._numbers)
        self._inner = {
            subgraph.id: Level(subgraph.name, subgraph.groups, object_info, self._numbers, subgraph)
            for subgraph in workflow.subgraphs()
        }

    def api_form(self) -> Json:
        """What POST /prompt takes: node id -> inputs, class and title."""
        return dict(self._api_nodes())

    def ui_form(self) -> Json:
        """What the browser opens."""
        nodes, groups = self._root.ui_nodes()
        subgraphs = [(level, *level.ui_nodes()) for level in self._inner.values()]
        state = self._numbers.last()
        form: Json = {
            "id": named_uuid(f"workflows/{self.workflow.name}"),
            "revision": 0,
            "last_node_id": state["lastNodeId"],
            "last_link_id": state["lastLinkId"],
            "nodes": nodes,
            "links": [list(link) for link in self._root.links],
            "groups": groups,
        }
        if subgraphs:
            form["definitions"] = {"subgraphs": [subgraph_form(*parts, state) for parts in subgraphs]}
        return form | {"config": {}, "extra": {"frontendVersion": FRONTEND_VERSION}, "version": 0.4}

    def _api_nodes(self) -> Iterator[tuple[str, Json]]:
        for item in self._root.nodes.values():
            if isinstance(item, Node):
                yield self._api_node(self._root, item, None)
                continue
            level = self._inner[item.class_type]
            for node in level.nodes.values():
                assert isinstance(node, Node)  # definition_of refuses others
                yield self._api_node(level, node, item)

    def _api_node(self, level: Level, node: Node, instance: Instance | None) -> tuple[str, Json]:
        title = level.title(node) + (f" {instance.suffix}" if instance else "")
        return self._id(level, node.name, instance), {
            "inputs": self._api_inputs(level, node, instance),
            "class_type": node.class_type,
            "_meta": {"title": title},
        }

    def _id(self, level: Level, name: str, instance: Instance | None) -> str:
        return f"{self._root.ids[instance.name]}:{level.ids[name]}" if instance else str(level.ids[name])

    def _api_inputs(self, level: Level, node: Node, instance: Instance | None) -> Json:
        values: Json = {name: level.widget_value(node, name) for name in level.definitions[node.name].widgets}
        for name, _ in level.input_slots(node):
            value = node.inputs.get(name)
            if isinstance(value, Inlet):
                assert instance is not None  # the level refuses others
                value = self._from_outside(instance, value.name)
                if value is not None:
                    values[name] = value
            elif isinstance(value, Link):
                values[name] = self._origin(level, value, instance)
        return values

    def _from_outside(self, instance: Instance, name: str) -> Any:
        """What an instance is given; None = nothing."""
        value = instance.inputs.get(name)
        if isinstance(value, Link):
            return self._origin(self._root, value, None)
        return (
            self._root.widget_value(instance, name) if name in self._root.definitions[instance.name].widgets else None
        )

    def _origin(self, level: Level, link: Link, instance: Instance | None) -> list[Any]:
        """Id and slot of the node that a link comes from, inside where that is an instance's output."""
        node = level.nodes[link.node]
        if isinstance(node, Instance):
            inner = self._inner[node.class_type]
            return self._origin(inner, _outlet(node.subgraph, link, level), node)
        return [self._id(level, node.name, instance), level.definitions[node.name].output_slot(link.output)]


def _outlet(subgraph: Subgraph, link: Link, level: Level) -> Link:
    slot = level.definitions[link.node].output_slot(link.output)
    return list(subgraph.outputs.values())[slot]


def to_text(form: Json) -> str:
    """A form as the text of its file, lists and objects that hold no others on one line."""
    text = json.dumps(form, indent=2, ensure_ascii=False)
    # A line break stands between values alone: in a string it is written as \\n.
    return re.sub(r"([\[{])\n\s*([^\[\]{}]*?)\n\s*([\]}])", lambda found: _one_line(*found.groups()), text) + "\n"


def _one_line(opening: str, inside: str, closing: str) -> str:
    return opening + re.sub(r",\n\s*", ", ", inside) + closing
