"""Where a picture's bytes come from: a file below the folder of pictures, or an address that may be read."""

from __future__ import annotations

from typing import Protocol


class SourceError(ValueError):
    """A picture's bytes cannot be had; the message names the place, without secrets, and says what to do."""


class Source(Protocol):
    """Something that has bytes.

    Attributes:
        name: as it stands in the catalogue, without secrets.
    """

    @property
    def name(self) -> str:
        """See above."""

    def version(self) -> str:
        """Changes whenever the bytes may have changed, without reading them: length and time, or what a server says.

        Raises:
            SourceError: there is nothing, or it may not be read.
        """

    def read(self) -> bytes:
        """All of it.

        Raises:
            SourceError: it cannot be read, or is larger than allowed.
        """
