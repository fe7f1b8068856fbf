"""A workflow in ComfyUI's API form, whose inputs are found by "<node title>.<input>"."""

from __future__ import annotations

import copy
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .safe_paths import UnsafePathError, check_relative

Prompt = dict[str, dict[str, Any]]  # node id -> {"class_type", "inputs", "_meta"?}

MAX_WORKFLOW_BYTES = 16_000_000
PICTURE_LOADERS = ("LoadImage", "LoadImageMask")  # their input `image` is a file of the server's input folder
SAVED_AS = "filename_prefix"


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
    """

    node_id: str
    name: str
    title: str
    class_type: str

    def __str__(self) -> str:
        return f"{self.title}.{self.name}"

    @property
    def is_picture(self) -> bool:
        """Whether its value names a picture in the server's input folder."""
        return self.class_type in PICTURE_LOADERS and self.name == "image"


class Workflow:
    """A workflow as it is shipped: read once, filled for every job.

    Args:
        nodes: API form.

    Raises:
        WorkflowError: it is not, or it names a picture outside the server's input folder.
    """

    def __init__(self, nodes: Any) -> None:
        self.nodes: Prompt = _checked_nodes(nodes)
        self.inputs = [
            NamedInput(node_id, name, _title(node), node["class_type"])
            for node_id, node in self.nodes.items()
            for name, value in node["inputs"].items()
            if not _is_link(value)
        ]
        for named in self.inputs:
            if named.is_picture:
                _check_picture_name(named, self.value(named))

    @classmethod
    def read(cls, file: Path) -> Workflow:
        """Read a file.

        Raises:
            WorkflowError: it is no workflow in API form.
        """
        if file.stat().st_size > MAX_WORKFLOW_BYTES:
            raise WorkflowError(f"{file} has more than {MAX_WORKFLOW_BYTES} bytes: expected a workflow in API form")
        try:
            return cls(json.loads(file.read_text(encoding="utf-8-sig")))
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
        raise UnknownInputError(f"the workflow has no free input {name!r}{hint} Its inputs: {', '.join(known)}")

    def filled(self, values: Mapping[NamedInput, Any], saved_as: str) -> Prompt:
        """A copy with other values, which saves all its files under `saved_as`."""
        prompt = copy.deepcopy(self.nodes)
        for named, value in values.items():
            prompt[named.node_id]["inputs"][named.name] = value
        for node in prompt.values():
            if SAVED_AS in node["inputs"]:
                node["inputs"][SAVED_AS] = saved_as
        return prompt

    def _named(self, name: str) -> list[NamedInput]:
        return [named for named in self.inputs if name in (str(named), f"#{named.node_id}.{named.name}")]


def coerced(named: NamedInput, shipped: Any, value: Any) -> Any:
    """A catalogue's value in the kind of the value that the workflow has there.

    Raises:
        ValueError: it cannot be one.
    """
    match shipped:
        case bool():
            words = {"true": True, "false": False}
            found = value if isinstance(value, bool) else words.get(str(value).lower())
            return _expected(named, found, "true or false", value)
        case int():
            return _expected(named, _integer(value), "a whole number", value)
        case float():
            return _expected(named, _number(value), "a number", value)
        case str():
            return _expected(named, value if isinstance(value, str) else None, "text", value)
        case _:
            raise ValueError(f"{named} holds a {type(shipped).__name__}, which a catalogue cannot set")


def _expected(named: NamedInput, found: Any, kind: str, value: Any) -> Any:
    if found is None:
        raise ValueError(f"{named} takes {kind}, got {value!r}")
    return found


def _integer(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _title(node: Mapping[str, Any]) -> str:
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
