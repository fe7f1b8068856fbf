"""A workflow is computed node by node, each once, and nothing that a node was told is passed over."""

from __future__ import annotations

import pytest

from headless.ad.graph import Computed, Graph, Operation

PROMPT = {
    "1": {"class_type": "Number", "inputs": {"value": 2}},
    "2": {"class_type": "Split", "inputs": {"number": ["1", 0]}},
    "3": {
        "class_type": "Sum",
        "inputs": {"first": ["2", 1], "second": ["2", 0], "rounding": "none"},
        "_meta": {"title": "Total"},
    },
    "4": {"class_type": "Elsewhere", "inputs": {}, "_meta": {"title": "Not needed"}},
}


@pytest.fixture
def called():
    return []


@pytest.fixture
def operations(called):
    def number(value):
        called.append(value)
        return Computed((value,))

    return {
        "Number": Operation(number),
        "Split": Operation(lambda number: Computed((number / 4, 3 * number / 4))),
        "Sum": Operation(lambda first, second=10: Computed((first + 2 * second,), text="done"), {"rounding": "none"}),
    }


def test_links_are_followed_to_their_slots_and_each_node_is_computed_once(operations, called):
    graph = Graph(PROMPT, operations)
    assert graph.compute("3").outputs == (1.5 + 2 * 0.5,)
    assert graph.compute("3") is graph.computed["3"]
    assert called == [2]
    assert set(graph.computed) == {"1", "2", "3"}


def test_an_input_that_is_left_out_has_its_default(operations):
    inputs = {"first": 1, "rounding": "none"}
    assert Graph({"3": {"class_type": "Sum", "inputs": inputs}}, operations).compute("3").outputs == (21,)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"first": 1, "rounding": "up"},
            r"Sum has rounding 'up', which is computed in ComfyUI only \(here it is 'none'\)",
        ),
        (
            {"first": 1, "third": 1},
            "Sum has third 1, which is computed in ComfyUI only: install ComfyUI, or set it back",
        ),
    ],
)
def test_what_is_not_computed_is_refused(operations, inputs, message):
    with pytest.raises(ValueError, match=message):
        Graph({"3": {"class_type": "Sum", "inputs": inputs}}, operations).compute("3")


def test_a_class_that_is_not_computed_is_refused_where_it_is_needed(operations):
    prompt = PROMPT | {"5": {"class_type": "Sum", "inputs": {"first": ["4", 0]}}}
    with pytest.raises(ValueError, match="Not needed is a Elsewhere, which is computed in ComfyUI only"):
        Graph(prompt, operations).compute("5")
