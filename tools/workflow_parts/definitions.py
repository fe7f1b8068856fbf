"""The slots and widgets that the frontend makes of a node class, read from the host's /object_info."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .description import Node, WorkflowError

Json = dict[str, Any]

PACK_ID = "pfv-mepa"  # the project's name in pyproject.toml: how the frontend finds the pack of a missing node
CORE_ID = "comfy-core"
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
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
    def from_object_info(cls, info: Json) -> NodeDefinition:
        """Read one entry of /object_info."""
        sockets: dict[str, tuple[str, bool]] = {}
        widgets: dict[str, Widget] = {}
        upload_widget = False
        for kind in ("required", "optional"):
            for name in info["input_order"].get(kind, []):
                type_name, options = _type_and_options(info["input"][kind][name])
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

    def body_height(self) -> int:
        """Smallest height of the node's body, as litegraph computes it."""
        rows = max(len(self.sockets), len(self.outputs), 1)
        height = rows * SLOT_HEIGHT + BODY_PADDING
        num_widgets = sum(1 + len(widget.trailing_values) for widget in self.widgets.values()) + self.upload_widget
        return height + (num_widgets * WIDGET_HEIGHT + WIDGETS_PADDING if num_widgets else 0)


def _type_and_options(spec: list[Any]) -> tuple[str, Json]:
    options = spec[1] if len(spec) > 1 else {}
    return ("COMBO" if isinstance(spec[0], list) else spec[0]), options


def _widget(name: str, type_name: str, options: Json) -> Widget:
    is_seed = type_name == "INT" and (options.get("control_after_generate") or name in SEED_NAMES)
    trailing_values = ("fixed",) if is_seed else ()  # fixed: a shipped seed stays what it is
    return Widget(type_name, options.get("default"), trailing_values)


def definition_of(node: Node, object_info: Mapping[str, Json]) -> NodeDefinition:
    """The definition of a node's class; WorkflowError where the host has no such class."""
    if node.class_type not in object_info:
        raise WorkflowError(f"{node.name}: the host has no node class {node.class_type!r}")
    return NodeDefinition.from_object_info(object_info[node.class_type])
