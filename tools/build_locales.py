"""Keeps the nodes' texts in locales/ in step with the nodes.

    python3 -m tools.build_locales                         writes locales/en and lists what the other languages lack
    python3 -m tools.build_locales --translated [PATH...]  records which texts now say what the English ones say

English is made from the nodes' schemas. The other languages are written by hand; for each of their texts
tools/translated_from.json keeps a hash of the English text that it says and one of itself. A text that was written anew says the
English text of now. One that stayed while the English text changed says it only where it is named, as it is listed:
`--translated ja/nodeDefs.json/MEPAApply/description`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from headless.host.environment import EnvironmentFailedError
from headless.host.find import PACK_ROOT, HostNotFoundError
from headless.host.start import HostStartError

from .files import save_text
from .frozen_nodes import NoPackError, own_nodes
from .workflow_parts.definitions import Json
from .workflow_parts.forms import to_text as to_record
from .workflow_parts.server import object_info_of

LOCALES = PACK_ROOT / "locales"
RECORD = PACK_ROOT / "tools" / "translated_from.json"
TRANSLATIONS = ("zh", "ja")
FILES = ("nodeDefs.json", "main.json")

Pair = list[str]
"""Hashes of an English text, and of one in another language."""


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


def fingerprint(text: str) -> str:
    """A hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def pairs(language: str) -> dict[str, Pair]:
    """language/path -> hash of the English text and of the language's own, where there are both."""
    english = texts_of("en")
    texts = {path: text for path, text in texts_of(language).items() if text and path in english}
    return {f"{language}/{path}": [fingerprint(english[path]), fingerprint(text)] for path, text in texts.items()}


def recorded() -> dict[str, Pair]:
    """language/path -> hash of the English text that a text says, and of itself."""
    record: dict[str, Pair] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return record


def is_anew(path: str, pair: Pair, record: Mapping[str, Pair]) -> bool:
    """Whether a text is another one than was recorded."""
    return path not in record or record[path][1] != pair[1]


def renewed(record: Mapping[str, Pair], named: Collection[str]) -> dict[str, Pair]:
    """The record with the English texts of now for what was written anew and what is named."""
    now = {path: pair for language in TRANSLATIONS for path, pair in pairs(language).items()}
    return {path: pair if path in named or is_anew(path, pair, record) else record[path] for path, pair in now.items()}


def faults(language: str, record: Mapping[str, Pair]) -> list[str]:
    """What is missing, left over, out of date or not recorded in a language, one line each."""
    texts, english = texts_of(language), texts_of("en")
    lines = [f"{language}/{path} is missing" for path in english if not texts.get(path)]
    lines += [f"{language}/{path} is left over: no node has it" for path in texts if path not in english]
    for path, pair in pairs(language).items():
        if is_anew(path, pair, record):
            lines.append(f"{path} is not recorded: run python3 -m tools.build_locales --translated")
        elif pair != record[path]:
            lines.append(f"{path}: the English text has changed, this one has not")
    return lines


def main() -> int:
    """Write, or record; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--translated", nargs="*", metavar="PATH", help="record what was written anew, and these texts, as up to date"
    )
    parser.add_argument("--server", help="URL of a running ComfyUI with this pack, instead of starting one")
    arguments = parser.parse_args()
    if arguments.translated is None:
        with object_info_of(arguments.server) as object_info:
            texts = {name: english_texts(info) for name, info in own_nodes(object_info).items()}
        save_text(LOCALES / "en" / "nodeDefs.json", to_text(texts))
    else:
        known = {path for language in TRANSLATIONS for path in pairs(language)}
        if unknown := [path for path in arguments.translated if path not in known]:
            parser.error(f"there is no text {', '.join(unknown)}: name texts as they are listed")
        save_text(RECORD, to_record(renewed(recorded(), arguments.translated)))
    found = [line for language in TRANSLATIONS for line in faults(language, recorded())]
    print(*found, sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EnvironmentFailedError, HostNotFoundError, HostStartError, NoPackError) as error:
        sys.exit(str(error))
