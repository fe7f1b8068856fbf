"""The slots and widgets that the frontend makes of a node class, read from the host's /object_info."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .description import PACK_ID, Inlet, Instance, Node, Subgraph, WorkflowError, items

Json = dict[str, Any]

CORE_ID = "comfy-core"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # a choice that has inputs of its own, named "<choice>.<input>"
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", DYNAMIC_COMBO)
SEED_NAMES = ("seed", "noise_seed")  # the frontend puts control_after_generate behind these even where nobody asks

# litegraph's measures in canvas pixels
SLOT_HEIGHT = 20
WIDGET_HEIGHT = 24
BODY_PADDING = 6
WIDGETS_PADDING = 8


@dataclass(frozen=True)
class Widget:
    """A widget input.

    Attributes:
        type: as links to it must have it.
        default: the host's; None = the host has none, so the description must give a value.
        trailing_values: what the frontend stores in widgets_values after the widget's own value.
    """

    type: str
    default: Any
    trailing_values: tuple[Any, ...]


@dataclass(frozen=True)
class NodeDefinition:
    """The slots and widgets that the frontend makes of one class of /object_info.

    Attributes:
        sockets: name -> (type, optional), of the inputs without a widget.
        widgets: name -> Widget, in the order of widgets_values.
        upload_widget: whether the upload button follows the widgets.
        outputs: (name, type) of each output.
    """

    display_name: str
    pack_id: str
    sockets: dict[str, tuple[str, bool]]
    widgets: dict[str, Widget]
    upload_widget: bool
    outputs: list[tuple[str, str]]

    @classmethod
    def from_object_info(cls, info: Json, chosen: Mapping[str, Any]) -> NodeDefinition:
        """Read one entry of /object_info.

        Args:
            info: the entry.
            chosen: the node's inputs: some classes have other inputs for another choice.
        """
        sockets: dict[str, tuple[str, bool]] = {}
        widgets: dict[str, Widget] = {}
        upload_widget = False
        for kind in ("required", "optional"):
            names = info["input_order"].get(kind, [])
            for name, spec in _with_those_of_choices(((name, info["input"][kind][name]) for name in names), chosen):
                type_name, options = _type_and_options(spec)
                if type_name not in WIDGET_TYPES or options.get("forceInput"):
                    sockets[name] = (type_name, kind == "optional")
                    continue
                widgets[name] = _widget(name, type_name, options)
                upload_widget = upload_widget or bool(options.get("image_upload"))
        pack_id = PACK_ID if info["python_module"].startswith("custom_nodes.") else CORE_ID
        outputs = list(zip(info["output_name"], info["output"], strict=True))
        return cls(info["display_name"], pack_id, sockets, widgets, upload_widget, outputs)

    def output_slot(self, output: str) -> int:
        """Slot of an output by its name, or by its type where only one output has it."""
        names = [name for name, _ in self.outputs]
        types = [type_name for _, type_name in self.outputs]
        for candidates in (names, types):
            if candidates.count(output) == 1:
                return candidates.index(output)
        raise WorkflowError(f"{self.display_name} has no single output {output!r}, only {self.outputs}")

    def output_type(self, output: str) -> str:
        """Type of an output by its name, or by its type where only one output has it."""
        return self.outputs[self.output_slot(output)][1]

    def input_type(self, name: str) -> str:
        """Type of a socket or a widget."""
        return self.sockets[name][0] if name in self.sockets else self.widgets[name].type

    def body_height(self) -> int:
        """Smallest height of the node's body, as litegraph computes it."""
        rows = max(len(self.sockets), len(self.outputs), 1)
        height = rows * SLOT_HEIGHT + BODY_PADDING
        num_widgets = sum(1 + len(widget.trailing_values) for widget in self.widgets.values()) + self.upload_widget
        return height + (num_widgets * WIDGET_HEIGHT + WIDGETS_PADDING if num_widgets else 0)


