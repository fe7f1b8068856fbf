"""Every row of a table as shops export it, what is wrong with a bad one, and that the good ones after it still come."""

from __future__ import annotations

import pytest

from headless.catalogue.table.columns import Columns
from headless.catalogue.table.rows import MAX_FIELD, MAX_LINE, BadRow, CatalogueError, Row, read_rows, table_of
from headless.catalogue.table.text_tables import MAX_LINE as MAX_CSV_LINE
from headless.catalogue.workflow.input_kinds import InputKinds
from headless.catalogue.workflow.named_inputs import Workflow

NODES = {
    "1": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Prompt"}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "x.png"}, "_meta": {"title": "Product photo"}},
    "3": {"class_type": "KSampler", "inputs": {"steps": 1, "seed": 1}, "_meta": {"title": "Sampler"}},
}


def rows(tmp_path, content, name="c.csv", **options):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(file, **options))


def used(aliases=None):
    return Columns(Workflow(NODES, InputKinds()), {}, aliases)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_with_and_without_a_byte_order_mark(tmp_path, mark):
    content = b'name,prompt\ncup,"a cup, ""blue"""\n\nvase,"two\nlines"\r\npot,red\n'
    assert rows(tmp_path, mark + content) == [
        Row(2, {"name": "cup", "prompt": 'a cup, "blue"'}),
        Row(4, {"name": "vase", "prompt": "two\nlines"}),  # the line on which it begins
        Row(6, {"name": "pot", "prompt": "red"}),
    ]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_jsonl_with_and_without_a_byte_order_mark(tmp_path, mark):
    content = mark + '{"name": "Tasse ä", "seeds": [1, 2]}\n\n{"name": "b", "prompt": null}'.encode()
    assert rows(tmp_path, content, "c.jsonl") == [
        Row(1, {"name": "Tasse ä", "seeds": [1, 2]}),
        Row(3, {"name": "b"}),
    ]


def test_an_empty_cell_is_not_given_and_an_explicit_empty_text_is_a_value(tmp_path):
    assert rows(tmp_path, 'name,prompt\ncup,\npot,""\n') == [Row(2, {"name": "cup"}), Row(3, {"name": "pot"})]
    assert rows(tmp_path, '{"name": "a", "prompt": ""}', "c.jsonl") == [Row(1, {"name": "a", "prompt": ""})]


@pytest.mark.parametrize("blank", ["", ",", ",,,", " , ", '"",""'])
def test_a_blank_row_is_no_row(tmp_path, blank):
    assert rows(tmp_path, f"name,prompt\n{blank}\ncup,blue\n{blank}\n") == [Row(3, {"name": "cup", "prompt": "blue"})]


@pytest.mark.parametrize("blank", ["{}", '{"name": null}', "  "])
def test_a_line_of_jsonl_that_gives_nothing_is_no_row(tmp_path, blank):
    assert rows(tmp_path, f'{blank}\n{{"name": "a"}}\n', "c.jsonl") == [Row(2, {"name": "a"})]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["c.csv", "c.txt", "C.CSV"])
def test_the_header_tells_the_separator(tmp_path, separator, name):
    content = f'name{separator}prompt\r\ncup{separator}"1,5 l; blue\tcup"\r\n'
    assert rows(tmp_path, content, name) == [Row(2, {"name": "cup", "prompt": "1,5 l; blue\tcup"})]


def test_tabs_separate_a_tsv_whatever_else_its_header_holds(tmp_path):
    content = "name\tprompt, long\ncup\tblue, red; green\n"
    assert rows(tmp_path, content, "c.tsv") == [Row(2, {"name": "cup", "prompt, long": "blue, red; green"})]


def test_a_quoted_name_with_a_separator_in_it_is_one_name(tmp_path):
    assert rows(tmp_path, '"name, short";prompt\na;b\n') == [Row(2, {"name, short": "a", "prompt": "b"})]


def test_a_header_that_two_separators_fit_is_an_error_that_names_both(tmp_path):
    with pytest.raises(
        CatalogueError, match=r"separated by a comma \(2 cells\) and by a semicolon \(3 cells\): put .*sep=;"
    ):
        rows(tmp_path, "name;prompt, long;x\na;b;c\n")


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_excels_first_line_says_the_separator(tmp_path, mark):
    content = mark + b"sep=;\r\nname;prompt, long\r\ncup;blue\r\n"
    assert rows(tmp_path, content) == [Row(3, {"name": "cup", "prompt, long": "blue"})]


