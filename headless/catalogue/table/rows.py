"""The catalogue, one row at a time. What is wrong with a row is said of that row; the rest goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..sources.safe_paths import shown
from .columns import ColumnError, Columns
from .records import BadRow, CatalogueError, Record
from .text_tables import encoding_of, text_records

__all__ = ["SUFFIXES", "BadRow", "CatalogueError", "Row", "read_rows", "table_of"]

MAX_FIELD = 20_000  # characters; far above any prompt, far below what a missing quotation mark would swallow
MAX_LINE = 1_000_000  # bytes of one line of JSONL
SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx", ".jsonl")

_SPREADSHEET_ERROR = re.compile(
    r"#[¡¿]?[^\W\d_][\w/']*[!?]"  # in any language one word: #DIV/0!, #WERT!, #¿NOMBRE?
    r"|#[^\W\d_]/[^\W\d_]"  # no value: #N/A, #N/D, #I/T
    r"|#(NV|YOK|HIÁNYZIK|NEDOSTUPNÝ|NENÍ_K_DISPOZICI|GETTING_DATA)"
    r"|##+"  # the column was too narrow
    r"|Err:5\d\d",  # LibreOffice
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        line: on which it begins in the file, from 1; in a spreadsheet the sheet's own row number.
        fields: column -> value; text in tables, any JSON value in JSONL. What is not given is left out.
    """

    line: int
    fields: dict[str, Any]


def read_rows(file: Path, *, columns: Columns | None = None, encoding: str | None = None) -> Iterator[Row | BadRow]:
    """Every row of a catalogue, without ever holding more than one; of a spreadsheet, its sheet.

    An empty cell means "not given", and so does null in JSONL; an explicit empty text there (`"prompt": ""`) is a value and
    sets the input to the empty text. A row in which nothing is given is no row. A row may end before the header does, the rest
    is not given; it may be longer where what is too much is empty.

    Args:
        file: .csv or .txt (comma, semicolon or tab, told from the header), .tsv (tab), .xlsx (`FILE.xlsx#Sheet` where several
            have content), or .jsonl (one object a line). Text is UTF-8 with or without a byte order mark, or UTF-16 with one.
        columns: rows then hold columns of ours only, by our names, and only what they use is looked at; what is ignored is in
            `columns.ignored`. None = all columns as they stand.
        encoding: of .csv, .tsv and .txt, where it is another one.

    Raises:
        CatalogueError: no file, another kind of file, another encoding, or a header that cannot be used.
    """
    table, sheet = table_of(file)
    if not table.is_file():
        raise CatalogueError(f"there is no file {table}")
    suffix = table.suffix.lower()
    if encoding is not None and suffix in (".xlsx", ".jsonl"):
        raise CatalogueError(f"{file}: --encoding is for .csv, .tsv and .txt; {suffix} says its own")
    if suffix == ".jsonl":
        yield from _json_rows(table, columns)
    elif suffix == ".xlsx":
        from .spreadsheets import spreadsheet_records  # what reads them is needed by nobody else

        yield from _table_rows(file, spreadsheet_records(table, sheet), columns)
    else:
        yield from _table_rows(file, text_records(table, encoding_of(table, encoding)), columns)


