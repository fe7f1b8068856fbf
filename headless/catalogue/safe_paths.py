"""A path that comes from a catalogue, a workflow or a server stays where it belongs."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

MAX_NAME = 60  # characters of a row's name that go into file names

_FORBIDDEN = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f]')


class UnsafePathError(ValueError):
    """A path that leads, or could lead on some system, out of the folder that was given."""


def check_relative(text: str) -> None:
    """Refuse what is no plain relative path with forward slashes.

    Raises:
        UnsafePathError: absolute, `..`, a drive letter, a backslash, a control character, or empty.
    """
    if found := _FORBIDDEN.search(text):
        hint = "; write / between folders" if found.group() == "\\" else ""
        raise UnsafePathError(f"{text!r}: {found.group()!r} is not allowed in a path{hint}")
    if not text or text.startswith(("/", "~")):
        raise UnsafePathError(f"{text!r}: expected a path relative to the folder of pictures")
    if any(part in ("", ".", "..") for part in text.split("/")):
        raise UnsafePathError(f"{text!r}: a path must not contain '..', '.' or an empty part")


def file_in(folder: Path, text: str) -> Path:
    """The existing file of that relative path, links followed.

    Args:
        folder: the only folder that may be read.
        text: as it stands in the catalogue.

    Raises:
        UnsafePathError: it is no relative path, or a link in it leads out of the folder.
        FileNotFoundError: there is no regular file of that name.
    """
    check_relative(text)
    root = folder.resolve()
    path = (root / text).resolve()
    if not path.is_relative_to(root):
        raise UnsafePathError(f"{text!r}: a link leads out of {folder}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {text!r} in {folder}")
    return path


def slug(name: str) -> str:
    """A name as a part of a file name on any system: letters, digits, `_` and `-`, at most MAX_NAME of them."""
    plain = unicodedata.normalize("NFC", name)
    return re.sub(r"[^\w-]+", "-", plain).strip("-_")[:MAX_NAME].rstrip("-_") or "ad"