def test_a_table_of_one_column(tmp_path):
    assert rows(tmp_path, "prompt\na cup\n") == [Row(2, {"prompt": "a cup"})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding):
    content = "name;prompt\r\nTasse;ä 杯\r\n".encode(encoding)
    assert rows(tmp_path, content) == [Row(2, {"name": "Tasse", "prompt": "ä 杯"})]


def test_big_endian_utf_16_with_its_mark(tmp_path):
    assert rows(tmp_path, b"\xfe\xff" + "name\nä\n".encode("utf-16-be")) == [Row(2, {"name": "ä"})]


def test_another_encoding_is_refused_with_line_and_byte(tmp_path):
    content = "name,prompt\nTasse,schön\ncafé,x\n".encode("cp1252")
    with pytest.raises(
        CatalogueError, match=r"c\.csv, line 2: byte 0xf6 is not UTF-8: save it as .* --encoding cp1252"
    ):
        rows(tmp_path, content)


def test_another_encoding_is_read_where_it_is_named(tmp_path):
    content = "name;prompt\nTasse;schön, 5 €\n".encode("cp1252")
    assert rows(tmp_path, content, encoding="cp1252") == [Row(2, {"name": "Tasse", "prompt": "schön, 5 €"})]


def test_a_byte_far_down_is_found_before_the_first_row_is_given(tmp_path):
    content = b"name\n" + b"x" * 99 + b"\n" + b"cup\n" * 400_000 + b"caf\xe9\n"
    with pytest.raises(CatalogueError, match=r"line 400003: byte 0xe9"):
        rows(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        ("name\ncup\n".encode("utf-16-le"), None, "zero bytes and no byte order mark: is it UTF-16"),
        ("name\ncup\n".encode("utf-16"), "cp1252", "begins with the mark of utf-16, --encoding says cp1252"),
        (b"name\ncup\n", "latin-99", "expected an encoding such as cp1252"),
        (b"name\ncup\n", "rot13", "expected an encoding such as cp1252"),
        (b"name\n\x81\n", "cp1252", "line 2: byte 0x81 is not CP1252"),
        (b"name\n\xc3", None, "line 2: byte 0xc3 is not UTF-8"),
        (b"PK\x03\x04....", None, "a spreadsheet or an archive by its content: name it .xlsx"),
    ],
)
def test_an_encoding_that_cannot_be(tmp_path, content, encoding, message):
    with pytest.raises(CatalogueError, match=message):
        rows(tmp_path, content, encoding=encoding)


@pytest.mark.parametrize(("encoding", "content"), [("utf-8", b"\xef\xbb\xbfname\na"), ("utf-16-le", b"n\0\n\0a\0")])
def test_a_named_encoding_that_agrees_is_taken(tmp_path, encoding, content):
    (row,) = rows(tmp_path, content, encoding=encoding)
    assert list(row.fields.values()) == ["a"]


def test_a_row_may_end_early_and_may_have_empty_cells_too_many(tmp_path):
    content = "name,prompt,product\ncup\nvase,blue,,,\n"
    assert rows(tmp_path, content) == [Row(2, {"name": "cup"}), Row(3, {"name": "vase", "prompt": "blue"})]


