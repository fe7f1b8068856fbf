"""One canvas, the workflow's own or a subgraph's: the numbers of its nodes and links, and how the browser's file has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple

from .definitions import Json, NodeDefinition, definition_of
from .description import Group, Inlet, Instance, Link, ModelFile, Node, Note, Subgraph, WorkflowError, items
from .layout import Rectangle, lay_out

INPUT_NODE, OUTPUT_NODE = -10, -20  # the frontend's numbers of a subgraph's two ends
OPTIONAL_SHAPE = 7  # litegraph's hollow circle
NOTE_TYPE = "MarkdownNote"
NOTE_COLOURS = {"color": "#432", "bgcolor": "#653"}


@dataclass(frozen=True)
class Numbers:
    """The next numbers of one file. No canvas in it has another's: newer frontends give out new ones where two are the same."""

    nodes: Iterator[int] = field(default_factory=lambda: count(1))
    links: Iterator[int] = field(default_factory=lambda: count(1))
    groups: Iterator[int] = field(default_factory=lambda: count(1))

    def last(self) -> Json:
        """The highest of each that were taken, as the frontend calls them. No more can be taken then."""
        taken = {"Node": self.nodes, "Link": self.links, "Group": self.groups, "Reroute": count(1)}
        return {f"last{kind}Id": next(numbers) - 1 for kind, numbers in taken.items()}


class Connection(NamedTuple):
    """A link as the browser's file has it."""

    id: int
    origin: int
    origin_slot: int
    target: int
    target_slot: int
    type: str


