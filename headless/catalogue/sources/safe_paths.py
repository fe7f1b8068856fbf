"""A path that comes from a catalogue, a workflow or a server stays where it belongs, and what is said of it shows no secret."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

HIDDEN = "..."  # stands for what may be a secret
MAX_NAME_BYTES = 120  # of a row's name, in UTF-8; a file name has at most 255, and format, seed and hash follow

_FORBIDDEN = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f]')
_AT = re.compile(r"@|%40")
_QUERY = re.compile(r"[?#]|%3F|%23", re.IGNORECASE)
_RESERVED = re.compile(r"CON|PRN|AUX|NUL|(COM|LPT)[0-9¹²³]", re.IGNORECASE)  # Windows opens a device of that name


class UnsafePathError(ValueError):
    """A path that leads, or could lead on some system, out of the folder that was given."""


def shown(text: str) -> str:
    """An address or a path that was given, as it may be shown and written: without user, password and query.

    A text that is refused need not be made of the parts that it seems to have. So what stands before the last `@`, and what
    stands after the first `?` or `#`, is left out wherever it stands, but for a scheme in front of an `@`.
    """
    beginning, *_ = _QUERY.split(text, maxsplit=1)
    query = text[len(beginning) :]
    if _AT.search(query):
        return f"{_scheme(text)}{HIDDEN}"  # all that comes before may be a user and a password
    users = _AT.split(beginning)
    user = f"{_scheme(text)}{HIDDEN}@" if len(users) > 1 else ""
    return f"{user}{users[-1]}{query[:1]}{HIDDEN if query[1:] else ''}"


def check_relative(text: str) -> None:
    """Refuse what is no plain relative path with forward slashes.

    Raises:
        UnsafePathError: absolute, `..`, a drive letter, a backslash, a control character, or empty.
    """
    if found := _FORBIDDEN.search(text):
        hint = "; write / between folders" if found.group() == "\\" else ""
        raise UnsafePathError(f"{shown(text)!r}: {found.group()!r} is not allowed in a path{hint}")
    if not text or text.startswith(("/", "~")):
        raise UnsafePathError(f"{shown(text)!r}: expected a path relative to the folder of pictures")
    if any(part in ("", ".", "..") for part in text.split("/")):
        raise UnsafePathError(f"{shown(text)!r}: a path must not contain '..', '.' or an empty part")


def file_in(folder: Path, text: str) -> Path:
    """The existing file of that relative path, links followed.

    Args:
        folder: the only folder that may be read.
        text: as it stands in the catalogue. An accented letter may be one character there and two on the disk, or the
            other way round.

    Raises:
        UnsafePathError: it is no relative path, a link in it leads out of the folder, or two files differ in nothing but how
            their accents are written.
        FileNotFoundError: there is no regular file of that name.
    """
    check_relative(text)
    root = folder.resolve()
    path = root
    for part in text.split("/"):
        path = path / _as_on_disk(path, part)
    path = path.resolve()
    if not path.is_relative_to(root):
        raise UnsafePathError(f"{shown(text)!r}: a link leads out of {folder}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {shown(text)!r} in {folder}")
    return path


def slug(name: str) -> str:
    """A name as a part of a file name on any system.

    Letters of any script with their marks, digits, `_` and `-`; at most MAX_NAME_BYTES of UTF-8, cut between letters.
    """
    plain = "".join(_in_file_name(character) for character in unicodedata.normalize("NFC", name))
    found = _cut(re.sub(r"-+", "-", plain).strip("-_")).rstrip("-_") or "ad"
    return f"ad-{found}" if _RESERVED.fullmatch(found) else found


def _scheme(text: str) -> str:
    scheme, mark, _ = text.partition("://")
    return f"{scheme}{mark}" if mark and scheme.isalnum() else ""


def _as_on_disk(folder: Path, part: str) -> str:
    """A part of a path in the Unicode form that it has on the disk; as it is where there is none."""
    if part.isascii() or os.path.lexists(folder / part):
        return part
    forms = dict.fromkeys(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))
    found = [form for form in forms if os.path.lexists(folder / form)]
    if len(found) > 1 and not (folder / found[0]).samefile(folder / found[1]):
        raise UnsafePathError(
            f"{shown(part)!r} is there twice, with its accents written in two ways (Unicode NFC and NFD), and neither is the "
            "table's: rename one of the files"
        )
    return found[0] if found else part


def _in_file_name(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cf":
        return ""  # invisible: directions, joiners, soft hyphens
    return character if kind[0] in "LMN" or character in "_-" else "-"


def _cut(name: str) -> str:
    """The beginning that fits, never between a letter and its marks."""
    room = len(name.encode()[:MAX_NAME_BYTES].decode(errors="ignore"))
    while 0 < room < len(name) and unicodedata.category(name[room])[0] == "M":
        room -= 1
    return name[:room]