BAD_CSV = [
    (b"a,b,c", "has 3 cells, the header 2 (cell 3 is 'c'): name every column, and quote cells that"),
    (b"a,=HYPERLINK(1)", "column 'prompt' is the formula '=HYPERLINK(1)': save the spreadsheet's values"),
    (b"a,#ref!", "column 'prompt' is the spreadsheet's error #ref!: mend it there"),
    (b'a,"b"c', "is no CSV"),
    (b"a," + b"x" * (MAX_FIELD + 1), f"column 'prompt' has {MAX_FIELD + 1} characters, at most {MAX_FIELD}"),
    (b"a," + b"x" * 200_000, "is no CSV: field larger than field limit"),
    (b"a,b\0", "column 'prompt' contains a NUL character"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_CSV)
def test_a_bad_row_is_named_and_the_next_one_comes(tmp_path, line, reason):
    bad, good = rows(tmp_path, b"name,prompt" + b"\n" * 5000 + line + b"\ncup,blue\n")
    assert isinstance(bad, BadRow)
    assert bad.line == 5001
    assert reason in bad.reason
    assert good == Row(5002, {"name": "cup", "prompt": "blue"})


ERRORS = {
    "English": "#N/A #VALUE! #REF! #NAME? #DIV/0! #NULL! #NUM! #SPILL! #CALC! #GETTING_DATA",
    "German": "#NV #WERT! #BEZUG! #NAME? #ZAHL! #ÜBERLAUF!",
    "French": "#N/A #VALEUR! #NOMBRE! #NOM? #NUL!",
    "Spanish": "#N/D #¡VALOR! #¡REF! #¿NOMBRE? #¡DIV/0!",
    "Dutch, Danish, Turkish": "#N/B #WAARDE! #DEEL/0! #I/T #VÆRDI! #YOK #DEĞER! #AD?",
    "Swedish, Finnish, Hungarian": "#Värdefel! #Saknas! #PUUTTUU! #JAKO/0! #HIÁNYZIK #ZÉRÓOSZTÓ!",
    "Czech, Slovak, Polish": "#DĚLENÍ_NULOU! #NENÍ_K_DISPOZICI #NEDOSTUPNÝ #N/D! #LICZBA!",
    "Russian, Ukrainian, Greek": "#Н/Д #ЗНАЧ! #ИМЯ? #ІМ'Я? #Δ/Υ #ΤΙΜΗ!",  # noqa: RUF001
    "other programs": "#ERROR! Err:502 #### ##",
}


@pytest.mark.parametrize("language", ERRORS)
def test_what_a_spreadsheet_shows_in_place_of_a_value_is_refused_in_its_language(tmp_path, language):
    for error in ERRORS[language].split():
        (bad,) = rows(tmp_path, f"name,prompt\ncup,{error}\n")
        assert bad == BadRow(2, f"column 'prompt' is the spreadsheet's error {error}: mend it there")


@pytest.mark.parametrize(
    "text",
    [
        "#1",
        "#1!",
        "#NEW ARRIVAL",
        "#NEW ARRIVAL!",
        "No. #1!",
        "a cup, #N/A",
        "#cup",
        "#WERT",
        "#A1B2C3",
        "C#",
        "#",
        "Err: 5",
    ],
)
def test_a_number_sign_in_a_text_is_a_text(tmp_path, text):
    assert rows(tmp_path, f'name,prompt\ncup,"{text}"\n') == [Row(2, {"name": "cup", "prompt": text})]


@pytest.mark.parametrize(
    "content",
    [
        "name,prompt,\ncup,blue,https://me:secret@cdn/a.png\n",
        "name,prompt\ncup,blue,https://h/a.png?sig=secret\n",
        'name,prompt\ncup,"=IMAGE(""https://h/a.png?s=secret"")"\n',
    ],
)
def test_what_is_repeated_of_a_cell_shows_no_secret(tmp_path, content):
    (bad,) = rows(tmp_path, content)
    assert "secret" not in bad.reason
    assert "..." in bad.reason


def test_a_quotation_mark_that_is_never_closed_is_a_bad_row_where_it_begins(tmp_path):
    good, bad = rows(tmp_path, 'name,prompt\na,b\ncup,"blue\nvase,red\n')
    assert good == Row(2, {"name": "a", "prompt": "b"})
    assert bad.line == 3
    assert "missing quotation mark" in bad.reason


def test_columns_without_a_name_are_for_nothing_and_must_be_empty(tmp_path):
    good, bad = rows(tmp_path, "name,prompt,,\ncup,blue,,\nvase,red,,9.90\n")
    assert good == Row(2, {"name": "cup", "prompt": "blue"})
    assert bad == BadRow(3, "has '9.90' in column 4, which has no name in the header")


def test_a_line_as_long_as_a_file_is_no_table(tmp_path):
    with pytest.raises(CatalogueError, match=f"line 2 is longer than {MAX_CSV_LINE} characters"):
        rows(tmp_path, "name\n" + "x" * (MAX_CSV_LINE + 1))


BAD_JSON = [
    (b"{", "is no JSON"),
    (b"[1]", "is a JSON list: expected an object"),
    (b'{"a": 1, "a": 2}', "a name stands twice in ['a', 'a']"),
    (b'{"a": NaN}', "NaN is no number"),
    (b'{"a": "caf\xe9"}', "is not UTF-8: byte 0xe9"),
    (b'{"a": "\\u0000"}', "column 'a' contains a NUL character"),
    (b'{"a": "\\ud800"}', "column 'a' contains half a character"),
    (b'{"a": ["x", "\\ud800"]}', "column 'a' contains half a character"),
    (b'{"\\ud800": 1}', "column '\\ud800' contains half a character"),
    (b'{"a":' + b"[" * 100_000, "is no JSON"),
    (b'{"a": "' + b"x" * (2 * MAX_LINE) + b'"}', f"is longer than {MAX_LINE} bytes"),
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
        ("c.xls", b"", r"expected a file that ends in \.csv, \.tsv, \.txt, \.xlsx or \.jsonl"),
        ("c.csv", b"", "is empty: expected a header"),
        ("c.csv", b"\n,,\n", "is empty: expected a header"),
        ("c.csv", b"name,name\n", "line 1: every column needs a name of its own, 'name' stands twice"),
        ("c.csv", b'\n"name,prompt\n', "line 2: the header is no CSV"),
    ],
)
def test_a_file_that_cannot_be_read_at_all(tmp_path, name, content, message):
    with pytest.raises(CatalogueError, match=message):
        rows(tmp_path, content, name)


