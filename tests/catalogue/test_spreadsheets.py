"""Sheets of .xlsx as tables: what each kind of cell becomes, which sheet is read, and what is refused."""

from __future__ import annotations

import datetime
import re
import zipfile

import pytest
from openpyxl import Workbook as Spreadsheet

from headless.catalogue.table import spreadsheets
from headless.catalogue.table.rows import BadRow, CatalogueError, Row, read_rows

SHEET = "xl/worksheets/sheet1.xml"


def book(tmp_path, *sheets, name="c.xlsx"):
    """Written by openpyxl: a sheet for each (title, rows)."""
    made = Spreadsheet()
    made.remove(made.active)
    for title, rows in sheets:
        sheet = made.create_sheet(title)
        for row in rows:
            sheet.append(row)
    made.save(tmp_path / name)
    return tmp_path / name


def with_part(file, part, change):
    """The same file with another content of a part."""
    with zipfile.ZipFile(file) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    assert change(parts[part]) != parts[part]
    parts[part] = change(parts[part])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file


def with_shared_text(file, text):
    """The same file with a text that all sheets share, as Excel writes them."""
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    said = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}" /></Types>'
    with_part(file, "[Content_Types].xml", lambda xml: xml.replace(b"</Types>", said.encode()))
    with zipfile.ZipFile(file, "a") as archive:
        spaces = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
        archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{spaces}"><si><t>{text}</t></si></sst>')


def cell_of(tmp_path, value, number_format=None):
    file = tmp_path / "c.xlsx"
    made = Spreadsheet()
    made.active.append(["name"])
    cell = made.active.cell(2, 1, value)
    cell.number_format = number_format or cell.number_format
    made.save(file)
    (row,) = read_rows(file)
    return row.fields["name"] if isinstance(row, Row) else row.reason


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a cup", "a cup"),
        ("00123", "00123"),
        (1, "1"),
        (1.0, "1"),
        (-3.0, "-3"),
        (0.1, "0.1"),
        (4006381333931, "4006381333931"),
        (True, "true"),
        (False, "false"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
        (datetime.time(3, 4, 5), "03:04:05"),
        ("#N/A", "column 'name' is the spreadsheet's error #N/A: mend it there"),
        ("#DIV/0!", "column 'name' is the spreadsheet's error #DIV/0!: mend it there"),
        ("=1+1", "column 'name' is the formula '=1+1': save the spreadsheet's values, not formulas"),
    ],
)
def test_what_a_cell_becomes(tmp_path, value, expected):
    assert cell_of(tmp_path, value) == expected


@pytest.mark.parametrize(("number_format", "expected"), [("00000", "00123"), ("0", "123"), ("0.00", "123")])
def test_leading_zeros_that_a_cell_shows_stay(tmp_path, number_format, expected):
    assert cell_of(tmp_path, 123, number_format) == expected


def test_a_formula_with_its_value_is_the_value_and_one_without_spoils_its_row(tmp_path):
    file = book(tmp_path, ("A", [["name", "prompt"], ["=1+1", "x"], ["=2+2", "y"], ["z", "=3+3"]]))
    with_part(file, SHEET, lambda xml: xml.replace(b"<f>1+1</f><v />", b"<f>1+1</f><v>2</v>"))
    assert list(read_rows(file)) == [
        Row(2, {"name": "2", "prompt": "x"}),
        BadRow(3, "column 'name' is the formula '=2+2': save the spreadsheet's values, not formulas"),
        BadRow(4, "column 'prompt' is the formula '=3+3': save the spreadsheet's values, not formulas"),
    ]


