"""Which columns of a table are ours, which are ignored, and which are a mistake that is said before anything runs."""

from __future__ import annotations

import re

import pytest

from headless.catalogue.table.columns import ColumnError, Columns, parse_aliases
from headless.catalogue.workflow.input_kinds import InputKinds
from headless.catalogue.workflow.named_inputs import UnknownInputError, Workflow


def workflow():
    def node(title, **inputs):
        return {"class_type": inputs.pop("kind", "Node"), "inputs": inputs, "_meta": {"title": title}}

    return Workflow(
        {
            "1": node("Prompt", text=""),
            "2": node("Product photo", kind="LoadImage", image="x.png"),
            "3": node("Sampler", steps=1, seed=1, model=["1", 0]),
            "4": node("Ad size", width=64, height=64),
            "5": node("Relight (v1.2)", amount=0.5),
            "12:7": node("Words", text=""),
            "12:8": node("Words", text=""),
        },
        InputKinds(),
    )


def columns(aliases=None, mapping=None):
    return Columns(workflow(), mapping or {}, aliases)


def test_what_is_not_for_us_is_ignored_and_returned_once():
    found = columns()
    header = ["sku", "prompt", "ean", "Prod.Nr", "product_id", "width", "height", "ean"]
    assert found.check_header(header) == ["sku", "ean", "Prod.Nr", "product_id", "width", "height"]
    assert found.check_header(header) == []
    assert found.check_names(["sku", "brand"]) == ["brand"]
    assert found.ignored == ["sku", "ean", "Prod.Nr", "product_id", "width", "height", "brand"]


def test_ignored_columns_are_said_in_one_short_sentence():
    names = [f"c{number}" for number in range(36)]
    said = columns().said_of_ignored(["product_id", *names])
    assert (
        said
        == "37 columns are not used: product_id, c0, c1, c2, c3, c4, c5, c6, ...; did you mean 'product' by 'product_id'?"
    )
    assert columns().said_of_ignored(["ean"]) == "1 column is not used: ean"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("promt", "prompt"),
        ("Prompt", "prompt"),
        (" PRODUCT ", "product"),
        ("Product Mask", "product_mask"),
        ("product-mask", "product_mask"),
        ("format", "formats"),
        ("seed", "seeds"),
        ("names", "name"),
    ],
)
def test_a_name_that_is_nearly_ours_is_an_error_that_says_what_to_write(name, near):
    message = re.escape(
        f"column {name!r}: did you mean {near!r}? If so, name it so, or give --column {near}={name!r}; if not, "
    )
    with pytest.raises(ColumnError, match=message + f"--column {near}= says"):
        columns().check_header([name, "Sampler.steps"])


@pytest.mark.parametrize("name", ["product_id", "brand", "Beschreibung", "frame", "date", "prompt_de", "game"])
def test_a_name_that_is_only_alike_is_not(name):
    assert columns().check_header([name, "Sampler.steps"]) == [name]


def test_what_is_nearly_ours_is_ignored_where_ours_is_there():
    assert columns().check_header(["prompt", "prompts"]) == ["prompts"]
    assert columns({"prompt": "text"}).check_header(["text", "Prompt"]) == ["Prompt"]


def test_that_the_table_has_none_can_be_said():
    found = columns({"name": ""})
    assert found.check_header(["Names", "prompt"]) == ["Names"]
    assert found.check_header(["name", "prompt"]) == ["name"]
    assert (found.is_used("name"), found.filled_by("name")) == (False, ())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Sampler.stepz",
            r"column 'Sampler\.stepz': the workflow has no free input 'Sampler\.stepz', did you mean 'Sampler\.steps'",
        ),
        ("Sampler.model", r"no free input 'Sampler\.model'"),
        ("Samplr.steps", r"did you mean 'Sampler\.steps'"),
        ("Relight (v1.2).amont", r"did you mean 'Relight \(v1\.2\)\.amount'"),
        ("#3.sede", r"no free input '#3\.sede'"),
        ("#99.text", r"no free input '#99\.text'"),
        ("#12:7.txt", r"column '#12:7\.txt': the workflow has no free input '#12:7\.txt'"),
        ("#13:7.text", r"no free input '#13:7\.text'"),
        ("#12:7", r"column '#12:7' is unknown: expected name, .* or '#<node id>\.<input>'; inputs: "),
        ("#text", r"column '#text' is unknown"),
        (
            "negative_prompt",
            r"column 'negative_prompt': the workflow has no place for 'negative_prompt': give one with --map",
        ),
        ("reference_mask", r"column 'reference_mask': the workflow has no place for 'reference'"),
    ],
)
def test_a_column_that_is_ours_and_has_no_input_is_an_error(name, message):
    with pytest.raises(ColumnError, match=message):
        columns().check_header(["prompt", name])


