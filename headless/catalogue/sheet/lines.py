"""The lines of a ledger as the contact sheet shows them: in the table's order, those of a job that was made again marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..kept.ledger import LedgerError

_ORDER = np.dtype(
    [("row", "i8"), ("width", "i8"), ("height", "i8"), ("seed", "f8"), ("offset", "i8"), ("job", "S32")],
)


class ManifestLine(NamedTuple):
    """A finished job.

    Attributes:
        content: of the line.
        earlier: lines of the same job that stand before it.
        is_superseded: whether a later line of the same job counts.
    """

    content: dict[str, Any]
    earlier: int
    is_superseded: bool


def manifest_lines(file: Path) -> Iterator[ManifestLine]:
    """Every line by row, format and seed, whichever was finished first; none where there is no file.

    Only the order is held, some 100 bytes a line; a line that is added meanwhile is left out.

    Raises:
        LedgerError: a line other than the last is none of a manifest.
    """
    if not file.is_file():
        return
    with file.open("rb") as content:
        order = np.fromiter(_order(file, content), _ORDER)
        earlier, is_superseded = _repetitions(order)
        for place in np.lexsort([order[key] for key in ("offset", "seed", "height", "width", "row")]):
            content.seek(order["offset"][place])
            yield ManifestLine(json.loads(content.readline()), int(earlier[place]), bool(is_superseded[place]))


def failure_lines(file: Path) -> Iterator[dict[str, Any]]:
    """Every row and job that was not made, in the file's order; none where there is no file.

    Raises:
        LedgerError: a line other than the last is none of these.
    """
    if not file.is_file():
        return
    with file.open("rb") as content:
        for _, line in _lines(file, content, _is_failure):
            yield line


def _order(manifest: Path, content: BinaryIO) -> Iterator[tuple[int, int, int, float, int, bytes]]:
    """What a line is sorted by, where it begins, and its job."""
    for offset, line in _lines(manifest, content, _is_job):
        match line.get("format"):
            case [int(width), int(height)]:
                pass
            case _:
                width = height = 0
        row, seed = line.get("line"), line.get("seed")
        in_order = float(seed) if isinstance(seed, int) else -1.0
        yield row if isinstance(row, int) else 0, width, height, in_order, offset, bytes.fromhex(line["job"])


def _repetitions(order: NDArray[np.void]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Of each line: how many earlier ones there are of its job, and whether there is a later one."""
    by_job = np.lexsort([order["offset"], order["job"]])
    jobs = order["job"][by_job]
    begins = np.ones(len(jobs), bool)
    begins[1:] = jobs[1:] != jobs[:-1]
    ends = np.ones(len(jobs), bool)
    ends[:-1] = begins[1:]
    places = np.arange(len(jobs))
    earlier, is_superseded = np.empty(len(jobs), np.intp), np.empty(len(jobs), bool)
    earlier[by_job] = places - np.maximum.accumulate(np.where(begins, places, 0))
    is_superseded[by_job] = ~ends
    return earlier, is_superseded


def _lines(
    file: Path, content: BinaryIO, is_whole: Callable[[dict[str, Any]], bool]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Beginning in bytes and content of each line; a last one that a kill has torn is left out."""
    number = offset = 0
    while raw := content.readline():
        number += 1
        line = _parsed(raw)
        if line is None or not is_whole(line):
            if content.read(1):
                raise LedgerError(f"{file}, line {number} is no line of this command's: repair it, or remove it")
            return
        yield offset, line
        offset += len(raw)


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _is_job(line: dict[str, Any]) -> bool:
    files, job = line.get("files"), line.get("job")
    try:
        is_hash = isinstance(job, str) and len(bytes.fromhex(job)) == 32
    except ValueError:
        return False
    return is_hash and isinstance(files, list) and all(isinstance(file, dict) for file in files)


def _is_failure(line: dict[str, Any]) -> bool:
    return "reason" in line
