"""What a node tells the page: a bar that moves while it works, and a line of text that stays below its widgets.

A node that ever shows something shows something on every run: of a run that shows nothing the page hears nothing, and what the
run before has shown stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from comfy.utils import ProgressBar

LINE = "pfv_line"  # the key that web/node_line.js looks for


@contextmanager
def progress_over(modules: Sequence[torch.nn.Module], times: int = 1) -> Iterator[None]:
    """The running node's bar moves by one part each time one of the modules has run; full when all have, that many times."""
    bar = ProgressBar(len(modules) * times)
    handles = [module.register_forward_hook(lambda *_: bar.update(1)) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_line(shown: Mapping[str, Any], line: str) -> dict[str, Any]:
    """A node's output for the page with a line of text added, which web/node_line.js shows on the node.

    The host's own way to show text on a node is for progress: newer pages take it away when the run ends.
    """
    return {**shown, LINE: [line]}