@pytest.mark.parametrize("name", ["gone.csv", "gone.jsonl", "gone.xlsx", "gone.xlsx#Sheet"])
def test_a_file_that_is_not_there_is_said(tmp_path, name):
    with pytest.raises(CatalogueError, match=r"^there is no file .*gone\.(csv|jsonl|xlsx)$"):
        list(read_rows(tmp_path / name))


@pytest.mark.parametrize("name", ["c.xlsx", "c.jsonl"])
def test_an_encoding_is_for_text_tables(tmp_path, name):
    with pytest.raises(CatalogueError, match=r"--encoding is for \.csv, \.tsv and \.txt"):
        rows(tmp_path, b"", name, encoding="cp1252")


def test_a_sheet_is_named_after_the_file_and_a_file_with_that_name_comes_first(tmp_path):
    assert table_of(tmp_path / "a.xlsx#My sheet") == (tmp_path / "a.xlsx", "My sheet")
    assert table_of(tmp_path / "a#b.csv") == (tmp_path / "a#b.csv", None)
    (tmp_path / "a.xlsx#b.csv").touch()
    assert table_of(tmp_path / "a.xlsx#b.csv") == (tmp_path / "a.xlsx#b.csv", None)


EXPORT = "sku;Beschreibung;Preis;Bild;Bild;Notiz\n4711;a cup;9,90;a;b;=SUM(A1)\n4712;;1;a;b;" + "x" * 100_000 + "\n"


def test_of_a_shops_export_only_what_is_used_is_looked_at(tmp_path):
    columns = used({"prompt": "Beschreibung", "name": "sku"})
    assert rows(tmp_path, EXPORT, columns=columns) == [
        Row(2, {"name": "4711", "prompt": "a cup"}),
        Row(3, {"name": "4712"}),
    ]
    assert columns.ignored == ["Preis", "Bild", "Notiz"]


def test_one_column_of_the_table_may_fill_two_of_ours(tmp_path):
    assert rows(tmp_path, "Titel\ncup\n", columns=used({"prompt": "Titel", "name": "Titel"})) == [
        Row(2, {"prompt": "cup", "name": "cup"})
    ]


def test_a_row_with_nothing_in_the_columns_that_are_used_is_a_bad_row(tmp_path):
    (bad,) = rows(tmp_path, "sku,prompt\n1,\n", columns=used())
    assert bad == BadRow(2, "has no value in any column that is used")


def test_the_header_is_wrong_once_and_before_any_row(tmp_path):
    with pytest.raises(CatalogueError, match=r"c\.csv, line 2: column 'promt': did you mean 'prompt'\?"):
        rows(tmp_path, "sep=,\nname,promt\n" + "a,b\n" * 9, columns=used())


def test_a_wrong_name_in_jsonl_is_its_rows_and_an_unknown_one_is_ignored(tmp_path):
    columns = used()
    content = '{"prompt": "a", "ean": 1}\n{"promt": "b"}\n{"prompt": "c", "ean": 2, "Sampler.steps": 3}\n'
    good, bad, last = rows(tmp_path, content, "c.jsonl", columns=columns)
    assert (good, last) == (Row(1, {"prompt": "a"}), Row(3, {"prompt": "c", "Sampler.steps": 3}))
    assert bad.line == 2
    assert "did you mean 'prompt'?" in bad.reason
    assert columns.ignored == ["ean"]
