"""Writes object_info.json, what a real ComfyUI with this pack says of the classes of the shipped workflows.

    python -m tests.catalogue.write_object_info

The stub server answers with it. What differs between machines is left out: files in lists, but for those that the shipped
workflows name; and so are words for people.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from headless.host.find import PACK_ROOT, require_host
from headless.host.start import running_host
from headless.server.blocking import Client

FILE = Path(__file__).with_name("object_info.json")
KEPT = ("input", "input_order", "output", "output_is_list", "output_name", "name", "output_node")
WORDS = ("tooltip", "display_name", "description")
FILE_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4")


def main() -> None:
    """Start a server, ask, and write."""
    workflows = [json.loads(file.read_text()) for file in sorted((PACK_ROOT / "workflows" / "api").glob("*.json"))]
    nodes = [node for workflow in workflows for node in workflow.values()]
    with (
        tempfile.TemporaryDirectory() as folder,
        running_host(require_host(), Path(sys.executable), Path(folder), [PACK_ROOT]) as running,
        Client(running.url) as client,
    ):
        found = {name: client.object_info(name) for name in sorted({node["class_type"] for node in nodes})}
    lines = [f"{json.dumps(name)}: {json.dumps(compact(info, nodes))}" for name, info in found.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{FILE.name}: {len(found)} classes, {FILE.stat().st_size} bytes")


def compact(info: dict[str, Any], nodes: list[dict[str, Any]]) -> dict[str, Any]:
    """One class without words and without files of this machine."""
    used = [node["inputs"] for node in nodes if node["class_type"] == info["name"]]
    kept = {name: info[name] for name in KEPT}
    kept["input"] = {
        group: {
            name: _without_files(_without_words(spec), {inputs[name] for inputs in used if _is_text(inputs.get(name))})
            for name, spec in inputs_of.items()
        }
        for group, inputs_of in info["input"].items()
    }
    return kept


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _without_words(spec: Any) -> Any:
    if isinstance(spec, dict):
        return {name: _without_words(value) for name, value in spec.items() if name not in WORDS}
    return [_without_words(value) for value in spec] if isinstance(spec, list) else spec


def _without_files(spec: list[Any], shipped: set[str]) -> list[Any]:
    """A list of choices is the type itself, or the option `options` of COMBO."""
    if spec and isinstance(spec[0], list):
        return [_choices(spec[0], shipped), *spec[1:]]
    if spec and spec[0] == "COMBO" and len(spec) > 1 and "options" in spec[1]:
        return ["COMBO", {**spec[1], "options": _choices(spec[1]["options"], shipped)}]
    return spec


def _choices(choices: list[Any], shipped: set[str]) -> list[Any]:
    kept = [choice for choice in choices if not str(choice).lower().endswith(FILE_SUFFIXES)]
    return kept + sorted(shipped - set(map(str, kept)))


if __name__ == "__main__":
    main()
