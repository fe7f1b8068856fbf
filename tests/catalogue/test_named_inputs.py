"""A workflow's inputs by title: found in every shipped workflow, filled in their own kind, and refused with what there is."""

from __future__ import annotations

import json

import pytest

from headless.catalogue.table.columns import Columns, parse_mapping
from headless.catalogue.workflow.input_kinds import InputKinds, Kind, coerced, normalised
from headless.catalogue.workflow.named_inputs import UnknownInputError, Workflow, WorkflowError
from headless.host.find import PACK_ROOT
from pfv_mepa.tests.catalogue.harness import KINDS

SHIPPED = sorted((PACK_ROOT / "workflows" / "api").glob("*.json"))
NODE = {
    "text": ["STRING", {"multiline": True}],
    "seed": ["INT", {"default": 0, "min": 0, "max": 9}],
    "cfg": ["FLOAT", {}],
    "on": ["BOOLEAN"],
    "old": [["a", "b"]],
    "new": ["COMBO", {"options": [1, 2]}],
    "file": [["x.png"], {"image_upload": True}],
    "newer_file": ["COMBO", {"options": ["x.png"], "image_upload": True}],
    "model": ["MODEL"],
}
SAVE = {"images": ["IMAGE"], "filename_prefix": ["STRING"]}
HERE = InputKinds({"Node": {"input": {"required": NODE}}, "SaveImage": {"input": {"required": SAVE}}})
UNKNOWN = InputKinds()


def workflow(**inputs):
    nodes = {"1": {"class_type": "Node", "inputs": {"text": "a", "seed": 1, "cfg": 2.0, "on": True, **inputs}}}
    return Workflow(
        nodes | {"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}}, HERE
    )


def test_there_are_shipped_workflows():
    assert {"full", "minimal", "demo_full", "demo_minimal"} <= {file.stem for file in SHIPPED}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_workflow_takes_prompt_seed_and_reference_or_product(file):
    columns = Columns(Workflow.read(file, KINDS), {})
    assert columns.takes("prompt")
    assert columns.takes("seed")
    assert columns.takes("reference") or columns.takes("product")


def test_filled_changes_a_copy_and_where_it_saves():
    shipped = workflow()
    filled = shipped.filled({shipped.find("Node.text"): "b"}, "folder/job")
    assert filled["1"]["inputs"]["text"] == "b"
    assert filled["2"]["inputs"] == {"images": ["1", 0], "filename_prefix": "folder/job"}
    assert shipped.nodes["1"]["inputs"]["text"] == "a"


def test_an_unknown_input_is_answered_with_those_that_are_there():
    with pytest.raises(
        UnknownInputError, match=r"no free input 'Node\.txt', did you mean 'Node\.text'\? Its inputs: Node\.cfg"
    ):
        workflow().find("Node.txt")


def test_a_link_is_no_free_input():
    with pytest.raises(UnknownInputError, match=r"no free input 'SaveImage\.images'"):
        workflow().find("SaveImage.images")


def test_titles_that_repeat_are_told_apart_by_id():
    node = {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}, "_meta": {"title": "Prompt"}}
    shipped = Workflow({"7": node, "8": node}, UNKNOWN)
    with pytest.raises(UnknownInputError, match=r"names 2 inputs of the workflow: say which by #7\.text, #8\.text"):
        shipped.find("Prompt.text")
    assert shipped.find("#8.text").node_id == "8"
    with pytest.raises(UnknownInputError, match="names 2 inputs of the workflow"):
        Columns(shipped, {}).targets("prompt")
    assert [named.node_id for named in Columns(shipped, {"prompt": ["#8.text"]}).targets("prompt")] == ["8"]
    assert len(Columns(shipped, {"prompt": ["#7.text", "#8.text"]}).targets("prompt")) == 2


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("text", "b", "b"),
        ("seed", "7", 7),
        ("seed", 7.0, 7),
        ("cfg", "7.5", 7.5),
        ("cfg", 3, 3.0),
        ("on", "False", False),
        ("on", True, True),
        ("seed", "2.0", 2),  # as pandas writes it
        ("new", "2", 2),
    ],
)
def test_a_value_takes_the_kind_that_the_server_names(name, value, expected):
    """Whatever the file holds: a page writes 1 where it means 1.0."""
    found = coerced(name, HERE.of("Node", name), 1, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("text", 3, "text"),
        ("seed", "1.5", "a whole number"),
        ("seed", 1.5, "a whole number"),
        ("seed", True, "a whole number"),
        ("cfg", "much", "a number"),
        ("cfg", "inf", "a number"),
        ("on", "yes", "true or false"),
        ("old", 3, "one of a, b, got 3"),
        ("old", "c", "one of a, b, got 'c'"),
        ("seed", "-1", "0 to 9, got -1"),
        ("seed", 10, "0 to 9"),
        ("seed", "1_0", "a whole number"),
        ("seed", "\u0661", "a whole number"),
        ("cfg", "2,5", "a number, with a point, got '2,5'"),
        ("model", "x", "MODEL, which a catalogue cannot set"),
    ],
)
def test_a_value_of_another_kind_is_refused(name, value, kind):
    with pytest.raises(ValueError, match=rf"^Node\.{name} takes {kind}"):
        coerced(f"Node.{name}", HERE.of("Node", name), 1, value)


