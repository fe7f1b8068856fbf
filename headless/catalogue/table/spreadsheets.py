"""Spreadsheets, .xlsx: a sheet's cells as the texts that a table would hold."""

from __future__ import annotations

import datetime
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openpyxl.cell.text import Text
from openpyxl.reader.excel import SHARED_STRINGS, ExcelReader
from openpyxl.utils.escape import unescape
from openpyxl.xml.constants import SHEET_MAIN_NS
from openpyxl.xml.functions import iterparse

from .records import CatalogueError, Record

MAX_UNPACKED = (
    500_000_000  # bytes of all parts; openpyxl holds a workbook's texts in memory, and a sheet's rows one by one
)
BLOCK = 1 << 20  # bytes

_FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
_TEXT = f"{{{SHEET_MAIN_NS}}}si"  # of the texts that all sheets share
_LONGEST_TAG = 64  # bytes that may be cut between two blocks
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def spreadsheet_records(file: Path, sheet: str | None) -> Iterator[Record]:
    """The rows of a sheet, the header first. Rows and columns that are hidden or filtered away are read too.

    Whole numbers are written without a decimal point, and with leading zeros where the cell shows them; dates as ISO 8601,
    booleans as true and false; a character that is escaped in the file, such as `_x000D_`, as itself. An error is written as it
    stands in the file, and a formula whose value was never computed as the formula, so that either spoils its row.

    Args:
        file: .xlsx.
        sheet: its name; None = the only visible one that has content.

    Raises:
        CatalogueError: it is no spreadsheet, is too large, or has no such sheet or several to choose from.
    """
    has_formulas = _scanned(file)
    values = _opened(file, computed=True)
    try:
        name = sheet if sheet is not None else _only_sheet(file, values)
        rows = _rows(file, values, name)
        if not has_formulas:
            for line, row in enumerate(rows, 1):
                yield Record(line, [_text(cell) for cell in row])
            return
        formulas = _opened(file, computed=False)
        try:
            for line, (row, written) in enumerate(zip(rows, _rows(file, formulas, name), strict=True), 1):
                yield Record(line, [_computed(*cells) for cells in zip(row, written, strict=True)])
        finally:
            formulas.close()
    finally:
        values.close()


def _scanned(file: Path) -> bool:
    """Whether any sheet may have formulas, after every part was unpacked once within bounds."""
    found, unpacked = False, 0
    try:
        with zipfile.ZipFile(file) as archive:
            for part in archive.infolist():
                unpacked += part.file_size  # no more than that is ever unpacked of it
                if unpacked > MAX_UNPACKED:
                    raise CatalogueError(f"{file} has more than {MAX_UNPACKED} bytes unpacked: save it as 'CSV UTF-8'")
                if part.filename.endswith(".xml"):
                    found |= _has_formula(file, archive, part)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise _no_spreadsheet(file, error) from error
    return found


def _has_formula(file: Path, archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    found, last = False, b""
    with archive.open(part) as content:
        while block := content.read(BLOCK):
            around = last + block
            if b"<!DOCTYPE" in around or b"<!ENTITY" in around or (not last and block.startswith(_UTF16)):
                raise CatalogueError(f"{file}: {part.filename} is no XML as spreadsheets have it: save the file anew")
            found = found or _FORMULA.search(around) is not None
            last = block[-_LONGEST_TAG:]
    return found


class _Reader(ExcelReader):
    """openpyxl's reader, but for shared texts: it takes `x005F_` out of them, and nobody can tell any more what was escaped."""

    def read_strings(self) -> None:
        """Every text as it is stored, like those that stand in the cells themselves."""
        if part := self.package.find(SHARED_STRINGS):
            with self.archive.open(part.PartName[1:]) as content:
                for _, element in iterparse(content):
                    if element.tag == _TEXT:
                        self.shared_strings.append(Text.from_tree(element).content)
                        element.clear()


def _opened(file: Path, computed: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about styles and rules that nobody here looks at
            reader = _Reader(file, read_only=True, data_only=computed, keep_links=False)
            reader.read()
            return reader.wb
    except OSError:
        raise
    except Exception as error:  # whatever a damaged part makes its reader stumble over
        raise _no_spreadsheet(file, error) from error


def _only_sheet(file: Path, workbook: Any) -> str:
    shown = [sheet.title for sheet in workbook.worksheets if sheet.sheet_state == "visible"]
    filled = [name for name in shown if any(_is_filled(row) for row in _rows(file, workbook, name))]
    if len(filled) > 1:
        raise CatalogueError(
            f"{file} has {len(filled)} sheets with content, {', '.join(filled)}: say which, as in '{file.name}#{filled[0]}'"
        )
    if not filled:
        raise CatalogueError(f"{file} is empty: expected a header with the names of the columns")
    return filled[0]


def _is_filled(row: tuple[Any, ...]) -> bool:
    return any(cell.value not in (None, "") for cell in row)


def _rows(file: Path, workbook: Any, name: str) -> Iterator[tuple[Any, ...]]:
    """Every row from the first on, those without a cell too, each as long as it has cells."""
    sheets = {sheet.title: sheet for sheet in workbook.worksheets}
    if name not in sheets:
        raise CatalogueError(f"{file} has no sheet {name!r}: expected one of {', '.join(sheets)}")
    sheets[name].reset_dimensions()  # what the file says of its own size may be wrong
    try:
        yield from sheets[name].iter_rows()
    except (OSError, CatalogueError):
        raise
    except Exception as error:  # as above
        raise _no_spreadsheet(file, error) from error


def _computed(cell: Any, written: Any) -> str:
    """A formula's value; the formula where it has none. That of a text is marked so, and may be the empty one."""
    if written.data_type != "f" or cell.value is not None or cell.data_type == "str":
        return _text(cell)
    formula = getattr(written.value, "text", written.value)  # that of several cells is an object
    return formula if isinstance(formula, str) else "="


def _text(cell: Any) -> str:
    match cell.value:
        case None:
            return ""
        case bool(value):
            return "true" if value else "false"
        case int() | float() as value:
            return _number(value, cell.number_format)
        case datetime.datetime() as value if value.time() == datetime.time():
            return value.date().isoformat()
        case datetime.datetime() | datetime.date() | datetime.time() as value:
            return value.isoformat()
        case value:
            return str(unescape(str(value)))


def _number(value: int | float, shown_as: str) -> str:
    if isinstance(value, float) and not value.is_integer():
        return repr(value)
    return str(int(value)).zfill(len(shown_as)) if re.fullmatch("0+", shown_as) else str(int(value))


def _no_spreadsheet(file: Path, error: Exception) -> CatalogueError:
    return CatalogueError(
        f"{file} cannot be read as .xlsx ({type(error).__name__}): is it damaged, an older .xls, or locked with a password? "
        "Save it anew as .xlsx or as 'CSV UTF-8'"
    )
