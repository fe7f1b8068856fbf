"""Keeps tests/host/frozen_nodes.json: what people's saved workflows rely on, node by node.

    python3 -m tools.frozen_nodes            records what was added since
    python3 -m tools.frozen_nodes --check    writes nothing; exits with 1 if something is not recorded

Saved workflows hold widget values by place and links by slot, so a node's inputs and outputs can only be added to, at the
end, and an added input must be optional: then an old file opens with the new input at its default, and an old API file runs.
What breaks that is refused, and so is what moves a value under the same names: a widget that becomes a socket, a number that
gets a second value, an output that becomes a list. Nodes come from a running ComfyUI: one that is started for it, or
`--server URL`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from math import inf
from typing import Any

from headless.host.environment import EnvironmentFailedError
from headless.host.find import PACK_ROOT, HostNotFoundError
from headless.host.start import HostStartError

from .files import save_text
from .workflow_parts.definitions import Json, NodeDefinition
from .workflow_parts.server import object_info_of

CATEGORY = "PFV-MEPA"  # of all the pack's nodes, or the first part of it
FILE = PACK_ROOT / "tests" / "host" / "frozen_nodes.json"
HOW_TO_RECORD = "run python3 -m tools.frozen_nodes, which adds it to tests/host/frozen_nodes.json"
KEPT_OPTIONS = ("default", "min", "max", "options")
PARTS = ("inputs", "sockets", "values", "outputs")


class NoPackError(RuntimeError):
    """A server has not the nodes of this pack; the message names those that it lacks."""


def own_nodes(object_info: Mapping[str, Json]) -> dict[str, Json]:
    """The pack's nodes among all of a server's, in whatever folder the pack lies there.

    Raises:
        NoPackError: the server lacks one that is recorded.
    """
    recorded = read()
    if lacking := [name for name in recorded if name not in object_info]:
        raise NoPackError(
            f"the server has {len(recorded) - len(lacking)} of the {len(recorded)} recorded nodes of this pack and lacks "
            f"{', '.join(lacking)}: ask one that has loaded this pack as it is here; a node id stays for ever"
        )
    return {
        name: info
        for name, info in object_info.items()
        if name in recorded or info.get("category", "").split("/")[0] == CATEGORY
    }


def frozen_form(info: Json) -> Json:
    """One entry of /object_info -> its inputs in the page's order (required, then optional), the slots of those without a widget,
    what each widget puts into widgets_values, and its outputs: name, type, whether it is a list."""
    definition = NodeDefinition.from_object_info(info, {})
    inputs = [
        _input(name, kind, info["input"][kind][name])
        for kind in ("required", "optional")
        for name in info["input_order"].get(kind, [])
    ]
    values = [[name, *widget.trailing_values] for name, widget in definition.widgets.items()]
    values += [["upload"]] if definition.upload_widget else []
    outputs = [list(of_one) for of_one in zip(info["output_name"], info["output"], info["output_is_list"], strict=True)]
    return {"inputs": inputs, "sockets": [*definition.sockets], "values": values, "outputs": outputs}


def _input(name: str, kind: str, spec: list[Any] | tuple[Any, ...]) -> Json:
    options = spec[1] if len(spec) > 1 else {}
    kept = {key: options[key] for key in KEPT_OPTIONS if key in options}
    if "default" not in kept:
        kept.pop("options", None)  # the files of a folder, not choices of ours
    return {"name": name, "type": spec[0], "kind": kind, **json.loads(json.dumps(kept))}


def broken_promises(frozen: Mapping[str, Json], current: Mapping[str, Json]) -> list[str]:
    """What would make a saved workflow open wrong, or not at all, one line each."""
    return [line for node_id, node in frozen.items() for line in _broken(node_id, node, current.get(node_id))]


def _broken(node_id: str, frozen: Json, current: Json | None) -> Iterator[str]:
    if current is None:
        yield f"{node_id} is gone: a node id stays for ever"
        return
    yield from _broken_inputs(node_id, frozen["inputs"], current["inputs"], current["sockets"])
    for part in PARTS[1:]:
        if current[part][: len(frozen[part])] != frozen[part]:
            yield f"{node_id}: {part} were {frozen[part]}, are {current[part]}: add new ones at the end only"


def _broken_inputs(node_id: str, frozen: list[Json], current: list[Json], sockets: list[str]) -> Iterator[str]:
    was, now = ([entry["name"] for entry in entries] for entries in (frozen, current))
    if now[: len(was)] != was:
        yield f"{node_id}: inputs were {was}, are {now}: add new ones at the end only"
        return
    for old, new in zip(frozen, current, strict=False):
        # A required input's value lies in every file; an optional one may be absent, and then has the default.
        for key in ("type", "kind", *(["default"] if old["kind"] == "optional" else [])):
            if old.get(key) != new.get(key):
                yield f"{node_id}.{old['name']}: {key} was {old.get(key)!r}, is {new.get(key)!r}"
        if not _accepts(old, new):
            yield f"{node_id}.{old['name']}: a saved value of {_range(old)} is no longer allowed by {_range(new)}"
    for added in current[len(frozen) :]:
        if added["kind"] != "optional":
            yield f"{node_id}.{added['name']} was added and is required: make it optional, or old API files stop running"
        elif added["name"] not in sockets and "default" not in added:
            yield f"{node_id}.{added['name']} was added without a default: old files have no value for it"


def _accepts(old: Json, new: Json) -> bool:
    """Whether every value that was allowed still is; where there is no bound, any number is."""
    if "options" in old or "options" in new:
        return "options" in old and set(old["options"]) <= set(new.get("options", []))
    (old_min, old_max), (new_min, new_max) = ((one.get("min", -inf), one.get("max", inf)) for one in (old, new))
    return new_min <= old_min and old_max <= new_max


def _range(entry: Json) -> Any:
    return entry.get("options", [entry.get("min"), entry.get("max")])


def unrecorded(frozen: Mapping[str, Json], current: Mapping[str, Json]) -> list[str]:
    """What was added since, one line each."""
    lines = []
    for node_id, node in current.items():
        if node_id not in frozen:
            lines.append(f"{node_id} is new: {HOW_TO_RECORD}")
        elif frozen[node_id] != node:
            lines.append(f"{node_id} has more than is recorded: {HOW_TO_RECORD}")
    return lines


def read() -> dict[str, Json]:
    """The recorded nodes."""
    nodes: dict[str, Json] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    return nodes


def to_text(nodes: Mapping[str, Json]) -> str:
    """The file's text: one entry of a part a line."""
    parts = []
    for node_id, node in nodes.items():
        lists = [f'    "{part}": [{_lines(node[part])}]' for part in PARTS]
        parts.append(f'  "{node_id}": {{\n' + ",\n".join(lists) + "\n  }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _lines(entries: list[Any]) -> str:
    text = ",\n".join(f"      {json.dumps(entry)}" for entry in entries)
    return f"\n{text}\n    " if entries else ""


def main() -> int:
    """Record or check; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit with 1 if something is not recorded")
    parser.add_argument("--server", help="URL of a running ComfyUI with this pack, instead of starting one")
    arguments = parser.parse_args()
    frozen = read()
    with object_info_of(arguments.server) as object_info:
        current = {name: frozen_form(info) for name, info in own_nodes(object_info).items()}
    if broken := broken_promises(frozen, current):
        print(*broken, sep="\n")
        return 1
    added = unrecorded(frozen, current)
    if arguments.check:
        print(*added, sep="\n")
        return int(bool(added))
    save_text(FILE, to_text(current))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (EnvironmentFailedError, HostNotFoundError, HostStartError, NoPackError) as error:
        sys.exit(str(error))