@pytest.mark.parametrize(("shipped", "value", "expected"), [(1, "0.75", 0.75), (1.0, "2", 2), ("a", "b", "b")])
def test_without_a_server_any_number_does_for_a_number(shipped, value, expected):
    assert coerced("Node.cfg", UNKNOWN.of("Node", "cfg"), shipped, value) == expected
    with pytest.raises(ValueError, match=r"takes a number, got 'much'"):
        coerced("Node.cfg", UNKNOWN.of("Node", "cfg"), 1, "much")


def test_what_loads_a_picture_is_what_the_server_lets_people_upload():
    assert [name for name in NODE if HERE.of("Node", name).is_picture] == ["file", "newer_file"]
    assert HERE.of("Node", "nothing") == HERE.of("Nowhere", "file") == Kind()
    assert UNKNOWN.of("LoadImage", "image").is_picture
    assert not UNKNOWN.of("LoadImage", "channel").is_picture


def test_what_a_server_lacks_is_named():
    nodes = {
        "1": {"class_type": "Node", "inputs": {"old": "z", "file": "gone.png", "newer_file": "sub/a.png"}},
        "2": {"class_type": "Other", "inputs": {}},
    }
    shipped = Workflow(nodes, HERE)
    assert shipped.lacks(HERE, {}) == ["node class Other", "Node.old: 'z'", "Node.file: 'gone.png'"]
    filled = {shipped.find("Node.old"): "a", shipped.find("Node.file"): ""}
    assert shipped.lacks(HERE, filled) == ["node class Other"]


def test_a_number_is_written_in_one_way():
    assert json.dumps(normalised({"a": [1.0, 0.5, True, "1.0", ["4", 0]], "b": {"c": -0.0}})) == (
        '{"a": [1, 0.5, true, "1.0", ["4", 0]], "b": {"c": 0}}'
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "expected a workflow in API form: an object"),
        ("{}", "expected a workflow in API form"),
        (
            '{"nodes": [], "links": []}',
            r"the browser's form of a workflow: expected the API form \(File, Export \(API\)\)",
        ),
        ('{"1": {"inputs": {}}}', "node '1': expected an object with class_type and inputs"),
    ],
)
def test_a_file_that_is_no_workflow(tmp_path, content, message):
    file = tmp_path / "w.json"
    file.write_text(content)
    with pytest.raises(WorkflowError, match=message):
        Workflow.read(file, KINDS)


def test_a_mapping_outranks_the_shipped_titles():
    shipped = Workflow(
        {
            "1": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "Prompt"}},
            "2": {"class_type": "CLIPTextEncode", "inputs": {"text": ""}, "_meta": {"title": "My text"}},
        },
        UNKNOWN,
    )
    assert [str(named) for named in Columns(shipped, {}).targets("prompt")] == ["Prompt.text"]
    mapped = Columns(shipped, parse_mapping(["prompt=My text.text"]))
    assert [str(named) for named in mapped.targets("prompt")] == ["My text.text"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            "promt",
            r"column 'promt' is unknown \(did you mean 'prompt'\?\): expected name, product, .* inputs: Node\.cfg",
        ),
        ("product", r"no place for 'product': give one with --map product='<node title>\.<input>'"),
        ("Node.txt", "no free input 'Node.txt'"),
    ],
)
def test_a_column_without_a_place(column, message):
    with pytest.raises(UnknownInputError, match=message):
        Columns(workflow(), {}).targets(column)


@pytest.mark.parametrize("option", ["prompt", "=a.b", "prompt=b", "seeds=Sampler.seed", "product_mask=Photo.image"])
def test_a_wrong_mapping_is_refused(option):
    with pytest.raises(ValueError, match="--map"):
        parse_mapping([option])


def test_a_picture_is_mapped_to_a_loader_only():
    with pytest.raises(ValueError, match=r"'product' is a picture, Node\.text of Node loads none"):
        Columns(workflow(), {"product": ["Node.text"]})


def test_identity_of_the_file_is_its_json(tmp_path):
    file = tmp_path / "w.json"
    file.write_text("\ufeff" + json.dumps(workflow().nodes), encoding="utf-8")
    assert Workflow.read(file, KINDS).nodes == workflow().nodes


def test_the_choices_are_those_of_all_servers():
    other = {"Node": {"input": {"required": {"old": [["b", "c"]]}}}}
    both = InputKinds({"Node": {"input": {"required": NODE}}}, other)
    assert both.of("Node", "old").choices == ("a", "b", "c")
    assert coerced("Node.old", both.of("Node", "old"), "a", "c") == "c"


def test_what_saves_is_what_takes_a_name_for_files():
    assert workflow().savers == ["2"]
    assert Workflow({"1": {"class_type": "PreviewImage", "inputs": {}}}, KINDS).savers == []
