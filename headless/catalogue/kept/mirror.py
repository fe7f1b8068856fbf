"""A second place for what was made: a bucket, or a folder that is a file server's."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import posixpath
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..sources.addresses import AddressError, parsed, scheme_of
from ..sources.safe_paths import check_relative, shown
from ..sources.stores import STORES, StoreError, Stores, said

PLACES = {**STORES, "file": "fsspec"}  # scheme -> the package that writes it
RENAMING = ("file",)  # an object of a bucket is there when it is whole, a file while it is being written
PROBE = ".pfv-catalogue"
BLOCK = 1 << 20  # bytes
_PROBE_CONTENT = b"pfv-catalogue looked whether it can write here.\n"


class MirrorError(RuntimeError):
    """The place cannot be used, or does not hold what was put there; the message says why."""


class Mirror:
    """A place that files are copied to. It remembers nothing; it can be used from many threads.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///folder`. Credentials are what the
            scheme's package finds in the environment.
        packages: scheme -> the package that writes it through fsspec.

    Attributes:
        name: the place, written in one way.

    Raises:
        MirrorError: it is no such place, or the package that it needs is missing.
    """

    def __init__(self, url: str, packages: Mapping[str, str] = PLACES) -> None:
        self._scheme = scheme_of(url) or ""
        if self._scheme not in packages:
            schemes = ", ".join(f"{scheme}://" for scheme in packages)
            raise MirrorError(f"{shown(url)!r}: expected a place such as s3://bucket/prefix; known are {schemes}")
        if "?" in url or "#" in url:
            raise MirrorError(f"{shown(url)!r}: expected a place without ? and #; sign-ins come from the environment")
        try:
            self.name = _local(url) if self._scheme == "file" else parsed(url).text.rstrip("/")
            self._store = Stores(packages).opened(self._scheme)
        except (AddressError, StoreError) as error:
            raise MirrorError(str(error)) from error

    def check(self) -> None:
        """Write and remove a small file; where removing is not allowed, it stays.

        Raises:
            MirrorError: the place cannot be written.
        """
        place = f"{self.name}/{PROBE}"
        with self._said(PROBE):
            self._make_folder(place)
            self._store.pipe_file(place, _PROBE_CONTENT)
            self._check_size(place, len(_PROBE_CONTENT))
        with contextlib.suppress(Exception):  # who may write need not be allowed to remove
            self._store.rm_file(place)

    def put(self, name: str, file: Path) -> None:
        """Copy a file there, in the place of one that has its name. Doing it again changes nothing.

        Args:
            name: relative, with forward slashes.
            file: on this machine; where it changes meanwhile, what arrives is refused.

        Raises:
            MirrorError: it could not be written, or what is there is not what was sent.
            UnsafePathError: the name is none.
        """
        check_relative(name)
        place = f"{self.name}/{name}"
        with self._said(name):
            if self._scheme in RENAMING:
                self._put_renamed(place, file)
            else:
                self._put(place, file)

    def _put_renamed(self, place: str, file: Path) -> None:
        temporary = f"{posixpath.dirname(place)}/.{uuid.uuid4().hex}.part"
        self._make_folder(place)
        try:
            self._put(temporary, file)
            self._store.mv(temporary, place)
        except BaseException:
            with contextlib.suppress(Exception):  # the error that is under way says more
                self._store.rm_file(temporary)
            raise

    def _put(self, place: str, file: Path) -> None:
        size = file.stat().st_size
        self._store.put_file(str(file), place)
        sent = _md5(self._check_size(place, size))
        if sent is not None and sent != _md5_of(file):
            raise MirrorError(f"{place!r} has another MD5 there than {file}: put it there again")

    def _make_folder(self, place: str) -> None:
        if self._scheme in RENAMING:  # buckets have no folders, and who may write objects may not make buckets
            self._store.makedirs(posixpath.dirname(place), exist_ok=True)

    def _check_size(self, place: str, size: int) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._store.info(place)
        if found["size"] != size:
            raise MirrorError(f"{place!r} has {found['size']} bytes there, {size} were sent: put it there again")
        return found

    @contextmanager
    def _said(self, name: str) -> Iterator[None]:
        """Whatever goes wrong, as one error that names the file and the place."""
        try:
            yield
        except MirrorError:
            raise
        except Exception as error:
            raise MirrorError(f"{self.name}/{name} could not be written or looked at: {said(error)}") from error


def _local(url: str) -> str:
    path = url[len("file://") :].rstrip("/")
    if not Path(path).is_absolute():
        raise MirrorError(f"{shown(url)!r}: expected the whole path of a folder, as in file:///mnt/ads")
    return Path(path).as_posix()


def _md5(found: Mapping[str, Any]) -> bytes | None:
    """What the store has computed itself. An ETag of S3 is no MD5 where it encrypts, and does not say whether it does."""
    if isinstance(text := found.get("md5Hash"), str):  # Google
        return base64.b64decode(text)
    settings = found.get("content_settings")  # Azure
    digest = settings.get("content_md5") if isinstance(settings, Mapping) else None
    return bytes(digest) if digest else None


def _md5_of(file: Path) -> bytes:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
    return digest.digest()
