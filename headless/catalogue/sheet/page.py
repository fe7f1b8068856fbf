"""A contact sheet of an output folder: one page that shows every ad, what was checked of it, and what was not made.

The page is a file of its own: it loads the pictures beside it and nothing else, from a disk or from any web server. What it
shows stands in it deflated and in base64, some hundreds of records a block, so that no text of a table or of a server is ever
HTML; its script unpacks the blocks and writes text.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..kept.ledger import FAILURES, MANIFEST, LedgerError
from ..sources.safe_paths import UnsafePathError
from .lines import failure_lines, manifest_lines
from .records import ad_records, failure_record

SHEET = "index.html"
RECORDS_IN_A_BLOCK = 250  # one is unpacked to open an ad: a few milliseconds

_MARK = b'<meta name="generator" content="pfv-catalogue">'  # by which a page of ours is known
_MARK_WITHIN = 1000  # bytes from the beginning
_SOURCES = Path(__file__).parent


@dataclass
class _Totals:
    """What was written, for the page to tell whether all of it has arrived."""

    ads: int = 0
    jobs: int = 0
    superseded: int = 0
    failures: int = 0
    written: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))


def write_sheet(out: Path) -> Path:
    """Write OUT/index.html from the ledger and the failures of the last run; either may be absent.

    Args:
        out: the output folder of a run, over or going on.

    Returns:
        The page. It is there as a whole or not at all.

    Raises:
        LedgerError: there is no such folder, one of the two files is damaged in the middle or names a picture elsewhere, or
            what lies in the page's place is not the command's own.
    """
    if not out.is_dir():
        raise LedgerError(f"there is no folder {out}: expected the output folder of a run")
    place = out / SHEET
    _check_place(place)
    fresh = out / f".{SHEET}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    try:
        with fresh.open("xb") as page:  # x: never through a link
            for part in _parts(out):
                page.write(part)
            page.flush()
            os.fsync(page.fileno())
        fresh.replace(place)
    finally:
        fresh.unlink(missing_ok=True)
    return place


def check_sheet(out: Path) -> None:
    """Look whether the page can be written in a folder, which may be absent.

    Raises:
        LedgerError: what lies in its place is not the command's own.
    """
    _check_place(out / SHEET)


def _check_place(place: Path) -> None:
    if place.is_symlink():
        raise LedgerError(f"{place} is a link: this command writes to files of its own only")
    if not place.exists():
        return
    if not place.is_file():
        raise LedgerError(f"{place} is no file: move it away, the contact sheet belongs there")
    with place.open("rb") as page:
        if _MARK not in page.read(_MARK_WITHIN):
            raise LedgerError(f"{place} was not written by this command: move it away, the contact sheet belongs there")


def _parts(out: Path) -> Iterator[bytes]:
    """The page from its beginning to its end. The first ads stand before the script, which shows them at once."""
    totals = _Totals()
    head, middle, tail = _template(out.resolve().name)
    blocks = _blocks("ads", _ads(out / MANIFEST, totals))
    yield head
    yield next(blocks, b"")
    yield middle
    yield from blocks
    yield from _blocks("failures", _failures(out / FAILURES, totals))
    yield f'<script type="application/json" id="totals">{json.dumps(vars(totals))}</script>\n'.encode()
    yield tail


def _template(name: str) -> tuple[bytes, bytes, bytes]:
    """The page before, between and after the records."""
    style, script = (_source(f"page.{kind}") for kind in ("css", "js"))
    head, middle, tail = _source("page.html").split("<!-- records -->\n")
    head = head.replace("{policy}", _policy(style, script)).replace("{style}", style)
    head = head.replace("{name}", html.escape(name))
    return (
        head.encode("utf-8", "replace"),  # a folder's name may hold bytes that are no UTF-8
        middle.replace("{script}", script).encode(),
        tail.encode(),
    )


def _source(name: str) -> str:
    return (_SOURCES / name).read_text(encoding="utf-8")


def _policy(style: str, script: str) -> str:
    """Pictures beside the page, this style and this script; nothing else is loaded, run or sent."""
    # A page opened from a disk has no origin that every browser takes for 'self': file: says it for them.
    return "; ".join(
        [
            "default-src 'none'",
            "img-src 'self' file:",
            f"style-src {_hash(style)}",
            f"script-src {_hash(script)}",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _blocks(kind: str, records: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    while block := list(islice(records, RECORDS_IN_A_BLOCK)):
        packed = base64.b64encode(zlib.compress(_json(block)))
        yield b'<script type="text/plain" class="%s">%s</script>\n' % (kind.encode(), packed)


def _json(records: list[dict[str, Any]]) -> bytes:
    """UTF-8; half a pair of surrogates, which has none, becomes the sign for what cannot be shown."""
    text = json.dumps(records, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _ads(manifest: Path, totals: _Totals) -> Iterator[dict[str, Any]]:
    for line in manifest_lines(manifest):
        try:
            records = list(ad_records(line.content, line.earlier, line.is_superseded))
        except UnsafePathError as error:
            raise LedgerError(f"{manifest}, job {line.content['job']}: {error}") from error
        if line.is_superseded:
            totals.superseded += len(records)
        else:
            totals.ads += len(records)
            totals.jobs += 1
        yield from records


def _failures(failures: Path, totals: _Totals) -> Iterator[dict[str, Any]]:
    for line in failure_lines(failures):
        totals.failures += 1
        yield failure_record(line)
