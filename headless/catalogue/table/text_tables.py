"""Tables as text: comma, semicolon or tab, in UTF-8, in UTF-16 with its mark, or in the encoding that is named."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from .records import BadRow, CatalogueError, Record

MAX_LINE = 1_000_000  # characters; what is longer has no line breaks where a table has them
BLOCK = 1 << 20  # bytes

SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
_MARKS = {  # how a file begins -> its encoding; UTF-32's little-endian mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"  # how .xlsx and .xls begin


def text_records(file: Path, encoding: str) -> Iterator[Record | BadRow]:
    """The header and every row of a table, without ever holding more than one.

    Args:
        file: .tsv is separated by tabs; others by what the header is, or by what a first line such as `sep=;` says.
        encoding: as `encoding_of` found it.

    Raises:
        CatalogueError: the header does not tell the separator, or is no CSV.
    """
    separator, num_before = _separator(file, encoding)
    with file.open(encoding=encoding, newline="") as text:
        lines = _lines(file, text)
        for _ in range(num_before):
            next(lines)
        yield from _records(lines, separator, num_before)


def encoding_of(file: Path, named: str | None) -> str:
    """How a text is encoded: by its byte order mark, by what is named, else UTF-8; read through once to be sure of it.

    Raises:
        CatalogueError: it is no text in that encoding; which line and byte is said, nothing is guessed.
    """
    with file.open("rb") as content:
        start = content.read(4096)
    if start.startswith((_ZIP, _OLE)):
        raise CatalogueError(
            f"{file} is a spreadsheet or an archive by its content: name it .xlsx, or save it as .xlsx"
        )
    mark = next((found for begins, found in _MARKS.items() if start.startswith(begins)), None)
    encoding = _agreed(file, mark, named)
    if b"\0" in start and not mark and not named:
        raise CatalogueError(
            f"{file} has zero bytes and no byte order mark: is it UTF-16? Give --encoding utf-16-le or utf-16-be, or save it "
            "as 'CSV UTF-8'"
        )
    _check_decodes(file, encoding)
    return encoding


def _agreed(file: Path, mark: str | None, named: str | None) -> str:
    if named is None:
        return mark or "utf-8"
    try:
        name = codecs.lookup(named).name
        "".encode(name)  # some codecs are of no text
    except LookupError as error:
        raise CatalogueError(
            f"--encoding {named}: expected an encoding such as cp1252 or utf-16-le ({error})"
        ) from error
    if mark and not name.startswith(mark.removesuffix("-sig")):
        raise CatalogueError(f"{file} begins with the mark of {mark}, --encoding says {named}: leave --encoding out")
    return mark or name


def _check_decodes(file: Path, encoding: str) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    num_lines = 1
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            try:
                num_lines += _num_breaks(decoder.decode(block))
            except UnicodeDecodeError as error:
                raise CatalogueError(_not_decoded(file, encoding, num_lines, error)) from error
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise CatalogueError(_not_decoded(file, encoding, num_lines, error)) from error


def _not_decoded(file: Path, encoding: str, num_lines: int, error: UnicodeDecodeError) -> str:
    line = num_lines + _num_breaks(error.object[: error.start].decode(encoding, errors="ignore"))
    said = f"{file}, line {line}: byte {error.object[error.start]:#04x} is not {encoding.removesuffix('-sig').upper()}"
    return f"{said}: save it as 'CSV UTF-8', or say what it is, as in --encoding cp1252 (Excel in Western Europe)"


def _num_breaks(text: str) -> int:
    return text.count("\n") or text.count("\r")


def _separator(file: Path, encoding: str) -> tuple[str, int]:
    """What separates the cells, and how many lines before the header say so.

    The header's own cells decide: a separator is possible where it makes more than one of them.
    """
    with file.open(encoding=encoding, newline="") as text:
        first = next(_lines(file, text), "").rstrip("\r\n")
    if len(first) == len("sep=;") and first.lower().startswith("sep="):
        return first[-1], 1
    if file.suffix.lower() == ".tsv":
        return "\t", 0
    headers = {separator: _first_cells(file, encoding, separator) for separator in SEPARATORS}
    possible = [separator for separator, cells in headers.items() if cells and len(cells) > 1]
    if len(possible) > 1:
        found = " and by ".join(f"{SEPARATORS[one]} ({len(headers[one] or [])} cells)" for one in possible)
        raise CatalogueError(
            f"{file}, line 1: the header can be separated by {found}: put a line such as sep=; before it, or quote its cells"
        )
    return (possible[0] if possible else ","), 0


def _first_cells(file: Path, encoding: str, separator: str) -> list[str] | None:
    """The header's cells by one separator; None = it cannot be that one."""
    with file.open(encoding=encoding, newline="") as text:
        for record in _records(_lines(file, text), separator, 0):
            if isinstance(record, BadRow):
                return None
            if not record.is_blank:
                return record.cells
    return None


def _records(lines: Iterator[str], separator: str, num_before: int) -> Iterator[Record | BadRow]:
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = num_before + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(line, f"is no CSV: {error}; look for a missing quotation mark")
            continue
        yield Record(line, cells)


def _lines(file: Path, text: TextIO) -> Iterator[str]:
    """Lines with their ends, each of a length that a table's line can have."""
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise CatalogueError(f"{file}, line {number} is longer than {MAX_LINE} characters: expected a table")
        yield line