class Level:
    """The items of one canvas together with the host's definitions.

    Args:
        name: of the workflow or the subgraph.
        groups: with the items.
        object_info: the host's answer to /object_info, at least for the classes used.
        numbers: what is taken from.
        subgraph: whose canvas it is; None = the workflow's own.
        complete: whether every required input must have its link here.

    Raises:
        WorkflowError: a class, input, output or value the host does not have, a link whose types differ, a required
            input without a link, or a circle.
    """

    def __init__(
        self,
        name: str,
        groups: Iterable[Group],
        object_info: Mapping[str, Json],
        numbers: Numbers,
        subgraph: Subgraph | None = None,
        complete: bool = True,
    ) -> None:
        self.name = name
        self.groups = tuple(groups)
        self.subgraph = subgraph
        self._frame_ids = numbers.groups
        self.items = [(next(numbers.nodes), item) for item in items(self.groups)]
        self.nodes = {item.name: item for _, item in self.items if not isinstance(item, Note)}
        if len(self.nodes) != sum(not isinstance(item, Note) for _, item in self.items):
            raise WorkflowError(f"{name}: a name is used twice")
        self.definitions = {node.name: definition_of(node, object_info) for node in self.nodes.values()}
        self.ids = {item.name: item_id for item_id, item in self.items if not isinstance(item, Note)}
        for node in self.nodes.values():
            self._check(node, complete)
        self.links = list(self._numbered_links(numbers.links))
        self.order = self._execution_order()

    def title(self, node: Node | Instance) -> str:
        """As shown."""
        return node.title or self.definitions[node.name].display_name

    def input_slots(self, node: Node | Instance) -> list[tuple[str, str]]:
        """(name, type) of each input slot: the frontend puts sockets first, then the widgets' own slots."""
        definition = self.definitions[node.name]
        sockets = [(name, type_name) for name, (type_name, _) in definition.sockets.items()]
        return [*sockets, *((name, widget.type) for name, widget in definition.widgets.items())]

    def widget_value(self, node: Node | Instance, name: str) -> Any:
        """What stands in a widget; the host's default where something else comes in its place."""
        value = node.inputs.get(name)
        if isinstance(value, Inlet):
            value = value.value
        if value is None or isinstance(value, Link):
            value = self.definitions[node.name].widgets[name].default
        if value is None:
            raise WorkflowError(f"{node.name} ({node.class_type}): {name} has no default, give it a value")
        return value

    def ui_nodes(self) -> tuple[list[Json], list[Json]]:
        """Nodes and groups as the browser's file has them."""
        rectangles, frames = lay_out(self.groups, self._body_height, self._frame_ids)
        placed = zip(self.items, rectangles, strict=True)
        return [self._ui_item(item_id, item, rectangle) for (item_id, item), rectangle in placed], frames

    def _body_height(self, item: Node | Instance | Note) -> int:
        if isinstance(item, Note):
            return item.height
        smallest = self.definitions[item.name].body_height()
        if item.height is not None and item.height < smallest:
            raise WorkflowError(f"{item.name} is {item.height} px high, its widgets need {smallest}")
        return item.height or smallest

    def _check(self, node: Node | Instance, complete: bool) -> None:
        definition = self.definitions[node.name]
        known = [*definition.sockets, *definition.widgets]
        if unknown := [name for name in node.inputs if name not in known]:
            raise WorkflowError(f"{node.name} ({node.class_type}) has no inputs {unknown}, only {known}")
        for name, (_, optional) in definition.sockets.items():
            if complete and not optional and not isinstance(node.inputs.get(name), Link | Inlet):
                raise WorkflowError(f"{node.name} ({node.class_type}): input {name} needs a link")

    def _numbered_links(self, numbers: Iterator[int]) -> Iterator[Connection]:
        """In the order of the targets' slots, those to a subgraph's outputs last."""
        for node in self.nodes.values():
            for slot, (name, type_name) in enumerate(self.input_slots(node)):
                value = node.inputs.get(name)
                if not isinstance(value, Link | Inlet):
                    continue
                origin, origin_slot, origin_type = self._origin(f"{node.name}.{name}", value)
                if origin_type not in (type_name, None):
                    raise WorkflowError(f"{node.name}.{name} wants {type_name}, {value} is {origin_type}")
                yield Connection(next(numbers), origin, origin_slot, self.ids[node.name], slot, type_name)
        for slot, (name, link) in enumerate(self.subgraph.outputs.items() if self.subgraph else ()):
            origin, origin_slot, origin_type = self._origin(name, link)
            yield Connection(next(numbers), origin, origin_slot, OUTPUT_NODE, slot, origin_type or "*")

    def _origin(self, where: str, value: Link | Inlet) -> tuple[int, int, str | None]:
        """Node, slot and type that something comes from; an inlet has the type of what it leads to."""
        if isinstance(value, Inlet):
            if self.subgraph is None or value.name not in self.subgraph.inputs:
                raise WorkflowError(f"{where} is the inlet {value.name!r}, which {self.name} has not")
            return INPUT_NODE, self.subgraph.inputs.index(value.name), None
        if value.node not in self.nodes:
            raise WorkflowError(f"{where} is linked to {value.node!r}, which is not in {self.name}")
        definition = self.definitions[value.node]
        slot = definition.output_slot(value.output)
        return self.ids[value.node], slot, definition.outputs[slot][1]

    def _execution_order(self) -> dict[int, int]:
        """Node id -> place, as litegraph computes it: nodes without open inputs first, in the order of their ids."""
        inner = [link for link in self.links if link.origin != INPUT_NODE and link.target != OUTPUT_NODE]
        open_links = {item_id: sum(link.target == item_id for link in inner) for item_id, _ in self.items}
        ready = [item_id for item_id, number in open_links.items() if number == 0]
        order: dict[int, int] = {}
        while ready:
            node_id = ready.pop(0)
            order[node_id] = len(order)
            leaving = [link for link in inner if link.origin == node_id]
            for link in sorted(leaving, key=lambda link: (link.origin_slot, link.id)):
                open_links[link.target] -= 1
                if open_links[link.target] == 0:
                    ready.append(link.target)
        if len(order) != len(self.items):
            raise WorkflowError(f"{self.name}: the links form a circle")
        return order

    def _ui_item(self, item_id: int, item: Node | Instance | Note, rectangle: Rectangle) -> Json:
        placed = {
            "id": item_id,
            "type": NOTE_TYPE if isinstance(item, Note) else item.class_type,
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

    def _ui_node(self, node_id: int, node: Node | Instance) -> Json:
        definition = self.definitions[node.name]
        ui: Json = {"inputs": self._ui_inputs(node_id, node), "outputs": self._ui_outputs(node_id, node)}
        if node.title is not None and node.title != definition.display_name:
            ui["title"] = node.title  # the frontend leaves a node's own name out
        ui["properties"] = _properties(node, definition)
        return ui | {"widgets_values": self._widgets_values(node)}

    def _widgets_values(self, node: Node | Instance) -> list[Any]:
        definition = self.definitions[node.name]
        values = []
        for name, widget in definition.widgets.items():
            values += [self.widget_value(node, name), *widget.trailing_values]
        return [*values, "image"] if definition.upload_widget else values

    def _ui_inputs(self, node_id: int, node: Node | Instance) -> list[Json]:
        definition = self.definitions[node.name]
        link_ids = {link.target_slot: link.id for link in self.links if link.target == node_id}
        inputs: list[Json] = []
        for slot, (name, type_name) in enumerate(self.input_slots(node)):
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

    def _ui_outputs(self, node_id: int, node: Node | Instance) -> list[Json]:
        outputs: list[Json] = []
        for slot, (name, type_name) in enumerate(self.definitions[node.name].outputs):
            link_ids = [link.id for link in self.links if (link.origin, link.origin_slot) == (node_id, slot)]
            outputs.append({"name": name, "type": type_name, "links": link_ids or None})
        return outputs


def _properties(node: Node | Instance, definition: NodeDefinition) -> Json:
    if isinstance(node, Instance):
        return {}
    properties: Json = {"cnr_id": definition.pack_id, "Node name for S&R": node.class_type}
    return properties | ({"models": [_model_entry(model) for model in node.models]} if node.models else {})


def _model_entry(model: ModelFile) -> Json:
    """A file as the frontend reads it; the frontend passes over the size."""
    entry: Json = {"name": model.name, "url": model.url, "directory": model.folder}
    if model.sha256 is not None:
        entry |= {"hash": model.sha256, "hash_type": "SHA256"}
    return entry if model.size is None else entry | {"size": model.size}
