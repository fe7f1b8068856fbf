"""Writing text so that a kill or a full disk leaves what was there before."""

from __future__ import annotations

from pathlib import Path

from pfv_train.loop import save_atomically


def save_text(file: Path, text: str) -> None:
    """Write UTF-8; TrainingStateError, with the old file in place, where that fails."""

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    save_atomically(file, write)
