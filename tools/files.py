"""Writing files so that a kill or a full disk leaves what was there before. Standard library only."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path


def save_atomically(file: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file of the same name beside, and put it in the place of `file` when it is whole."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=file.parent) as beside:
        unfinished = Path(beside) / file.name
        write(unfinished)
        unfinished.replace(file)


def save_text(file: Path, text: str) -> None:
    """Write UTF-8."""
    save_atomically(file, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
