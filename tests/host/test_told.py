"""What is warned of stands in the log, and goes to the page whose workflow runs."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import nodes as host_nodes
import pytest
from comfy_execution.utils import CurrentNodeContext

from pfv_mepa.nodes.host.told import EVENT, SERVER, drawing_node, tell
from pfv_mepa.tests.host.beside import host_node

MESSAGE = "nothing is sampled there"


def serving(monkeypatch, **server):
    """The host's server, of which the tests need no more than this."""
    module = SimpleNamespace(PromptServer=SimpleNamespace(instance=SimpleNamespace(**server)))
    monkeypatch.setitem(sys.modules, SERVER, module)


def test_a_warning_is_logged_and_sent_to_the_page(monkeypatch, caplog):
    sent = []
    serving(monkeypatch, client_id="a page", send_sync=lambda *message: sent.append(message))
    with caplog.at_level(logging.WARNING):
        tell(MESSAGE)
    assert sent == [(EVENT, {"message": MESSAGE}, "a page")]
    assert caplog.messages == [MESSAGE]


def test_without_a_server_it_is_logged(monkeypatch, caplog):
    for module in (None, SimpleNamespace(PromptServer=type("PromptServer", (), {}))):
        monkeypatch.setitem(sys.modules, SERVER, module)
        tell(MESSAGE)
    assert caplog.messages == [MESSAGE, MESSAGE]


def test_a_job_that_no_page_has_sent_warns_on_none(monkeypatch, caplog):
    sent = []
    serving(monkeypatch, client_id=None, send_sync=lambda *message: sent.append(message))
    tell(MESSAGE)
    assert not sent
    assert caplog.messages == [MESSAGE]


GIVES = {"Upscaler": ("IMAGE",), "Choosing": (["euler", "heun"], "IMAGE"), "Guiding": ("IMAGE", "GUIDER")}


@pytest.mark.parametrize(
    ("node_id", "expected"),
    [
        ("1", None),
        ("2", None),
        ("3", "Upscaler"),
        ("4", "Choosing"),
        ("5", None),
        ("6", None),
        ("3.0.1", "Upscaler"),  # put there for it
        ("1.0.1", None),
        ("7.0.1", None),
    ],
)
def test_a_node_that_encodes_and_decodes_by_itself(monkeypatch, node_id, expected):
    classes = {"1": "KSampler", "2": "SamplerCustomAdvanced", "3": "Upscaler", "4": "Choosing", "5": "Guiding"}
    prompt = {number: {"class_type": name, "inputs": {}} for number, name in classes.items()}
    running = [(0, "another", {node_id: {"class_type": "KSampler"}}, {}, []), (1, "this", prompt, {}, [])]
    queue = SimpleNamespace(get_current_queue_volatile=lambda: (running, []))
    serving(monkeypatch, prompt_queue=queue)
    for name, gives in GIVES.items():
        monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, name, type(name, (), {"RETURN_TYPES": gives}))
    monkeypatch.setitem(host_nodes.NODE_CLASS_MAPPINGS, "SamplerCustomAdvanced", host_node("SamplerCustomAdvanced"))
    with CurrentNodeContext("this", node_id):
        assert drawing_node() == expected
    assert drawing_node() is None


def test_without_a_server_nobody_says_which_node_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, SERVER, None)
    with CurrentNodeContext("this", "3"):
        assert drawing_node() is None
