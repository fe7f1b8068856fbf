"""What the contact sheet says of a line of the ledger: a record for each picture, and for each row or job that was not made.

A record holds texts and whole numbers of pixels only, so that a page can show it without reckoning: a seed of 64 bits is
rounded by JavaScript where it is a number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from ..kept.ledger import ADS, WORKFLOWS
from ..sources.safe_paths import UnsafePathError, check_relative

PASSED, FAILED, UNCHECKED, NOT_ASKED = "passed", "failed", "unchecked", "not asked"

_OLD_KINDS = ("size", "product")  # of checks that stand at the top of a line
_SHOWN_BY_NAME = ("job", "name", "line", "format", "seed", "files", "inputs", "checks", "texts", "server", "workflow")
_SECRET = re.compile(
    r"(?<=://)[^/\s@]*@"
)  # user and password of an address: earlier versions wrote them into the ledger


class Note(NamedTuple):
    """What was found by one check.

    Attributes:
        mark: PASSED, FAILED, UNCHECKED or NOT_ASKED.
        text: what was found.
    """

    mark: str
    text: str


def ad_records(line: Mapping[str, Any], earlier: int, is_superseded: bool) -> Iterator[dict[str, Any]]:
    """A record for each picture of a manifest line; one without a picture where the line names none.

    Args:
        line: of this version, with the checks at each file, or of an earlier one, with the checks at the top.
        earlier: lines of the same job that stand before this one.
        is_superseded: whether a later line of the same job counts.

    Raises:
        UnsafePathError: a file of it lies outside the folder of pictures.
    """
    shared = {
        "name": _text(line.get("name", "")),
        "row": _text(line.get("line", "")),
        "job": _text(line.get("job", "")),
        "seed": _seed(line),
        "earlier": earlier,
        "superseded": is_superseded,
        "inputs": [_input(name, value) for name, value in _mapping(line.get("inputs")).items()],
        "texts": [[f"node {node}", _joined(shown)] for node, shown in _mapping(line.get("texts")).items()],
        "run": _run(line),
        "workflow": _workflow(line),
    }
    for number, entry in enumerate(line["files"] or [{}], 1):
        yield shared | {"several": len(line["files"]) > 1} | _of_file(line, entry, number)


def failure_record(line: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a row that is bad, or of a job that was given up."""
    problems = line.get("problems")
    return {
        "row": _text(line.get("line", "")),
        "name": _text(line.get("name", "")),
        "job": _text(line.get("job", "")),
        "reason": _without_secrets(_text(line.get("reason", ""))),
        "problems": [_without_secrets(_text(problem)) for problem in problems] if isinstance(problems, list) else [],
    }


def notes_of(checks: Mapping[str, Any]) -> list[Note]:
    """What each check found, in words; the product's first, for that is what is asked about first."""
    words = {"product": _product_note, "size": _size_note}
    notes = [word(_mapping(checks.get(kind))) for kind, word in words.items()]
    return notes + [_other_note(kind, _mapping(check)) for kind, check in checks.items() if kind not in words]


