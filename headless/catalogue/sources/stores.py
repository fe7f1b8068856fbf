"""Buckets, read through fsspec: the same few calls whatever store it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import fsspec

from .addresses import Address
from .safe_paths import shown
from .source import SourceError, check_length, not_empty

STORES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}  # scheme -> the package that fsspec reads it with
TOTAL_SECONDS = 300.0  # for one object; each request has the package's own limit besides
BLOCK = 1 << 20  # bytes


class StoreError(ValueError):
    """A store cannot be used; the message says what to install or to set."""


class Stores:
    """File systems of fsspec, one for each scheme, used by all threads.

    Args:
        packages: scheme -> the package that it needs.
    """

    def __init__(self, packages: Mapping[str, str] = STORES) -> None:
        self._packages = dict(packages)
        self._opened: dict[str, Any] = {}
        self._guard = threading.Lock()

    @property
    def schemes(self) -> tuple[str, ...]:
        """That can be used."""
        return tuple(self._packages)

    def opened(self, scheme: str) -> Any:
        """The file system of a scheme. Credentials are what its package finds in the environment.

        Raises:
            StoreError: the package is missing, or finds nothing to sign in with.
        """
        with self._guard:
            if scheme not in self._opened:
                self._opened[scheme] = self._made(scheme)
            return self._opened[scheme]

    def _made(self, scheme: str) -> Any:
        package = self._packages[scheme]
        try:  # one for all threads, and never what a listing said some time ago
            return fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(f"{scheme}:// needs the package {package}: pip install {package}") from error
        except Exception as error:
            raise StoreError(f"{scheme}:// cannot be used by {package}: {said(error)}") from error


class StoreFile:
    """An object in a bucket.

    Args:
        stores: that are open.
        address: of the object.
        max_bytes: a larger one is refused.
        seconds: it must have come by then.
    """

    def __init__(self, stores: Stores, address: Address, max_bytes: int, seconds: float = TOTAL_SECONDS) -> None:
        self._stores = stores
        self._address = address
        self._max_bytes = max_bytes
        self._seconds = seconds

    @property
    def name(self) -> str:
        """As it stands in the catalogue."""
        return self._address.name

    @property
    def key(self) -> str:
        """Of the address."""
        return self._address.key

    def version(self) -> str:
        """What the store says of it: an ETag, or length and time of the last change."""
        with self._store() as store:
            found = store.info(self._address.text)
            if tag := found.get("ETag") or found.get("etag"):
                return f"etag {tag}"
            try:
                return f"{found['size']} {store.modified(self._address.text)}"
            except NotImplementedError:
                return ""

    def read(self) -> bytes:
        """All of it."""
        until = time.monotonic() + self._seconds
        found = bytearray()
        with self._store() as store, store.open(self._address.text, "rb") as content:
            while block := content.read(min(BLOCK, self._max_bytes + 1 - len(found))):
                found += block
                check_length(self.name, len(found), self._max_bytes)
                if time.monotonic() > until:
                    raise SourceError(f"{self.name!r} was not sent within {self._seconds:g} s")
        return not_empty(self.name, bytes(found))  # a folder of a bucket reads as nothing

    @contextmanager
    def _store(self) -> Iterator[Any]:
        """The store, whose errors say what to do about this object."""
        try:
            yield self._stores.opened(self._address.scheme)
        except (SourceError, StoreError) as error:
            raise SourceError(str(error)) from error
        except FileNotFoundError as error:
            raise SourceError(f"{self.name!r} is not there") from error
        except PermissionError as error:
            raise SourceError(f"{self.name!r} may not be read: {said(error)}") from error
        except Exception as error:
            raise SourceError(f"{self.name!r} cannot be read: {said(error)}") from error


def said(error: Exception) -> str:
    """An error of a package in one line, its addresses as they may be shown."""
    line = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__} {' '.join(map(shown, line.split(' ')))[:200]}".strip()
