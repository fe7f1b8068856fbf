"""What a run's prompt, as the host hands it to a node, says of the nodes before it: classes, titles and values, as they were.

A prompt is {id: {"class_type", "inputs", "_meta"}}; an input is a value, or [id, output] of the node that gives it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import nodes as host_nodes

Prompt = Mapping[str, Mapping[str, Any]]
Told = dict[str, Any]
"""Of a node: its id, class, title, and values by input."""

FOLDERS = re.compile(r".*[\\/](?=[^\\/])", re.DOTALL)
ABSOLUTE = re.compile(r"(/|~|[A-Za-z]:[\\/]|\\\\)\S*")
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
SECRET = re.compile(
    r"(^|_)(api_?key|key|token|secret|password|passwd|credentials?|auth|authorization)(_|$)", re.IGNORECASE
)
LEFT_OUT = "(left out)"
MODEL_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx")
PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
STORES = re.compile(r" \[(input|output|temp)\]$")  # how the host names a picture of another folder than its input
SAMPLER_INPUTS = frozenset(("sampler_name", "scheduler", "steps", "cfg", "denoise", "seed", "noise_seed"))


def told_upstream(prompt: Prompt, node_id: str) -> list[Told]:
    """Of every node that a node depends on, itself left out: what was set on it; a linked value is {"from": its giver's title}.

    Names of files come without their folders, addresses and what may be a secret are left out, and say so.
    """
    return [
        {
            "id": one,
            "class": prompt[one]["class_type"],
            "title": title_of(prompt, one),
            "values": {name: _told(prompt, name, value) for name, value in prompt[one]["inputs"].items()},
        }
        for one in upstream(prompt, node_id)
    ]


def upstream(prompt: Prompt, node_id: str, without: tuple[str, ...] = ()) -> list[str]:
    """The nodes that a node depends on, in the prompt's order; links of the kinds `without`, such as MODEL, are not followed."""
    found, to_do = set[str](), [node_id]
    while to_do:
        given = links(prompt, to_do.pop()).values()
        sources = {one for one, output in given if one in prompt and _kind(prompt, one, output) not in without}
        to_do += sources - found
        found |= sources
    return [one for one in prompt if one in found]


def links(prompt: Prompt, node_id: str) -> dict[str, tuple[str, int]]:
    """Input -> (id, output) of what gives it, where it is linked."""
    return {name: (str(value[0]), value[1]) for name, value in prompt[node_id]["inputs"].items() if _is_link(value)}


def title_of(prompt: Prompt, node_id: str) -> str:
    """As the page sent it; the class where it sent none."""
    title = prompt[node_id].get("_meta", {}).get("title")
    return str(title or prompt[node_id]["class_type"])


def gives(prompt: Prompt, node_id: str, kind: str) -> bool:
    """Whether a node's class has an output of this kind."""
    return kind in _kinds(prompt, node_id)


def _kind(prompt: Prompt, node_id: str, output: int) -> str | None:
    """Of one output; None where the host does not know the class, or such an output of it."""
    return dict(enumerate(_kinds(prompt, node_id))).get(output)


def texts(told: list[Told], prompt: Prompt) -> list[Told]:
    """Nodes that make a prompt of a text that was set on them."""
    return [one for one in told if gives(prompt, one["id"], "CONDITIONING") and written(one)]


def samplers(told: list[Told]) -> list[Told]:
    """Nodes with a setting of a sampler."""
    return [one for one in told if SAMPLER_INPUTS & one["values"].keys()]


def model_files(told: list[Told]) -> list[str]:
    """Names of model files, each once, in the order of their nodes."""
    values = (value for one in told for value in one["values"].values() if isinstance(value, str))
    return list(dict.fromkeys(value for value in values if value.lower().endswith(MODEL_ENDINGS)))


def written(one: Told) -> list[str]:
    """The texts that were set on a node."""
    return [value for name, value in one["values"].items() if isinstance(value, str) and re.search("text|prompt", name)]


def _kinds(prompt: Prompt, node_id: str) -> tuple[str, ...]:
    """Of a node's outputs, in their order."""
    known = host_nodes.NODE_CLASS_MAPPINGS.get(prompt[node_id]["class_type"])
    return tuple(getattr(known, "RETURN_TYPES", ()))


def _told(prompt: Prompt, name: str, value: Any) -> Any:
    if _is_link(value):
        source = str(value[0])
        return {"from": title_of(prompt, source) if source in prompt else f"node {source}"}
    if SECRET.search(name):
        return LEFT_OUT
    if not isinstance(value, str):
        return value
    text = value.strip()
    if ADDRESS.fullmatch(text):
        return LEFT_OUT
    names_a_file = STORES.sub("", text).lower().endswith((*MODEL_ENDINGS, *PICTURE_ENDINGS))
    return FOLDERS.sub("", text, count=1) if names_a_file or ABSOLUTE.fullmatch(text) else value


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)
