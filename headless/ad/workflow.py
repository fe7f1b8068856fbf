"""Finding and changing nodes of a workflow in ComfyUI's API format, by class and title instead of by id."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..server.client import Prompt

PRODUCT_PHOTO, REFERENCE, PROMPT = "Product photo", "Reference", "Prompt"  # titles of the nodes that a user fills
CHECKPOINT, FIND = "Checkpoint", "What must not come through"
OWN_WAY = {  # inputs that may stay open: the node then finds by itself what they would have told it
    "PFVCutOut": "found",
    "PFVReference": "found",
    "PFVGround": "depth",
    "PFVProductDepth": "depth",
}


class ImpossibleError(ValueError):
    """A server cannot run a workflow; the message says which nodes or files it has not."""


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


def title_of(node: Mapping[str, Any]) -> str:
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
    for reference in nodes_of(changed, "PFVReference"):
        set_inputs(reference, hide="nothing")
    return changed


def possible_part(prompt: Prompt, object_info: Mapping[str, Mapping[str, Any]]) -> tuple[Prompt, list[str]]:
    """A workflow without what a server cannot run, as far as the pack's nodes have a way of their own (OWN_WAY).

    Args:
        prompt: in the API form.
        object_info: the server's description of each class that it has.

    Returns:
        The workflow, and what was left out, in words.

    Raises:
        ImpossibleError: something is missing that nothing takes the place of.
    """
    reasons = {node_id: why for node_id, node in prompt.items() if (why := _missing(node, object_info))}
    kept: Prompt = copy.deepcopy(prompt)
    said = []
    lost = list(reasons)
    while lost:
        gone = lost.pop()
        del kept[gone]
        for node_id, node in kept.items():
            for name in [
                name for name, value in node["inputs"].items() if isinstance(value, list) and value[0] == gone
            ]:
                if OWN_WAY.get(node["class_type"]) == name:
                    del node["inputs"][name]
                    said.append(f"{title_of(node)} finds by itself what {name} would have told it")
                elif node_id not in lost:
                    lost.append(node_id)
    if not nodes_of(kept, "SaveImage"):
        raise ImpossibleError(f"this workflow cannot run there: {'; '.join(reasons.values())}")
    return _needed(kept), [*reasons.values(), *said]


def _missing(node: Mapping[str, Any], object_info: Mapping[str, Mapping[str, Any]]) -> str:
    """Why a server cannot run a node, in words; empty where it can."""
    info = object_info.get(node["class_type"])
    if not info:
        return f"{title_of(node)}: there is no node {node['class_type']}"
    for kind in ("required", "optional"):
        for name, (type_of, *options) in info["input"].get(kind, {}).items():
            choices = type_of if isinstance(type_of, list) else (options[0] if options else {}).get("options")
            value = node["inputs"].get(name)
            if isinstance(choices, list) and isinstance(value, str) and _is_file(value) and value not in choices:
                return f"{title_of(node)}: there is no file {value}"
    return ""


def _is_file(value: str) -> bool:
    return Path(value).suffix == ".safetensors"


def _needed(prompt: Prompt) -> Prompt:
    """What leads to a picture that is saved, in the workflow's order."""
    needed, to_do = set[str](), [node_id for node_id, node in prompt.items() if node["class_type"] == "SaveImage"]
    while to_do:
        node_id = to_do.pop()
        if node_id not in needed:
            needed.add(node_id)
            to_do += [value[0] for value in prompt[node_id]["inputs"].values() if isinstance(value, list)]
    return {node_id: node for node_id, node in prompt.items() if node_id in needed}
