"""What is warned of stands in the log, and goes to the page whose workflow runs."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

from pfv_mepa.nodes.host.told import EVENT, SERVER, tell

MESSAGE = "nothing is sampled there"


def test_a_warning_is_logged_and_sent_to_the_page(monkeypatch, caplog):
    sent = []
    server = SimpleNamespace(client_id="a page", send_sync=lambda *message: sent.append(message))
    module = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, SERVER, module)
    with caplog.at_level(logging.WARNING):
        tell(MESSAGE)
    assert sent == [(EVENT, {"message": MESSAGE}, "a page")]
    assert caplog.messages == [MESSAGE]


def test_without_a_server_it_is_logged(monkeypatch, caplog):
    for module in (None, SimpleNamespace(PromptServer=type("PromptServer", (), {}))):
        monkeypatch.setitem(sys.modules, SERVER, module)
        tell(MESSAGE)
    assert caplog.messages == [MESSAGE, MESSAGE]
