"""Every row of a CSV or JSONL, what is wrong with a bad one, and that the good ones after it still come."""

from __future__ import annotations

import pytest

from headless.catalogue.rows import MAX_FIELD, MAX_LINE, BadRow, CatalogueError, Row, read_rows


def rows(tmp_path, content, name="c.csv"):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(file))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_with_and_without_a_byte_order_mark(tmp_path, mark):
    content = b'name,prompt\ncup,"a cup, ""blue"""\n\nvase,"two\nlines"\r\n'
    assert rows(tmp_path, mark + content) == [
        Row(2, {"name": "cup", "prompt": 'a cup, "blue"'}),
        Row(5, {"name": "vase", "prompt": "two\nlines"}),
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_jsonl_with_and_without_a_byte_order_mark(tmp_path, mark):
    content = mark + '{"name": "Tasse ä", "seeds": [1, 2]}\n\n{"name": "b", "prompt": ""}'.encode()
    assert rows(tmp_path, content, "c.jsonl") == [
        Row(1, {"name": "Tasse ä", "seeds": [1, 2]}),
        Row(3, {"name": "b"}),
    ]


def test_empty_cells_are_left_out(tmp_path):
    assert rows(tmp_path, "name,prompt\ncup,\n") == [Row(2, {"name": "cup"})]


BAD_CSV = [
    (b"a,b,c", "has 3 cells, the header 2: quote cells that contain a comma"),
    (b"a", "has 1 cells, the header 2"),
    (b"a,caf\xe9", "column 'prompt' is not UTF-8: byte 0xe9"),
    (b"a,=HYPERLINK(1)", "column 'prompt' is the formula '=HYPERLINK"),
    (b"a,#REF!", "column 'prompt' is the formula '#REF!'"),
    (b'a,"b"c', "is no CSV"),
    (b"a," + b"x" * (MAX_FIELD + 1), f"column 'prompt' has {MAX_FIELD + 1} characters, at most {MAX_FIELD}"),
    (b"a," + b"x" * 200_000, "is no CSV: field larger than field limit"),
    (b",", "is empty"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_CSV)
def test_a_bad_row_is_named_and_the_next_one_comes(tmp_path, line, reason):
    bad, good = rows(tmp_path, b"name,prompt\n" + line + b"\ncup,blue\n")
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert reason in bad.reason
    assert good == Row(3, {"name": "cup", "prompt": "blue"})


def test_a_quotation_mark_that_is_never_closed_is_a_bad_row(tmp_path):
    (bad,) = rows(tmp_path, 'name,prompt\ncup,"blue\nvase,red\n')
    assert "missing quotation mark" in bad.reason


BAD_JSON = [
    (b"{", "is no JSON"),
    (b"[1]", "is a JSON list: expected an object"),
    (b'{"a": 1, "a": 2}', "a name stands twice in ['a', 'a']"),
    (b'{"a": NaN}', "NaN is no number"),
    (b'{"a": "caf\xe9"}', "is not UTF-8: byte 0xe9"),
    (b'{"a": "\\u0000"}', "column 'a' contains a NUL character"),
    (b'{"a": "\\ud800"}', "column 'a' is not UTF-8"),
    (b'{"a":' + b"[" * 100_000, "is no JSON"),
    (b'{"a": "' + b"x" * (2 * MAX_LINE) + b'"}', f"is longer than {MAX_LINE} bytes"),
    (b"{}", "is empty"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_JSON)
def test_a_bad_line_is_named_and_the_next_one_comes(tmp_path, line, reason):
    bad, good = rows(tmp_path, line + b'\n{"a": "b"}\n', "c.jsonl")
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert good == Row(2, {"a": "b"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.xlsx", b"", r"expected a file that ends in \.csv or \.jsonl"),
        ("c.csv", "name\ncup\n".encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("c.csv", b"", "is empty: expected a header"),
        ("c.csv", b"name,name\n", "every column needs a name of its own"),
        ("c.csv", b"name,\n", "every column needs a name of its own"),
    ],
)
def test_a_file_that_cannot_be_read_at_all(tmp_path, name, content, message):
    with pytest.raises(CatalogueError, match=message):
        rows(tmp_path, content, name)
