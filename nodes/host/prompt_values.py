"""What was set on the nodes of a run's prompt: values as they were, or which node gives them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from typing import Any

from comfy_execution.graph_utils import is_link

from .prompt_graph import Prompt, Told, declared, followed, gives, is_setting, kinds, reached, title_of, upstream

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
PERHAPS = " (perhaps)"


def told_upstream(prompt: Prompt, node_id: str, sure: Collection[str] | None = None) -> list[Told]:
    """Of every node that a node depends on, itself left out: what was set on it; a linked value is {"from": its giver's title}.

    Names of files come without their folders, addresses and what may be a secret are left out, and say so. A node that is not
    among the `sure` ones says `perhaps`; without these, one that may not have been used. One that makes a prompt says which
    inputs it `reaches`.
    """
    certain = set(upstream(prompt, node_id, sure=True) if sure is None else sure)
    told = [
        {
            "id": one,
            "class": prompt[one]["class_type"],
            "title": title_of(prompt, one),
            "values": {name: _told(prompt, name, value) for name, value in prompt[one]["inputs"].items()},
            **({} if one in certain else {"perhaps": True}),
        }
        for one in upstream(prompt, node_id)
    ]
    for one in texts(told, prompt):
        ends = reached(prompt, one["id"], "CONDITIONING")
        one["reaches"] = [
            end | {"title": title_of(prompt, end["of"]), "through": [title_of(prompt, by) for by in end["through"]]}
            for end in ends
        ]
    return told


def texts(told: list[Told], prompt: Prompt) -> list[Told]:
    """Nodes that make a prompt: of texts, or of what the page cannot show."""
    return [
        one
        for one in told
        if gives(prompt, one["id"], "CONDITIONING")
        and (
            written(one, prompt)
            or not any("CONDITIONING" in kinds(prompt, link) for link in followed(prompt, one["id"]))
        )
    ]


def written(one: Told, prompt: Prompt) -> dict[str, str]:
    """The texts that a node takes, by input."""
    shown = {name: shown_value(prompt, one, name) for name, value in one["values"].items() if _is_text(value)}
    return {
        name: text
        for name, text in shown.items()
        if text is not None
        and (re.search("text|prompt", name) or declared(prompt, one["id"], name)[0].split(",")[0] == "STRING")
    }


def samplers(told: list[Told]) -> list[Told]:
    """Nodes with a setting of a sampler."""
    return [one for one in told if SAMPLER_INPUTS & one["values"].keys()]


def model_files(told: list[Told], prompt: Prompt) -> list[str]:
    """Names of model files, each once, in the order of their nodes; what is linked or in a list as its node has it."""
    found: dict[str, bool] = {}
    for one in told:
        for name, value in one["values"].items():
            line = _model_file(prompt, one, name, value)
            if line is not None:
                found[line] = found.get(line, True) and one.get("perhaps", False)
    return [f"{line}{PERHAPS if perhaps else ''}" for line, perhaps in found.items()]


def shown_value(prompt: Prompt, one: Told, name: str) -> str | None:
    """A setting in words; None of what is none, such as a picture."""
    value = one["values"][name]
    if _is_from(value):
        return f"from {value['from']}" if is_setting(prompt, one["id"], name) else None
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return None if value is None else str(value)


def _model_file(prompt: Prompt, one: Told, name: str, value: Any) -> str | None:
    if isinstance(value, str):
        return value if _is_model(value) else None
    if _is_from(value):
        of_files = any(_is_model(str(option)) for option in declared(prompt, one["id"], name)[1].get("options", ()))
        return f"{one['title']}: {name} from {value['from']}" if of_files else None
    return f"{one['title']}: {shown_value(prompt, one, name)}" if any(map(_is_model, _strings(value))) else None


def _strings(value: Any) -> Iterator[str]:
    """Those in a list or a mapping, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)


def _is_model(name: str) -> bool:
    return name.lower().endswith(MODEL_ENDINGS)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or _is_from(value)


def _is_from(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"from"}


def _told(prompt: Prompt, name: str, value: Any) -> Any:
    if is_link(value):
        return {"from": title_of(prompt, value[0]) if value[0] in prompt else f"node {value[0]}"}
    if SECRET.search(name):
        return LEFT_OUT
    if isinstance(value, list):
        return [_told(prompt, name, part) for part in value]
    if isinstance(value, dict):
        return {part: _told(prompt, str(part), inner) for part, inner in value.items()}
    if not isinstance(value, str):
        return value
    text = value.strip()
    if ADDRESS.fullmatch(text):
        return LEFT_OUT
    names_a_file = STORES.sub("", text).lower().endswith((*MODEL_ENDINGS, *PICTURE_ENDINGS))
    return FOLDERS.sub("", text, count=1) if names_a_file or ABSOLUTE.fullmatch(text) else value
