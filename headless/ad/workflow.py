"""Finding and changing nodes of a workflow in ComfyUI's API format, by class and title instead of by id."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from ..server.client import Prompt


class NodeNotFoundError(LookupError):
    """No node, or more than one, answers to a class and title; the message lists what the workflow has."""


def load_prompt(file: Path) -> Prompt:
    """Read an API-format workflow."""
    prompt: Prompt = json.loads(file.read_text(encoding="utf-8"))
    return prompt


def nodes_of(prompt: Prompt, class_type: str) -> list[dict[str, Any]]:
    """Every node of a class, in the file's order."""
    return [node for node in prompt.values() if node["class_type"] == class_type]


def the_node(prompt: Prompt, class_type: str, title: str | None = None) -> dict[str, Any]:
    """The one node of a class, or the one with that title among them.

    Raises:
        NodeNotFoundError: there is none, or there are several.
    """
    of_class = nodes_of(prompt, class_type)
    found = [node for node in of_class if title is None or title_of(node) == title]
    if len(found) != 1:
        wanted = class_type if title is None else f"{class_type} titled {title!r}"
        have = [title_of(node) for node in of_class]
        raise NodeNotFoundError(f"expected one {wanted}, got {len(found)}; nodes of that class: {have}")
    return found[0]


def title_of(node: dict[str, Any]) -> str:
    """The node's title, or its class where it has none."""
    return str(node.get("_meta", {}).get("title", node["class_type"]))


def set_inputs(node: dict[str, Any], **values: Any) -> None:
    """Give inputs that the node already has new values.

    Raises:
        KeyError: the node has no such input, so the workflow is not the one that was expected.
    """
    for name, value in values.items():
        if name not in node["inputs"]:
            raise KeyError(f"{title_of(node)} has no input {name!r}, only {sorted(node['inputs'])}")
        node["inputs"][name] = value


def origin(prompt: Prompt, node: dict[str, Any], name: str) -> dict[str, Any]:
    """The node that an input is linked to.

    Raises:
        KeyError: the input is absent, or a value.
    """
    link = node["inputs"][name]
    if not isinstance(link, list):
        raise KeyError(f"{title_of(node)}: input {name!r} is the value {link!r}, expected a link")
    return prompt[link[0]]


def without_pfv(prompt: Prompt) -> Prompt:
    """The workflow that hides nothing: references are encoded as a whole, and their depth is used as a whole."""
    changed: Prompt = copy.deepcopy(prompt)
    for hiding in nodes_of(changed, "PFVMaskRebinarize"):
        hiding["inputs"].pop("mask", None)
    return changed
