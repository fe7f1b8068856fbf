"""Layers of the host's that have their weights from the beginning."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

try:
    from comfy import memory_management
except ImportError:  # a host without dynamic VRAM
    memory_management = None

DYNAMIC = "aimdo_enabled"


@contextmanager
def whole_layers() -> Iterator[None]:
    """Within, and in what is decorated with it, layers are built whole and filled as torch fills them.

    With dynamic VRAM, which newer hosts have on NVIDIA cards, a linear layer has no weights until it is filled, and then has
    whatever the file holds, of any size and precision: nothing could be compared with the file, nor kept in the precision that
    was asked for. The host itself does without it for layers that are filled in a way of their own.
    """
    before = getattr(memory_management, DYNAMIC, False)
    if not before:
        yield
        return
    setattr(memory_management, DYNAMIC, False)
    try:
        yield
    finally:
        setattr(memory_management, DYNAMIC, before)
