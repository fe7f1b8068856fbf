"""Writing files so that a kill or a full disk leaves what was there before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError


class NotWrittenError(RuntimeError):
    """A file could not be written; what stood in its place still does."""


def save_atomically(file: Path, write: Callable[[Path], None]) -> None:
    """Write beside `file` and put it in its place when it is whole, readable for whoever new files are.

    Raises:
        NotWrittenError: writing failed, a full disk for example; `file` is what it was.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{uuid4().hex}")  # several machines may write to one disk
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        write(unfinished)
        unfinished.chmod(mode)  # safetensors makes a file of its own, for its owner alone
        unfinished.replace(file)
    except (OSError, RuntimeError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        kept = f"{file} is as it was before" if file.exists() else "nothing was written"
        raise NotWrittenError(f"cannot write {file}: {error}. {kept}; free some space and start again") from error


def save_text(file: Path, text: str) -> None:
    """Write UTF-8; NotWrittenError, with the old file in place, where that fails."""

    def write(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    save_atomically(file, write)
