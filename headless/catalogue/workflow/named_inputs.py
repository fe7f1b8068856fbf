"""A workflow in ComfyUI's API form, whose inputs are found by "<node title>.<input>"."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..sources.safe_paths import UnsafePathError, check_relative
from .input_kinds import SAVED_AS, InputKinds, Kind

Prompt = dict[str, dict[str, Any]]  # node id -> {"class_type", "inputs", "_meta"?}

MAX_WORKFLOW_BYTES = 16_000_000
NUM_SHOWN = 24  # names of inputs in one message


class WorkflowError(ValueError):
    """The file is no workflow in API form that this command can run."""


class UnknownInputError(LookupError):
    """No input of the workflow, or more than one, has that name; the message lists what there is."""


@dataclass(frozen=True)
class NamedInput:
    """One input of one node.

    Attributes:
        node_id: the node's id in the workflow.
        name: the input's own name.
        title: the node's title, or its class where it has none.
        class_type: the node's class.
        kind: what it takes.
    """

    node_id: str
    name: str
    title: str
    class_type: str
    kind: Kind = field(default=Kind(), compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.title}.{self.name}"

    @property
    def is_picture(self) -> bool:
        """Whether its value names a picture in the server's input folder."""
        return self.kind.is_picture


class Workflow:
    """A workflow as it is shipped: read once, filled for every job.

    Args:
        nodes: API form.
        kinds: of its inputs, as a server says.

    Raises:
        WorkflowError: it is not, or it names a picture outside the server's input folder.
    """

    def __init__(self, nodes: Any, kinds: InputKinds) -> None:
        self.nodes: Prompt = _checked_nodes(nodes)
        self.kinds = kinds
        self.inputs = [
            NamedInput(node_id, name, title_of(node), node["class_type"], kinds.of(node["class_type"], name))
            for node_id, node in self.nodes.items()
            for name, value in node["inputs"].items()
            if not _is_link(value)
        ]
        for named in self.inputs:
            if named.is_picture:
                _check_picture_name(named, self.value(named))

    @classmethod
    def read(cls, file: Path, kinds: InputKinds) -> Workflow:
        """Read a file.

        Raises:
            WorkflowError: it is no workflow in API form.
        """
        if file.stat().st_size > MAX_WORKFLOW_BYTES:
            raise WorkflowError(f"{file} has more than {MAX_WORKFLOW_BYTES} bytes: expected a workflow in API form")
        try:
            return cls(json.loads(file.read_text(encoding="utf-8-sig")), kinds)
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise WorkflowError(f"{file} is no JSON text, expected a workflow in API form: {error}") from error
        except (ValueError, RecursionError) as error:
            raise WorkflowError(f"{file}: {error}") from error

    def value(self, named: NamedInput) -> Any:
        """What the workflow has there."""
        return self.nodes[named.node_id]["inputs"][named.name]

    def find(self, name: str) -> NamedInput:
        """The input called "<title>.<input>", or "#<node id>.<input>" where titles repeat.

        Raises:
            UnknownInputError: there is none, or there are several, or it is linked to another node.
        """
        found = self._named(name)
        if len(found) == 1:
            return found[0]
        if found:
            ids = ", ".join(f"#{named.node_id}.{named.name}" for named in found)
            raise UnknownInputError(f"{name!r} names {len(found)} inputs of the workflow: say which by {ids}")
        known = sorted({str(named) for named in self.inputs})
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]!r}?" if near else "."
        shown = ", ".join(known[:NUM_SHOWN]) + (", ..." if len(known) > NUM_SHOWN else "")
        raise UnknownInputError(f"the workflow has no free input {name!r}{hint} Its inputs: {shown}")

    def filled(self, values: Mapping[NamedInput, Any], saved_as: str) -> Prompt:
        """A copy with other values, which saves all its files under `saved_as`."""
        prompt = copy.deepcopy(self.nodes)
        for named, value in values.items():
            prompt[named.node_id]["inputs"][named.name] = value
        for node in prompt.values():
            if SAVED_AS in node["inputs"]:
                node["inputs"][SAVED_AS] = saved_as
        return prompt

    @property
    def savers(self) -> list[str]:
        """Ids of the nodes that save files."""
        return [node_id for node_id, node in self.nodes.items() if self.kinds.saves(node["class_type"])]

    def lacks(self, kinds: InputKinds, filled: Mapping[NamedInput, Any]) -> list[str]:
        """What a server has not that this workflow needs: classes of nodes, files and choices.

        Args:
            kinds: of that server.
            filled: inputs whose value is not the workflow's, with the value; of pictures anything.
        """
        classes = sorted({node["class_type"] for node in self.nodes.values()})
        missing = [f"node class {name}" for name in classes if not kinds.has(name)]
        for named in self.inputs:
            value = filled.get(named, self.value(named))
            choices = kinds.of(named.class_type, named.name).choices
            is_sent, in_a_folder = named.is_picture and named in filled, named.is_picture and "/" in str(value)
            if choices and not (is_sent or in_a_folder) and value not in choices:
                missing.append(f"{named}: {value!r}")
        return missing

    def _named(self, name: str) -> list[NamedInput]:
        return [named for named in self.inputs if name in (str(named), f"#{named.node_id}.{named.name}")]


def title_of(node: Mapping[str, Any]) -> str:
    """A node's title, or its class where it has none."""
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return title if isinstance(title, str) and title else str(node["class_type"])


def _is_link(value: Any) -> bool:
    return isinstance(value, list)


def _checked_nodes(nodes: Any) -> Prompt:
    if isinstance(nodes, dict) and isinstance(nodes.get("nodes"), list):
        raise WorkflowError("this is the browser's form of a workflow: expected the API form (File, Export (API))")
    if not isinstance(nodes, dict) or not nodes:
        raise WorkflowError("expected a workflow in API form: an object, node id -> node")
    for node_id, node in nodes.items():
        if not (
            isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        ):
            raise WorkflowError(f"node {node_id!r}: expected an object with class_type and inputs")
    return nodes


def _check_picture_name(named: NamedInput, value: Any) -> None:
    try:
        check_relative(value if isinstance(value, str) else "")
    except UnsafePathError as error:
        raise WorkflowError(f"{named} names a picture outside the server's input folder: {error}") from error
