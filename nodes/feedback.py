"""What a node tells the page: a bar that moves while it works, and a line of text below its widgets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.utils import ProgressBar


@contextmanager
def progress_over(modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """The running node's bar moves by one part each time one of the modules has run; full when all have."""
    bar = ProgressBar(len(modules))
    handles = [module.register_forward_hook(lambda *_: bar.update(1)) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def show_text(node: type[Any], text: str) -> None:
    """Show a line on the node in the page; nothing where no server runs it.

    Args:
        node: the class that `execute` was called on; its schema must ask for the hidden `unique_id`.
        text: the line.
    """
    host_server = sys.modules.get("server")  # there only where the host serves a page
    page = getattr(getattr(host_server, "PromptServer", None), "instance", None)
    if page is not None and node.hidden is not None:
        page.send_progress_text(text, node.hidden.unique_id)
