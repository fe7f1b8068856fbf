"""The catalogue, CSV or JSONL, one row at a time. What is wrong with a row is said of that row; the rest goes on."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_FIELD = 20_000  # characters; far above any prompt, far below what a missing quotation mark would swallow
MAX_LINE = 1_000_000  # bytes of one line of JSONL
SUFFIXES = (".csv", ".jsonl")

_SPREADSHEET_ERRORS = ("#REF!", "#N/A", "#NAME?", "#VALUE!", "#DIV/0!", "#NULL!", "#NUM!")
_OTHER_ENCODINGS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class CatalogueError(ValueError):
    """The file as a whole cannot be read; the message says what to do."""


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        line: the number of its last line in the file, from 1.
        fields: column -> value; text in CSV, any JSON value in JSONL. Empty cells are left out.
    """

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used.

    Attributes:
        line: the number of its last line in the file, from 1.
        reason: what is wrong and what was expected.
    """

    line: int
    reason: str


def read_rows(file: Path) -> Iterator[Row | BadRow]:
    """Every row of a catalogue, without ever holding more than one.

    Args:
        file: .csv (comma, quotation marks doubled inside quoted cells, a header) or .jsonl (one object a line), UTF-8 with or
            without a byte order mark.

    Raises:
        CatalogueError: another kind of file, another encoding of the whole file, or a header that cannot be used.
    """
    if file.suffix.lower() not in SUFFIXES:
        raise CatalogueError(f"{file}: expected a file that ends in {' or '.join(SUFFIXES)}")
    with file.open("rb") as content:
        if encoding := _OTHER_ENCODINGS.get(content.read(2)):
            raise CatalogueError(f"{file} is {encoding}: save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')")
    rows = _csv_rows if file.suffix.lower() == ".csv" else _json_rows
    yield from rows(file)


def _csv_rows(file: Path) -> Iterator[Row | BadRow]:
    # surrogateescape: a byte that is not UTF-8 spoils its own row, not the whole file
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        reader = csv.reader(text, strict=True)
        header = _header(file, reader)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(reader.line_num, f"is no CSV: {error}; look for a missing quotation mark")
                continue
            if cells:
                yield _csv_row(reader.line_num, header, cells)


def _header(file: Path, reader: Any) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise CatalogueError(f"{file}: the header is no CSV: {error}") from error
    if not any(header):
        raise CatalogueError(f"{file} is empty: expected a header with the names of the columns")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated or "" in header:
        raise CatalogueError(f"{file}: every column needs a name of its own, got {header}")
    return header


def _csv_row(line: int, header: list[str], cells: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(line, f"has {len(cells)} cells, the header {len(header)}: quote cells that contain a comma")
    fields = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
    for name, cell in fields.items():
        if cell.startswith("=") or cell.upper() in _SPREADSHEET_ERRORS:
            return BadRow(
                line, f"column {name!r} is the formula {cell[:40]!r}: save the spreadsheet's values, not formulas"
            )
    return _checked(line, {name: cell for name, cell in fields.items() if cell})


def _json_rows(file: Path) -> Iterator[Row | BadRow]:
    with file.open("rb") as content:
        line = 0
        while raw := content.readline(MAX_LINE):
            line += 1
            if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
                _skip_line(content)
                yield BadRow(line, f"is longer than {MAX_LINE} bytes")
            elif raw.removeprefix(b"\xef\xbb\xbf").strip():
                yield _json_row(line, raw)


def _skip_line(content: BinaryIO) -> None:
    while (rest := content.readline(MAX_LINE)) and not rest.endswith(b"\n"):
        pass


def _json_row(line: int, raw: bytes) -> Row | BadRow:
    try:
        found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return BadRow(line, f"is not UTF-8: byte {raw[error.start]:#04x}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(line, f"is no JSON: {error}")
    if not isinstance(found, dict):
        return BadRow(line, f"is a JSON {type(found).__name__}: expected an object, column -> value")
    return _checked(line, {name.strip(): value for name, value in found.items() if value not in (None, "")})


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name stands twice in {[name for name, _ in pairs]}")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that a workflow takes")


def _checked(line: int, fields: dict[str, Any]) -> Row | BadRow:
    """The row, unless a text in it is too long, not UTF-8, or has a NUL."""
    for name, value in fields.items():
        if not isinstance(value, str):
            continue
        if len(value) > MAX_FIELD:
            return BadRow(line, f"column {name!r} has {len(value)} characters, at most {MAX_FIELD} are taken")
        for character in value:
            if "\ud800" <= character <= "\udfff":
                byte = ord(character) & 0xFF
                return BadRow(line, f"column {name!r} is not UTF-8: byte {byte:#04x}; save the file as UTF-8")
            if character == "\0":
                return BadRow(line, f"column {name!r} contains a NUL character")
    return Row(line, fields) if fields else BadRow(line, "is empty")