def table_of(file: Path) -> tuple[Path, str | None]:
    """The file, and the sheet that `FILE.xlsx#Sheet` names.

    Raises:
        CatalogueError: the file is of another kind.
    """
    name, mark, sheet = str(file).rpartition("#")
    if mark and name.lower().endswith(".xlsx") and not file.exists():
        return Path(name), sheet
    if file.suffix.lower() not in SUFFIXES:
        raise CatalogueError(f"{file}: expected a file that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return file, None


class _Header:
    """What each column of a table fills.

    Args:
        file: for messages.
        header: the record that holds the names.
        columns: see `read_rows`.
    """

    def __init__(self, file: Path, header: Record, columns: Columns | None) -> None:
        self.names = [name.strip() for name in header.cells]
        try:
            if columns:
                columns.check_header(self.names)
        except ColumnError as error:
            raise CatalogueError(f"{file}, line {header.line}: {error}") from error
        self._used = [
            (index, name, fills)
            for index, name in enumerate(self.names)
            if name and (fills := columns.filled_by(name) if columns else (name,))
        ]
        self._unnamed = [index for index, name in enumerate(self.names) if not name]
        used = [name for _, name, _ in self._used]
        repeated = sorted({name for name in used if used.count(name) > 1})
        if repeated:
            raise CatalogueError(
                f"{file}, line {header.line}: every column needs a name of its own, {repeated[0]!r} stands twice"
            )

    def row(self, record: Record) -> Row | BadRow:
        """The row that the cells make."""
        cells = record.cells
        if reason := self._without_a_name(cells):
            return BadRow(record.line, reason)
        fields: dict[str, Any] = {}
        for index, name, fills in self._used:
            cell = cells[index].strip() if index < len(cells) else ""
            if reason := _spoilt(cell):
                return BadRow(record.line, f"column {name!r} is {reason}")
            if cell:
                fields |= dict.fromkeys(fills, cell)
        return _checked(record.line, fields)

    def _without_a_name(self, cells: list[str]) -> str | None:
        """Where a cell has a value and its column no name."""
        for index in self._unnamed:
            if index < len(cells) and cells[index].strip():
                return (
                    f"has {shown(cells[index].strip())[:40]!r} in column {index + 1}, which has no name in the header"
                )
        for number, cell in enumerate(cells[len(self.names) :], len(self.names) + 1):
            if cell.strip():
                found = f"has {len(cells)} cells, the header {len(self.names)} (cell {number} is {shown(cell.strip())[:40]!r})"
                return f"{found}: name every column, and quote cells that contain the separator"
        return None


def _spoilt(cell: str) -> str | None:
    """What the whole of a cell is, where a spreadsheet left it there in place of a value."""
    if _SPREADSHEET_ERROR.fullmatch(cell):
        return f"the spreadsheet's error {cell}: mend it there"
    if cell.startswith("="):
        return f"the formula {shown(cell)[:40]!r}: save the spreadsheet's values, not formulas"
    return None


def _table_rows(file: Path, records: Iterator[Record | BadRow], columns: Columns | None) -> Iterator[Row | BadRow]:
    header = _Header(file, _header(file, records), columns)
    for record in records:
        if isinstance(record, BadRow):
            yield record
        elif not record.is_blank:
            yield header.row(record)


def _header(file: Path, records: Iterator[Record | BadRow]) -> Record:
    for record in records:
        if isinstance(record, BadRow):
            raise CatalogueError(f"{file}, line {record.line}: the header {record.reason}")
        if not record.is_blank:
            return record
    raise CatalogueError(f"{file} is empty: expected a header with the names of the columns")


def _json_rows(file: Path, columns: Columns | None) -> Iterator[Row | BadRow]:
    with file.open("rb") as content:
        line = 0
        while raw := content.readline(MAX_LINE):
            line += 1
            if len(raw) == MAX_LINE and not raw.endswith(b"\n"):
                _skip_line(content)
                yield BadRow(line, f"is longer than {MAX_LINE} bytes")
            elif raw.removeprefix(b"\xef\xbb\xbf").strip() and (row := _json_row(line, raw, columns)):
                yield row


def _skip_line(content: BinaryIO) -> None:
    while (rest := content.readline(MAX_LINE)) and not rest.endswith(b"\n"):
        pass


def _json_row(line: int, raw: bytes, columns: Columns | None) -> Row | BadRow | None:
    """The row of an object; None = nothing is given in it."""
    try:
        found = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=_distinct, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        return BadRow(line, f"is not UTF-8: byte {raw[error.start]:#04x}; save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(line, f"is no JSON: {error}")
    if not isinstance(found, dict):
        return BadRow(line, f"is a JSON {type(found).__name__}: expected an object, column -> value")
    given = {name: value for name, value in found.items() if value is not None}
    if not given:
        return None
    if columns is None:
        return _checked(line, given)
    try:
        columns.check_names(list(given))
    except ColumnError as error:
        return BadRow(line, str(error))
    return _checked(line, {column: value for name, value in given.items() for column in columns.filled_by(name)})


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a name stands twice in {[name for name, _ in pairs]}")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number that a workflow takes")


def _checked(line: int, fields: dict[str, Any]) -> Row | BadRow:
    """The row, unless it has nothing of ours, or a text in it is too long, not UTF-8, or has a NUL."""
    for name, value in fields.items():
        for text in _texts([name, value]):
            if len(text) > MAX_FIELD:
                return BadRow(line, f"column {name!r} has {len(text)} characters, at most {MAX_FIELD} are taken")
            if "\0" in text:
                return BadRow(line, f"column {name!r} contains a NUL character")
            if any("\ud800" <= character <= "\udfff" for character in text):
                return BadRow(line, f"column {name!r} contains half a character (a lone surrogate), which is no text")
    return Row(line, fields) if fields else BadRow(line, "has no value in any column that is used")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value.keys(), *value.values()])
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
