"""Keeps the nodes' texts in locales/ in step with the nodes.

    python3 -m tools.build_locales               writes locales/en and lists what the other languages lack
    python3 -m tools.build_locales --translated  records that they now say what the English texts say

English is made from the nodes' schemas. The other languages are written by hand; for each of their texts
tools/translated_from.json keeps a hash of the English text that it says, so that a changed one is found.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from headless.host.environment import EnvironmentFailedError
from headless.host.find import PACK_ROOT, HostNotFoundError
from headless.host.start import HostStartError

from .workflow_parts.definitions import Json
from .workflow_parts.server import object_info_of

LOCALES = PACK_ROOT / "locales"
RECORD = PACK_ROOT / "tools" / "translated_from.json"
TRANSLATIONS = ("zh", "ja")
FILES = ("nodeDefs.json", "main.json")


def english_texts(info: Json) -> Json:
    """One entry of /object_info -> its texts as the frontend looks them up."""
    inputs: Json = {}
    for kind in ("required", "optional"):
        for name, spec in info["input"].get(kind, {}).items():
            inputs[name] = {"name": name, "tooltip": spec[1]["tooltip"]}
    outputs: Json = {}
    for slot, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True)):
        outputs[str(slot)] = {"name": name, "tooltip": tooltip}
    texts: Json = {"display_name": info["display_name"], "description": info["description"]}
    return texts | {name: part for name, part in (("inputs", inputs), ("outputs", outputs)) if part}


def read(language: str, name: str) -> Json:
    """A file of a language; empty where there is none."""
    file = LOCALES / language / name
    texts: Json = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return texts


def to_text(texts: Mapping[str, Any]) -> str:
    """The text of a file in locales/."""
    return json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


def leaves(texts: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """(path, text) of each text."""
    for name, value in texts.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{name}/")
        else:
            yield f"{path}{name}", value


def texts_of(language: str) -> dict[str, str]:
    """Path -> text, over all files of a language."""
    return {f"{name}/{path}": text for name in FILES for path, text in leaves(read(language, name))}


def fingerprints() -> dict[str, str]:
    """Path -> hash of each English text."""
    return {path: hashlib.sha256(text.encode()).hexdigest()[:12] for path, text in texts_of("en").items()}


def recorded() -> dict[str, str]:
    """Path -> hash of the English text that the translations say."""
    record: dict[str, str] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return record


def faults(language: str, record: Mapping[str, str]) -> list[str]:
    """What is missing, left over or out of date in a language, one line each."""
    texts, english = texts_of(language), fingerprints()
    lines = [f"locales/{language} lacks {path}" for path in english if not texts.get(path)]
    lines += [f"locales/{language} has {path}, which no node has" for path in texts if path not in english]
    return lines + [
        f"locales/{language}: the English text of {path} has changed"
        for path in texts
        if path in english and record.get(path) != english[path]
    ]


def main() -> int:
    """Write, or record; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--translated", action="store_true", help="record that the translations are up to date")
    parser.add_argument("--server", help="URL of a running ComfyUI with this pack, instead of starting one")
    arguments = parser.parse_args()
    if arguments.translated:
        RECORD.write_text(to_text(fingerprints()), encoding="utf-8")
    else:
        with object_info_of(arguments.server) as object_info:
            module = f"custom_nodes.{PACK_ROOT.name}"
            own = {name: info for name, info in object_info.items() if info["python_module"] == module}
        texts = {name: english_texts(info) for name, info in own.items()}
        (LOCALES / "en" / "nodeDefs.json").write_text(to_text(texts), encoding="utf-8")
    found = [line for language in TRANSLATIONS for line in faults(language, recorded())]
    print(*found, sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EnvironmentFailedError, HostNotFoundError, HostStartError) as error:
        sys.exit(str(error))