def _of_file(line: Mapping[str, Any], entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    checks = _checks(line, entry, number)
    notes = notes_of(checks)
    path = _text(entry.get("file", ""))
    expected = _mapping(checks.get("size")).get("expected")
    return {
        "path": path,
        "href": _href(path, ADS) if path else "",
        "format": _size(expected) or _size(line.get("format")) or _size(entry.get("size")),
        "size": _size(entry.get("size")),
        "title": _text(entry.get("title", "")),
        "notes": notes,
        "failed": any(note.mark == FAILED for note in notes),
        "unchecked": notes[0].mark == UNCHECKED,
        "file": [[key, _text(entry[key])] for key in entry if key not in ("file", "size", "title", "checks")],
    }


def _checks(line: Mapping[str, Any], entry: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """Those of a file: at the file, or at the top of the line, where those of the second file end in _2."""
    if "checks" in entry:
        return _mapping(entry["checks"])
    mark = f"_{number}" if number > 1 else ""
    top = _mapping(line.get("checks"))
    return {kind: top[f"{kind}{mark}"] for kind in _OLD_KINDS if f"{kind}{mark}" in top}


def _product_note(check: Mapping[str, Any]) -> Note:
    if not check:
        return Note(UNCHECKED, "product: not checked")
    mark = _mark(check)
    by = ", by the node's own count" if check.get("by") == "node" else ""
    if check.get("why"):
        return Note(mark, f"product: {_text(check['why'])}{by}")
    inside, exact, difference, translucent, left_out = _counts(check)
    mixed = f"; {translucent:,} are translucent and not compared" if translucent else ""
    mixed += f"; {left_out:,} are left to the generated image" if left_out else ""
    if inside is None or exact is None:
        return Note(mark, f"product: {mark}, without a count{by}")
    if inside == 0:
        return Note(mark, f"product: no pixel of it could be compared{by}{mixed}")
    if exact == inside:
        return Note(mark, f"product: all {inside:,} pixels are the photo's{by}{mixed}")
    how_far = f", by up to {difference:,}" if difference else ""
    return Note(mark, f"product: {inside - exact:,} of {inside:,} pixels differ{how_far}{by}{mixed}")


def _counts(check: Mapping[str, Any]) -> tuple[int | None, int | None, int, int, int]:
    """Pixels compared, equal, the largest difference, translucent pixels, and those left to the generated image, which a file
    does not say: of the check, or of the node's own reports."""
    if "inside" in check:
        return (
            _whole(check.get("inside")),
            _whole(check.get("exact")),
            _whole(check.get("max_difference")) or 0,
            _whole(check.get("translucent")) or 0,
            0,
        )
    ads = check.get("ads")
    reports = [_mapping(report) for report in ads] if isinstance(ads, list) else []
    compared = [_whole(report.get("pixels_checked")) for report in reports]
    equal = [_whole(report.get("pixels_equal")) for report in reports]
    if not reports or None in compared or None in equal:
        return None, None, 0, 0, 0
    return (
        sum(count or 0 for count in compared),
        sum(count or 0 for count in equal),
        max(_whole(report.get("max_difference")) or 0 for report in reports),
        sum(_whole(report.get("translucent_pixels")) or 0 for report in reports),
        sum(_whole(report.get("pixels_left_out")) or 0 for report in reports),
    )


def _size_note(check: Mapping[str, Any]) -> Note:
    if not check:
        return Note(NOT_ASKED, "size: none was asked for")
    expected, found = _size(check.get("expected")), _size(check.get("found"))
    if check.get("passed") is True:
        return Note(PASSED, f"size: {found}, as asked")
    return Note(_mark(check), f"size: asked {expected}, got {found}")


def _other_note(kind: str, check: Mapping[str, Any]) -> Note:
    why = f": {_text(check['why'])}" if check.get("why") else ""
    return Note(_mark(check), f"{kind}: {_mark(check)}{why}")


def _mark(check: Mapping[str, Any]) -> str:
    return {True: PASSED, False: FAILED}.get(check.get("passed"), UNCHECKED)  # type: ignore[arg-type]  # None is neither


def _seed(line: Mapping[str, Any]) -> str:
    """The row's, or the workflow's own where it has one; several by the names of their inputs."""
    if line.get("seed") is not None:
        return _text(line["seed"])
    seeds = _mapping(line.get("seeds"))
    if len(set(map(_text, seeds.values()))) == 1:
        return _text(next(iter(seeds.values())))
    return ", ".join(f"{name} {_text(seed)}" for name, seed in seeds.items())


def _input(name: str, value: Any) -> dict[str, Any]:
    """An input by its name: the value, or a picture's path, and what is known of that picture."""
    if not isinstance(value, dict) or "file" not in value:
        return {"name": name, "value": _text(value), "is_text": isinstance(value, str), "notes": []}
    facts = {key: value[key] for key in sorted(value, key=lambda key: key != "converted") if key != "file"}
    notes = [f"{key.replace('_', ' ')}: {_joined(fact)}" for key, fact in facts.items() if fact not in (None, [])]
    return {"name": name, "value": _without_secrets(_text(value["file"])), "is_text": False, "notes": notes}


def _run(line: Mapping[str, Any]) -> list[list[str]]:
    """Where and how it was made, and whatever else the line says."""
    server = [["server", _without_secrets(_text(line["server"]))]] if "server" in line else []
    rest = {key: value for key, value in line.items() if key not in _SHOWN_BY_NAME}
    return server + [[key.replace("_", " "), _joined(value)] for key, value in rest.items()]


def _workflow(line: Mapping[str, Any]) -> list[str]:
    """Path and address of the workflow; no address where it is no file of the output folder."""
    path = _text(line.get("workflow", ""))
    try:
        return [path, _href(path, WORKFLOWS)]
    except UnsafePathError:
        return [path, ""]


def _href(path: str, folder: str) -> str:
    """A relative address, which no browser takes for anything else.

    Raises:
        UnsafePathError: it is no file in that folder.
    """
    check_relative(path)
    if not path.startswith(f"{folder}/") or path.count("/") != 1:
        raise UnsafePathError(f"{path!r} is not in {folder}/")
    return quote(path, errors="surrogatepass")


def _without_secrets(text: str) -> str:
    return _SECRET.sub("", text)


def _joined(value: Any) -> str:
    """A list or an object in a line, anything else as it is."""
    if isinstance(value, list):
        return "; ".join(_text(one) for one in value)
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_text(one)}" for key, one in value.items())
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # as JSON has it, and most of what is asked: an encoder is made anew for each
    return json.dumps(value, ensure_ascii=False)


def _size(value: Any) -> str:
    """Width and height as a table has them; nothing where it is no size."""
    match value:
        case [int(width), int(height)]:
            return f"{width}x{height}"
    return ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
