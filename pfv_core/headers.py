"""Names and shapes of a file's tensors, from its header alone. Standard library only.

So files of any size are looked into at once, and by programs that have no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Shapes = dict[str, list[int]]
"""Name of a tensor -> its shape."""

ODD_CONTENT = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError)
"""What reading raises where a file's content is of another kind than its place says: JSON of something else, a shape of another
rank, a number that is none."""
MOST_OF_A_HEADER = 100_000_000  # bytes, as safetensors has it


def read_shapes(file: Path) -> Shapes:
    """Shape of each tensor of a .safetensors file; empty when the file is none, or a damaged one."""
    with file.open("rb") as opened:
        header_size = int.from_bytes(opened.read(8), "little")
        if header_size > min(file.stat().st_size, MOST_OF_A_HEADER):
            return {}
        try:
            header = json.loads(opened.read(header_size))
            return {name: _shape(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        except ODD_CONTENT:  # not JSON, not even text, or JSON of something else
            return {}


def _shape(sizes: Any) -> list[int]:
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError(f"shape {sizes}")
    return sizes
