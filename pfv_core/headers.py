"""Names and shapes of a file's tensors, from its header alone. Standard library only.

So files of any size are looked into at once, and by programs that have no torch.
"""

from __future__ import annotations

import json
from pathlib import Path

Shapes = dict[str, list[int]]
"""Name of a tensor -> its shape."""


def read_shapes(file: Path) -> Shapes:
    """Shape of each tensor of a .safetensors file; empty when the file is none, or a damaged one."""
    with file.open("rb") as opened:
        header_size = int.from_bytes(opened.read(8), "little")
        if header_size > file.stat().st_size:
            return {}
        try:
            header = json.loads(opened.read(header_size))
            return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, AttributeError, KeyError, TypeError):  # not JSON, not even text, or JSON of something else
            return {}
