"""Where a picture's bytes come from: a file below the folder of pictures, or an address that may be read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from .safe_paths import HIDDEN

MAX_BYTES = 256_000_000  # of one picture, wherever it comes from
HIDDEN_QUERY = f"?{HIDDEN}"  # stands in a name for what may be a signature


class SourceError(ValueError):
    """A picture's bytes cannot be had; the message names the place, without secrets, and says what to do."""


class Source(Protocol):
    """Something that has bytes.

    Attributes:
        name: as it stands in the catalogue, without secrets.
        key: tells it from everything else that is read: `key_of` all of its path or address, secrets too.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def key(self) -> str:
        """See above."""

    def version(self) -> str:
        """Changes whenever the bytes may have changed, without reading them: length and time, or what a server says.

        Returns:
            "" where nothing is known without reading: then the bytes have to be read every time.

        Raises:
            SourceError: there is nothing, or it may not be read.
        """

    def read(self) -> bytes:
        """All of it.

        Raises:
            SourceError: it cannot be read, or is larger than allowed.
        """


@dataclass(frozen=True)
class LocalFile:
    """A file on this machine.

    Attributes:
        path: an existing file; whoever makes this has checked that it may be read.
        name: as it stands in the catalogue.
        max_bytes: a larger file is refused.
    """

    path: Path
    name: str
    max_bytes: int = MAX_BYTES

    @property
    def key(self) -> str:
        """Of the path."""
        return key_of(str(self.path))

    def version(self) -> str:
        """Length, times of the last changes and number of the file: other bytes, or another file, are another version."""
        try:
            status = self.path.stat()
        except OSError as error:
            raise SourceError(f"{self.name!r} cannot be read any more: {reason_of(error)}") from error
        return f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"

    def read(self) -> bytes:
        """All of it, unless it is larger than allowed, however long the system says it is."""
        try:
            with self.path.open("rb") as content:
                found = content.read(self.max_bytes + 1)
        except OSError as error:
            raise SourceError(f"{self.name!r} cannot be read any more: {reason_of(error)}") from error
        check_length(self.name, len(found), self.max_bytes)
        return not_empty(self.name, found)


def key_of(text: str) -> str:
    """SHA-256: the same for the same text only, and nothing of the text can be read in it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_length(name: str, length: int, max_bytes: int) -> None:
    """Refuse what is larger than allowed.

    Raises:
        SourceError: it has more than `max_bytes` bytes.
    """
    if length > max_bytes:
        raise SourceError(f"{name!r} has more than {max_bytes} bytes: expected a picture of at most that many")


def not_empty(name: str, content: bytes) -> bytes:
    """The content itself.

    Raises:
        SourceError: it has no bytes, as an upload that failed leaves it.
    """
    if not content:
        raise SourceError(f"{name!r} is empty: expected a picture")
    return content


def stem(name: str) -> str:
    """What a picture is called, of a source's name: `cup` of `shop/cup.png` and of `https://host/cup.png?...`."""
    return PurePosixPath(name.removesuffix(HIDDEN_QUERY)).stem


def reason_of(error: OSError) -> str:
    """What the system says, without the path that it says it of."""
    return error.strerror or type(error).__name__