def _with_those_of_choices(
    inputs: Iterator[tuple[str, list[Any]]], chosen: Mapping[str, Any]
) -> Iterator[tuple[str, list[Any]]]:
    """Inputs by name, each choice followed by the inputs that what is chosen has."""
    for name, spec in inputs:
        yield name, spec
        if spec[0] != DYNAMIC_COMBO:
            continue
        options = {option["key"]: option["inputs"] for option in spec[1]["options"]}
        value = chosen.get(name, next(iter(options)))
        if value not in options:
            raise WorkflowError(f"{name} is {value!r}, expected one of {list(options)}")
        for inner in options[value].values():
            yield from _with_those_of_choices(((f"{name}.{key}", inner[key]) for key in inner), chosen)


def _type_and_options(spec: list[Any]) -> tuple[str, Json]:
    options = spec[1] if len(spec) > 1 else {}
    return ("COMBO" if isinstance(spec[0], list) else spec[0]), options


def _widget(name: str, type_name: str, options: Json) -> Widget:
    is_seed = type_name == "INT" and (options.get("control_after_generate") or name in SEED_NAMES)
    trailing_values = ("fixed",) if is_seed else ()  # fixed: a shipped seed stays what it is
    default = options["options"][0]["key"] if type_name == DYNAMIC_COMBO else options.get("default")
    return Widget(type_name, default, trailing_values)


def definition_of(item: Node | Instance, object_info: Mapping[str, Json]) -> NodeDefinition:
    """The definition of a node's class, or of what an instance is one of.

    Raises:
        WorkflowError: the host has no such class, or a subgraph's inputs are not what its nodes make of them.
    """
    if isinstance(item, Instance):
        return _definition_of_subgraph(item.subgraph, object_info)
    if item.class_type not in object_info:
        raise WorkflowError(f"{item.name}: the host has no node class {item.class_type!r}")
    return NodeDefinition.from_object_info(object_info[item.class_type], item.inputs)


def _definition_of_subgraph(subgraph: Subgraph, object_info: Mapping[str, Json]) -> NodeDefinition:
    """Its inputs are what they lead to: a widget where the first of these is one."""
    sockets: dict[str, tuple[str, bool]] = {}
    widgets: dict[str, Widget] = {}
    nodes = {item.name: definition_of(item, object_info) for item in items(subgraph.groups) if isinstance(item, Node)}
    targets = _targets(subgraph)
    if sorted(targets) != sorted(subgraph.inputs):
        raise WorkflowError(
            f"subgraph {subgraph.name}: its nodes take {sorted(targets)}, its inputs are {subgraph.inputs}"
        )
    for name in subgraph.inputs:
        types = {nodes[node].input_type(target) for node, target in targets[name]}
        if len(types) != 1:
            raise WorkflowError(f"subgraph {subgraph.name}: {name} leads to inputs of several types, {sorted(types)}")
        (node, target), value = next(iter(targets[name].items()))
        if target in nodes[node].widgets:
            default = nodes[node].widgets[target].default if value is None else value
            widgets[name] = Widget(types.pop(), default, ())
        else:
            sockets[name] = (types.pop(), all(nodes[node].sockets[target][1] for node, target in targets[name]))
    outputs = [(name, nodes[link.node].output_type(link.output)) for name, link in subgraph.outputs.items()]
    return NodeDefinition(subgraph.name, PACK_ID, sockets, widgets, False, outputs)


def _targets(subgraph: Subgraph) -> dict[str, dict[tuple[str, str], Any]]:
    """Name of an inlet -> (node, input) of all that it leads to, each with its value there."""
    targets: dict[str, dict[tuple[str, str], Any]] = {}
    for item in items(subgraph.groups):
        if isinstance(item, Instance):
            raise WorkflowError(
                f"subgraph {subgraph.name}: {item.name} is a subgraph in a subgraph, which is not built here"
            )
        if isinstance(item, Node):
            for name, value in item.inputs.items():
                if isinstance(value, Inlet):
                    targets.setdefault(value.name, {})[item.name, name] = value.value
    return targets
