"""A workflow in ComfyUI's API form, computed by functions: one for each class of node, found by its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..server.client import Prompt
from .workflow import title_of


@dataclass(frozen=True)
class Computed:
    """What a node gives.

    Attributes:
        outputs: in the order of its output slots.
        picture: what it shows, (B, 3, H, W), 0..1; None = nothing.
        text: what it says; empty = nothing.
    """

    outputs: tuple[Any, ...]
    picture: Tensor | None = None
    text: str = ""


@dataclass(frozen=True)
class Operation:
    """What stands for a class of nodes.

    Attributes:
        compute: takes the node's inputs by name, links already followed.
        neutral: inputs that it does not compute, and what they must be.
    """

    compute: Callable[..., Computed]
    neutral: Mapping[str, Any] = field(default_factory=dict)


class Graph:
    """The nodes of a workflow, each computed once, when another one needs it.

    Args:
        prompt: in the API form.
        operations: by class of node.
    """

    def __init__(self, prompt: Prompt, operations: Mapping[str, Operation]) -> None:
        self._prompt = prompt
        self._operations = operations
        self.computed: dict[str, Computed] = {}

    def compute(self, node_id: str) -> Computed:
        """What a node gives.

        Raises:
            ValueError: a class, an input or a setting that only ComfyUI computes; or what a node refuses.
        """
        if node_id not in self.computed:
            node = self._prompt[node_id]
            operation = self._operations.get(node["class_type"])
            if operation is None:
                raise ValueError(
                    f"{title_of(node)} is a {node['class_type']}, which is computed in ComfyUI only: install ComfyUI"
                )
            self.computed[node_id] = operation.compute(**self._inputs(node, operation))
        return self.computed[node_id]

    def _inputs(self, node: Mapping[str, Any], operation: Operation) -> dict[str, Any]:
        known = inspect.signature(operation.compute).parameters
        inputs = {}
        for name, value in node["inputs"].items():
            if name in known:
                inputs[name] = self._value(value)
            elif name not in operation.neutral or value != operation.neutral[name]:
                raise ValueError(
                    f"{node['class_type']} has {name} {value!r}, which is computed in ComfyUI only"
                    + (f" (here it is {operation.neutral[name]!r})" if name in operation.neutral else "")
                    + ": install ComfyUI, or set it back"
                )
        return inputs

    def _value(self, value: Any) -> Any:
        """A link's output, or the value itself."""
        match value:
            case [str() as node_id, int() as slot]:
                return self.compute(node_id).outputs[slot]
        return value