@pytest.mark.parametrize("value", [b"<v></v>", b"<v/>"])
def test_a_formula_whose_value_is_the_empty_text_is_an_empty_cell(tmp_path, value):
    file = book(tmp_path, ("A", [["name", "prompt"], ["cup", '=IF(1=1,"","y")'], ["mug", "=3+3"]]))
    written = b'<c r="B2"><f>IF(1=1,"","y")</f><v />'
    with_part(file, SHEET, lambda xml: xml.replace(written, written[:-5].replace(b'"B2"', b'"B2" t="str"') + value))
    assert list(read_rows(file)) == [
        Row(2, {"name": "cup"}),
        BadRow(3, "column 'prompt' is the formula '=3+3': save the spreadsheet's values, not formulas"),
    ]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b'<f t="array" ref="A2">1+1</f>', "=1+1"),
        (b'<f t="dataTable" ref="A2" r1="B1"/>', "="),
    ],
)
def test_a_formula_of_several_cells_without_its_value_spoils_its_row_too(tmp_path, written, shown):
    file = with_part(
        book(tmp_path, ("A", [["name"], ["=1+1"]])), SHEET, lambda xml: xml.replace(b"<f>1+1</f>", written)
    )
    assert list(read_rows(file)) == [
        BadRow(2, f"column 'name' is the formula {shown!r}: save the spreadsheet's values, not formulas")
    ]


ESCAPED = {
    "a cup_x000D_\non a table": "a cup\r\non a table",
    "_x005F_x000D_": "_x000D_",
    "art_x005F_x0041_x0042_": "art_x0041B",
    "box005F_a": "box005F_a",
    "a_x41_b": "a_x41_b",
}


CELLS = {  # how a text is written, by where it stands
    "shared": '<c r="A2" t="s"><v>0</v></c>',
    "in the cell": '<c r="A2" t="inlineStr"><is><t>{}</t></is></c>',
    "of a formula": '<c r="A2" t="str"><f>A1</f><v>{}</v></c>',
}


@pytest.mark.parametrize("where", CELLS)
@pytest.mark.parametrize(("written", "expected"), ESCAPED.items())
def test_what_is_escaped_in_a_text_is_the_character_itself(tmp_path, where, written, expected):
    file = book(tmp_path, ("A", [["name"], ["cup"]]))
    cell = CELLS[where].format(written).encode()
    with_part(file, SHEET, lambda xml: re.sub(rb'<c r="A2".*?</c>', cell, xml))
    if where == "shared":
        with_shared_text(file, written)
    assert list(read_rows(file)) == [Row(2, {"name": expected})]


def test_lines_are_the_sheets_own_numbers_wherever_its_header_is(tmp_path):
    file = book(tmp_path, ("A", [[], [None, None], ["name", None, "prompt"], [], ["cup", None, "blue"], [None, None]]))
    assert list(read_rows(file)) == [Row(5, {"name": "cup", "prompt": "blue"})]


def test_rows_that_the_file_leaves_out_are_counted(tmp_path):
    file = book(tmp_path, ("A", [["name"], ["a"], ["b"]]))
    with_part(file, SHEET, lambda xml: xml.replace(b'<row r="3"><c r="A3"', b'<row r="30"><c r="A30"'))
    assert list(read_rows(file)) == [Row(2, {"name": "a"}), Row(30, {"name": "b"})]


def test_one_cell_in_the_last_corner_costs_nothing(tmp_path):
    file = book(tmp_path, ("A", [["name"], ["a"], ["b"]]))
    with_part(file, SHEET, lambda xml: xml.replace(b'<row r="3"><c r="A3"', b'<row r="100000"><c r="XFD100000"'))
    good, bad = read_rows(file)
    assert good == Row(2, {"name": "a"})
    assert (bad.line, bad.reason[:55]) == (100000, "has 16384 cells, the header 1 (cell 16384 is 'b'): name")


@pytest.mark.parametrize("said", [b"A1", b"A1:XFD1048576"])
def test_what_a_file_says_of_its_own_size_is_not_believed(tmp_path, said):
    file = book(tmp_path, ("A", [["name", "prompt"], ["a", "b"]]))
    with_part(file, SHEET, lambda xml: xml.replace(b'ref="A1:B2"', b'ref="' + said + b'"'))
    assert list(read_rows(file)) == [Row(2, {"name": "a", "prompt": "b"})]


