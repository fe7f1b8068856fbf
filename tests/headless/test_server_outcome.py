"""What is read of a history and of a rejection, in the host's shapes and in any other; and words made safe."""

from __future__ import annotations

import json

import pytest

from headless.server.errors import FailedError, safe_text, shortened
from headless.server.outcome import Saved, finished_of, images_of, rejection

IMAGE = {"filename": "ad_1.png", "subfolder": "x", "type": "output"}


def entry(*messages, **outputs):
    return {"outputs": outputs, "status": {"status_str": "...", "messages": [list(message) for message in messages]}}


def test_a_run_that_ended_well_has_images_texts_and_seconds():
    preview = {**IMAGE, "type": "temp"}
    messages = ("execution_start", {"timestamp": 1000}), ("execution_success", {"timestamp": 3500})
    outputs = {"9": {"images": [IMAGE, preview]}, "8": {"text": ["a report", 5]}, "7": {"images": [preview]}}
    found = finished_of(entry(*messages, **outputs))
    assert found.images == [Saved("9", "ad_1.png", "x")]
    assert found.texts == {"8": ["a report", "5"]}
    assert found.seconds == 2.5
    assert found.outputs == outputs
    assert images_of(outputs)[1] == Saved("9", "ad_1.png", "x", "temp")


def test_a_node_that_raised_is_named_with_what_it_said():
    details = {"node_id": "16", "node_type": "MEPAApply", "exception_type": "ValueError", "exception_message": "no\n"}
    with pytest.raises(FailedError) as raised:
        finished_of(entry(("execution_start", {}), ("execution_error", details)))
    error = raised.value
    assert str(error) == "node 16 (MEPAApply) failed with ValueError: no"
    assert (error.node_id, error.node_type, error.exception_type) == ("16", "MEPAApply", "ValueError")
    assert error.exception_message == "no"


def test_a_run_that_was_interrupted_says_where():
    with pytest.raises(FailedError, match=r"the run was interrupted at node 3 \(KSampler\)") as raised:
        finished_of(entry(("execution_interrupted", {"node_id": "3", "node_type": "KSampler"})))
    assert (raised.value.node_type, raised.value.exception_type) == ("KSampler", "interruption")


def test_an_error_without_details_is_an_error():
    with pytest.raises(FailedError, match=r"node None \(None\) failed with None: no message"):
        finished_of(entry(("execution_error", {})))


ODD_MESSAGES = [None, 5, "x", [None], [["execution_error"]], [["execution_start", None]], [[{}, {}]], [5, [1, 2, 3]]]


@pytest.mark.parametrize("messages", ODD_MESSAGES)
def test_messages_of_another_shape_are_passed_over(messages):
    found = finished_of({"outputs": {"9": {"images": [IMAGE]}}, "status": {"messages": messages}})
    assert (found.images, found.seconds) == ([Saved("9", "ad_1.png", "x")], None)


@pytest.mark.parametrize("status", [None, 5, [], "x", {}])
def test_a_status_of_another_shape_is_passed_over(status):
    assert finished_of({"outputs": {}, "status": status}).images == []


@pytest.mark.parametrize("outputs", [None, 5, [], "x"])
def test_outputs_of_another_shape_are_an_error(outputs):
    with pytest.raises(FailedError, match="expected outputs by node"):
        finished_of({"outputs": outputs})
    with pytest.raises(FailedError, match="expected outputs by node"):
        finished_of({})


@pytest.mark.parametrize("output", [None, 5, [], {"images": None}, {"images": "x"}, {"images": [None, 5, [], {}]}])
def test_what_is_no_image_is_passed_over(output):
    assert images_of({"1": output, "9": {"images": [IMAGE]}}) == [Saved("9", "ad_1.png", "x")]


@pytest.mark.parametrize("change", [{"filename": None}, {"filename": ""}, {"filename": "\ud800.png"}, {"subfolder": 5}])
def test_an_image_that_no_request_can_name_is_an_error(change):
    with pytest.raises(FailedError, match="the history of the run cannot be read: node 9 saved"):
        images_of({"9": {"images": [{**IMAGE, **change}]}})


@pytest.mark.parametrize("times", [(None, 5), ("1", "2"), (0, float("nan")), (0, float("inf")), (0, 10**400)])
def test_seconds_that_are_none_are_none(times):
    start, end = times
    messages = ("execution_start", {"timestamp": start}), ("execution_success", {"timestamp": end})
    assert finished_of(entry(*messages)).seconds is None


def test_a_rejection_has_a_line_for_each_complaint():
    errors = [{"message": "Value not in list", "details": "x: 'zz'"}, {"message": "Missing", "details": "model"}]
    error = rejection({"message": "invalid", "details": ""}, {"4": {"class_type": "KSampler", "errors": errors}})
    assert str(error).splitlines() == [
        "the server rejected the workflow: invalid",
        "node 4 (KSampler): Value not in list: x: 'zz'",
        "node 4 (KSampler): Missing: model",
    ]


@pytest.mark.parametrize("node_errors", [None, [], 5, "x", {"4": None}, {"4": {"errors": 5}}, {"4": {"errors": []}}])
def test_a_rejection_of_another_shape_is_a_rejection(node_errors):
    assert str(rejection("no outputs", node_errors)) == "the server rejected the workflow: no outputs"
    assert str(rejection(None, {"4": {"errors": ["x"]}})).splitlines()[1] == "node 4 (None): x:"


@pytest.mark.parametrize(
    ("words", "safe"),
    [
        ("plain\tand\nlines", "plain\tand\nlines"),
        ("Käse 杯 🏺", "Käse 杯 🏺"),
        ("caf\ud8e9", "caf\\ud8e9"),
        ("\x1b[31m\x00\r\x7f\x85", "\\x1b[31m\\x00\\r\\x7f\\x85"),
        ("a\u2028b\u202egnp", "a\\u2028b\\u202egnp"),
        (None, "None"),
    ],
)
def test_words_are_made_safe(words, safe):
    assert safe_text(words) == safe
    assert json.loads(json.dumps(safe)).encode() == safe.encode()
    assert safe_text(safe) == safe


def test_long_words_are_shortened_and_say_so():
    assert shortened(" " + "x" * 12 + "\n", 10) == "xxxxxxxxxx... (2 more characters)"
    assert shortened("x" * 10, 10) == "x" * 10