def test_all_mistakes_of_a_header_are_said_at_once():
    with pytest.raises(ColumnError, match=r"column 'reference': .*; column 'Sampler\.stepz': "):
        columns().check_header(["prompt", "reference", "Sampler.stepz"])


def test_a_table_without_any_column_of_ours_is_an_error():
    with pytest.raises(
        ColumnError, match=r"none of the columns is known: expected name, product, .* got sku, ean; --column"
    ):
        columns().check_header(["sku", "ean"])


@pytest.mark.parametrize(
    "name", ["name", "prompt", "product_mask", "formats", "Sampler.steps", "#3.seed", "#12:7.text", "extra"]
)
def test_what_is_used_fills_itself(name):
    found = columns(mapping={"extra": ["Relight (v1.2).amount"]})
    assert (found.is_used(name), found.filled_by(name)) == (True, (name,))


def test_the_names_that_an_error_recommends_are_those_that_are_taken():
    found = columns()
    with pytest.raises(ColumnError, match=r"names 2 inputs of the workflow: say which by #12:7\.text, #12:8\.text"):
        found.check_header(["Words.text"])
    assert found.check_header(["#12:7.text", "#12:8.text"]) == []
    assert [str(found.targets(f"#12:{number}.text")[0].node_id) for number in (7, 8)] == ["12:7", "12:8"]


@pytest.mark.parametrize("name", ["seed", "width", "height", "sku", "", "Prod.Nr", "#", "# pieces"])
def test_what_is_not_used_fills_nothing(name):
    assert (columns().is_used(name), columns().filled_by(name)) == (False, ())


def test_an_alias_stands_in_the_place_of_the_name():
    found = columns({"prompt": "Beschreibung", "Sampler.steps": "Schritte"})
    assert found.check_header(["Beschreibung", "prompt", "Schritte"]) == ["prompt"]
    assert [found.filled_by(name) for name in ("Beschreibung", "Schritte", "prompt")] == [
        ("prompt",),
        ("Sampler.steps",),
        (),
    ]


def test_an_alias_that_swaps_two_names():
    found = columns({"prompt": "name", "name": "prompt"})
    assert (found.filled_by("name"), found.filled_by("prompt")) == (("prompt",), ("name",))


def test_an_alias_that_the_table_has_not_is_an_error_with_the_nearest():
    with pytest.raises(
        ColumnError, match=r"--column prompt=Beschreibung: the table has no column .*; did you mean 'Beschreibng'"
    ):
        columns({"prompt": "Beschreibung"}).check_header(["Beschreibng", "name"])
    with pytest.raises(ColumnError, match=r"the table has no column 'Text'; it has sku, ean"):
        columns({"prompt": "Text"}).check_header(["sku", "", "ean"])


def test_a_row_of_jsonl_need_not_have_what_an_alias_names():
    assert columns({"prompt": "Text"}).check_names(["name"]) == []


@pytest.mark.parametrize(
    ("alias", "message"),
    [
        ("promt", r"--column promt=\.\.\.: expected name, product, .* before the ="),
        ("reference", "no place for 'reference'"),
        ("Sampler.stepz", "did you mean 'Sampler.steps'"),
    ],
)
def test_an_alias_of_nothing_is_refused(alias, message):
    with pytest.raises((ValueError, UnknownInputError), match=message):
        columns({alias: "Text"})


def test_aliases_are_read_from_options():
    assert parse_aliases(["prompt=Text = lang", " name = sku ", "formats="]) == {
        "prompt": "Text = lang",
        "name": "sku",
        "formats": "",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["prompt"], "expected COLUMN="),
        (["=x"], "expected COLUMN="),
        (["a=b", "a=c"], "stands twice, for 'b' and 'c'"),
    ],
)
def test_a_wrong_alias_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        parse_aliases(options)


def test_a_hundred_thousand_rows_of_jsonl_cost_seconds():
    """Names repeat in every row; what was found out about one is remembered."""
    found = columns()
    names = ["prompt", *(f"column {number}" for number in range(40))]
    found.check_names(names)
    misses = found._mistyped.cache_info().misses
    for _ in range(1000):
        found.check_names(names)
    assert found._mistyped.cache_info().misses == misses