def test_the_only_sheet_with_content_is_read(tmp_path):
    file = book(tmp_path, ("Empty", []), ("Ads", [["name"], ["cup"]]), ("Blank", [[None, ""]]))
    assert list(read_rows(file)) == [Row(2, {"name": "cup"})]


def test_of_several_sheets_one_is_named(tmp_path):
    file = book(tmp_path, ("Spring ads", [["name"], ["a"]]), ("Prices", [["name"], ["b"]]))
    with pytest.raises(
        CatalogueError, match=r"2 sheets with content, Spring ads, Prices: say which, as in 'c\.xlsx#Spring ads'"
    ):
        list(read_rows(file))
    assert list(read_rows(tmp_path / "c.xlsx#Prices")) == [Row(2, {"name": "b"})]
    with pytest.raises(CatalogueError, match=r"has no sheet 'Price': expected one of Spring ads, Prices"):
        list(read_rows(tmp_path / "c.xlsx#Price"))


def test_a_hidden_sheet_is_read_only_where_it_is_named(tmp_path):
    file = book(tmp_path, ("Ads", [["name"], ["a"]]), ("Lists", [["name"], ["b"]]))
    shown, hidden = (b'name="Lists" sheetId="2" state="' + state for state in (b"visible", b"hidden"))
    with_part(file, "xl/workbook.xml", lambda xml: xml.replace(shown, hidden))
    assert list(read_rows(file)) == [Row(2, {"name": "a"})]
    assert list(read_rows(tmp_path / "c.xlsx#Lists")) == [Row(2, {"name": "b"})]


@pytest.mark.parametrize(
    "content", [b"", b"no zip", b"PK\x03\x04 torn", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600]
)
def test_what_is_no_xlsx_is_refused(tmp_path, content):
    file = tmp_path / "c.xlsx"
    file.write_bytes(content)
    with pytest.raises(CatalogueError, match=r"cannot be read as \.xlsx .*locked with a password\? Save it anew"):
        list(read_rows(file))


def test_a_damaged_part_is_refused_wherever_it_breaks(tmp_path):
    file = book(tmp_path, ("A", [["name"], ["a"], ["b"]]))
    with_part(file, SHEET, lambda xml: xml[:-150])
    with pytest.raises(CatalogueError, match=r"cannot be read as \.xlsx"):
        list(read_rows(file))


def test_an_empty_book_is_refused(tmp_path):
    with pytest.raises(CatalogueError, match="is empty: expected a header"):
        list(read_rows(book(tmp_path, ("A", []))))


@pytest.mark.parametrize("trick", [b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]>", b"<!ENTITY a 'b'>"])
def test_a_file_that_declares_entities_is_refused(tmp_path, trick):
    file = with_part(book(tmp_path, ("A", [["name"]])), SHEET, lambda xml: trick + xml)
    with pytest.raises(CatalogueError, match=r"sheet1\.xml is no XML as spreadsheets have it"):
        list(read_rows(file))


def test_entities_are_found_where_two_blocks_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(spreadsheets, "BLOCK", 100)
    file = with_part(book(tmp_path, ("A", [["name"]])), SHEET, lambda xml: b" " * 95 + b"<!DOCTYPE x>" + xml)
    with pytest.raises(CatalogueError, match="is no XML as spreadsheets have it"):
        list(read_rows(file))


def test_formulas_are_found_where_two_blocks_meet(tmp_path, monkeypatch):
    file = book(tmp_path, ("A", [["name"], ["=1+1"]]))
    monkeypatch.setattr(spreadsheets, "BLOCK", 7)
    (bad,) = read_rows(file)
    assert isinstance(bad, BadRow)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    file = with_part(book(tmp_path, ("A", [["name"], ["a"]])), SHEET, lambda xml: xml + b" " * 3_000_000)
    assert file.stat().st_size < 20_000
    assert len(list(read_rows(file))) == 1
    monkeypatch.setattr(spreadsheets, "MAX_UNPACKED", 3_000_000)
    with pytest.raises(CatalogueError, match="has more than 3000000 bytes unpacked: save it as 'CSV UTF-8'"):
        list(read_rows(file))
