"""The two files of a workflow: the UI form, which a browser opens, and the API form, which POST /prompt takes.

Everything about slots and widgets comes from the host's definitions, so the files cannot drift from the nodes. The UI
form is schema 0.4 as frontend 1.27.10 saves it.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from .definitions import PACK_ID, Json, NodeDefinition, definition_of
from .description import Link, ModelFile, Node, Note, Workflow, WorkflowError
from .layout import Rectangle, lay_out

FRONTEND_VERSION = "1.27.10"
OPTIONAL_SHAPE = 7  # litegraph's hollow circle
NOTE_TYPE = "MarkdownNote"
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}


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
        self.items = list(workflow.items())
        self.nodes = {item.name: item for item in self.items if isinstance(item, Node)}
        if len(self.nodes) != sum(isinstance(item, Node) for item in self.items):
            raise WorkflowError(f"{workflow.name}: a name is used twice")
        self.definitions = {node.class_type: definition_of(node, object_info) for node in self.nodes.values()}
        self.ids = {item.name: i for i, item in enumerate(self.items, 1) if isinstance(item, Node)}
        for node in self.nodes.values():
            self._check(node)
        self.links = list(self._numbered_links())
        self.order = self._execution_order()

    def api_form(self) -> Json:
        """What POST /prompt takes: node id -> inputs, class and title."""
        return {
            str(self.ids[node.name]): {
                "inputs": self._api_inputs(node),
                "class_type": node.class_type,
                "_meta": {"title": self._title(node)},
            }
            for node in self.nodes.values()
        }

    def ui_form(self) -> Json:
        """What the browser opens."""
        rectangles, groups = lay_out(self.workflow, self._body_height)
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PACK_ID}/workflows/{self.workflow.name}")),
            "revision": 0,
            "last_node_id": len(self.items),
            "last_link_id": len(self.links),
            "nodes": [self._ui_item(i, item, rectangles[i - 1]) for i, item in enumerate(self.items, 1)],
            "links": self.links,
            "groups": groups,
            "config": {},
            "extra": {"frontendVersion": FRONTEND_VERSION},
            "version": 0.4,
        }

    def _definition(self, node: Node) -> NodeDefinition:
        return self.definitions[node.class_type]

    def _title(self, node: Node) -> str:
        return node.title or self._definition(node).display_name

    def _body_height(self, item: Node | Note) -> int:
        if isinstance(item, Note):
            return item.height
        smallest = self._definition(item).body_height()
        if item.height is not None and item.height < smallest:
            raise WorkflowError(f"{item.name} is {item.height} px high, its widgets need {smallest}")
        return item.height or smallest

    def _check(self, node: Node) -> None:
        definition = self._definition(node)
        known = [*definition.sockets, *definition.widgets]
        if unknown := [name for name in node.inputs if name not in known]:
            raise WorkflowError(f"{node.name} ({node.class_type}) has no inputs {unknown}, only {known}")
        for name, (_, optional) in definition.sockets.items():
            if not optional and not isinstance(node.inputs.get(name), Link):
                raise WorkflowError(f"{node.name} ({node.class_type}): input {name} needs a link")

    def _numbered_links(self) -> Iterator[list[Any]]:
        """[link id, origin id, origin slot, target id, target slot, type], in the order of the targets' slots."""
        number = 0
        for node in self.nodes.values():
            for slot, (name, type_name) in enumerate(self._input_slots(node)):
                link = node.inputs.get(name)
                if not isinstance(link, Link):
                    continue
                number += 1
                origin_slot, origin_type = self._origin(node, name, link)
                if origin_type != type_name:
                    raise WorkflowError(f"{node.name}.{name} wants {type_name}, {link} is {origin_type}")
                yield [number, self.ids[link.node], origin_slot, self.ids[node.name], slot, type_name]

    def _input_slots(self, node: Node) -> list[tuple[str, str]]:
        """(name, type) of each input slot: the frontend puts sockets first, then the widgets' own slots."""
        definition = self._definition(node)
        sockets = [(name, type_name) for name, (type_name, _) in definition.sockets.items()]
        return [*sockets, *((name, widget.type) for name, widget in definition.widgets.items())]

    def _origin(self, node: Node, name: str, link: Link) -> tuple[int, str]:
        if link.node not in self.nodes:
            raise WorkflowError(f"{node.name}.{name} is linked to {link.node!r}, which is not in the workflow")
        definition = self._definition(self.nodes[link.node])
        slot = definition.output_slot(link.output)
        return slot, definition.outputs[slot][1]

    def _execution_order(self) -> dict[int, int]:
        """Node id -> place, as litegraph computes it: nodes without open inputs first, in the order of their ids."""
        open_links = dict.fromkeys(range(1, len(self.items) + 1), 0)
        for link in self.links:
            open_links[link[3]] += 1
        ready = [i for i, count in open_links.items() if count == 0]
        order: dict[int, int] = {}
        while ready:
            node_id = ready.pop(0)
            order[node_id] = len(order)
            leaving = [link for link in self.links if link[1] == node_id]
            for link in sorted(leaving, key=lambda link: (link[2], link[0])):
                open_links[link[3]] -= 1
                if open_links[link[3]] == 0:
                    ready.append(link[3])
        if len(order) != len(self.items):
            raise WorkflowError(f"{self.workflow.name}: the links form a circle")
        return order

    def _widget_value(self, node: Node, name: str) -> Any:
        value = node.inputs.get(name)
        if value is None or isinstance(value, Link):
            value = self._definition(node).widgets[name].default
        if value is None:
            raise WorkflowError(f"{node.name} ({node.class_type}): {name} has no default, give it a value")
        return value

    def _api_inputs(self, node: Node) -> Json:
        definition = self._definition(node)
        values: Json = {name: self._widget_value(node, name) for name in definition.widgets}
        for name, _ in self._input_slots(node):
            link = node.inputs.get(name)
            if isinstance(link, Link):
                values[name] = [str(self.ids[link.node]), self._origin(node, name, link)[0]]
        return values

    def _ui_item(self, item_id: int, item: Node | Note, rectangle: Rectangle) -> Json:
        placed = {
            "id": item_id,
            "type": item.class_type if isinstance(item, Node) else NOTE_TYPE,
            "pos": [rectangle.left, rectangle.top],
            "size": [rectangle.width, rectangle.height],
            "flags": {},
            "order": self.order[item_id],
            "mode": 0,
        }
        if isinstance(item, Note):
            note = {"inputs": [], "outputs": [], "title": item.title, "properties": {}, "widgets_values": [item.text]}
            return placed | note | NOTE_COLOURS
        return placed | self._ui_node(item_id, item)

    def _ui_node(self, node_id: int, node: Node) -> Json:
        definition = self._definition(node)
        ui: Json = {"inputs": self._ui_inputs(node_id, node), "outputs": self._ui_outputs(node_id, node)}
        if node.title is not None and node.title != definition.display_name:
            ui["title"] = node.title  # the frontend leaves a node's own name out
        ui["properties"] = {"cnr_id": definition.pack_id, "Node name for S&R": node.class_type}
        if node.model is not None:
            ui["properties"]["models"] = [_model_entry(node.model)]
        return ui | {"widgets_values": self._widgets_values(node)}

    def _widgets_values(self, node: Node) -> list[Any]:
        definition = self._definition(node)
        values = []
        for name, widget in definition.widgets.items():
            values += [self._widget_value(node, name), *widget.trailing_values]
        return [*values, "image"] if definition.upload_widget else values

    def _ui_inputs(self, node_id: int, node: Node) -> list[Json]:
        definition = self._definition(node)
        link_ids = {link[4]: link[0] for link in self.links if link[3] == node_id}
        inputs: list[Json] = []
        for slot, (name, type_name) in enumerate(self._input_slots(node)):
            entry: Json = {"name": name}
            if definition.sockets.get(name, ("", False))[1]:
                entry["shape"] = OPTIONAL_SHAPE
            entry["type"] = type_name
            if name in definition.widgets:
                entry["widget"] = {"name": name}
            inputs.append(entry | {"link": link_ids.get(slot)})
        if definition.upload_widget:
            inputs.append({"name": "upload", "type": "IMAGEUPLOAD", "widget": {"name": "upload"}, "link": None})
        return inputs

    def _ui_outputs(self, node_id: int, node: Node) -> list[Json]:
        outputs: list[Json] = []
        for slot, (name, type_name) in enumerate(self._definition(node).outputs):
            link_ids = [link[0] for link in self.links if link[1:3] == [node_id, slot]]
            outputs.append({"name": name, "type": type_name, "links": link_ids or None})
        return outputs


def _model_entry(model: ModelFile) -> Json:
    """A file as the frontend reads it; the frontend passes over the size."""
    entry: Json = {"name": model.name, "url": model.url, "directory": model.folder}
    if model.sha256 is not None:
        entry |= {"hash": model.sha256, "hash_type": "SHA256"}
    return entry if model.size is None else entry | {"size": model.size}


def to_text(form: Json) -> str:
    """A form as the text of its file."""
    return json.dumps(form, indent=2, ensure_ascii=False) + "\n"
