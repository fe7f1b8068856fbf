"""Where a catalogue's pictures may come from: a folder, and the hosts and buckets that are allowed by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from aiohttp.abc import AbstractResolver

from .addresses import WEB, Address, AddressError, AllowList, parsed, scheme_of
from .safe_paths import UnsafePathError, file_in, shown
from .source import MAX_BYTES, LocalFile, Source, SourceError, reason_of
from .stores import STORES, StoreFile, Stores
from .web import LONGEST_PAUSE, TOTAL_SECONDS, Web


@dataclass(frozen=True)
class WebFile:
    """A picture at an address of the web.

    Attributes:
        web: what reads it.
        address: of the picture.
    """

    web: Web
    address: Address

    @property
    def name(self) -> str:
        """As it stands in the catalogue, without its query."""
        return self.address.name

    @property
    def key(self) -> str:
        """Of the address, with its query."""
        return self.address.key

    def version(self) -> str:
        """A strong ETag, or length and time of the last change; "" where the server says neither."""
        return self.web.version(self.address)

    def read(self) -> bytes:
        """All of it."""
        return self.web.read(self.address)


class Places:
    """Finds the source of what stands in the catalogue; safe to use from many threads, as its sources are.

    Args:
        folder: relative paths are read below it.
        allowed: hosts and buckets, or parts of them, that may be read, as in `https://cdn.example.com`, `s3://bucket/prefix`.
        private: whether a host may have an address of an own network.
        max_bytes: of one picture.
        packages: scheme -> the package that reads it through fsspec.
        resolver: of hosts' names; None = the system's.
        seconds: for one attempt to read an address.
        pause: the longest between two attempts, in seconds.

    Raises:
        ValueError: an entry of `allowed` is no host or bucket.
    """

    def __init__(
        self,
        folder: Path,
        allowed: Sequence[str] = (),
        private: bool = False,
        max_bytes: int = MAX_BYTES,
        *,
        packages: Mapping[str, str] = STORES,
        resolver: AbstractResolver | None = None,
        seconds: float = TOTAL_SECONDS,
        pause: float = LONGEST_PAUSE,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._stores = Stores(packages)
        self._allowed = AllowList(allowed, (*WEB, *self._stores.schemes))
        self._web = Web(self._allowed, private, max_bytes, resolver, seconds, pause)

    def __enter__(self) -> Places:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def source(self, text: str) -> Source:
        """What a cell names: a path below the folder, or an address. Nothing is asked yet but whether a file is there.

        Raises:
            SourceError: it may not be read, or there is no such file.
        """
        try:
            if scheme_of(text) is None:
                return LocalFile(file_in(self._folder, text), text, self._max_bytes)
            address = parsed(text)
            self._allowed.check(address)
        except (UnsafePathError, AddressError, FileNotFoundError) as error:
            raise SourceError(str(error)) from error
        except OSError as error:  # whose words repeat the text
            raise SourceError(f"{shown(text)!r} cannot be read: {reason_of(error)}") from error
        if address.url is not None:
            return WebFile(self._web, address)
        return StoreFile(self._stores, address, self._max_bytes, self._seconds)

    def close(self) -> None:
        """Close the connections that are kept."""
        self._web.close()
