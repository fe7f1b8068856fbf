"""A product or a reference of the catalogue, its mask in the alpha channel: decoded once, here, and uploaded as that PNG."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...pictures.door import PictureError, decoded_by, encode_png, open_picture
from ...pictures.files import kind_of
from ...pictures.masks import read_mask
from ..sources.source import Source

__all__ = ["EXTENSIONS", "Picture", "PictureError", "PictureIndex", "White", "open_ad", "read_picture"]

EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # of the kinds that a ComfyUI saves
KEPT_BYTES = 128_000_000  # of decoded pictures, and as much of encoded ones: many jobs, and many servers, share them
MOST_REMEMBERED = 1_000_000  # pictures; an address that is signed anew is another one every time
OPAQUE = 255

Bytes = NDArray[np.uint8]
White = Literal["opaque", "transparent"]
"""What a mask's white part becomes: a product `opaque`, what is hidden of a reference `transparent`."""


Held = TypeVar("Held", Bytes, bytes)
_WORKING = threading.BoundedSemaphore(
    os.cpu_count() or 1
)  # pictures of many megapixels that are decoded or encoded at once


def _num_bytes(held: Bytes | bytes) -> int:
    return held.nbytes if isinstance(held, np.ndarray) else len(held)


class Kept(Generic[Held]):
    """What was made last of pictures, by the hash of their pixels; threads may share it.

    Args:
        most: bytes that are held at once; what alone has more is not held.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most = most
        self._guard = threading.Lock()
        self._held: OrderedDict[str, Held] = OrderedDict()
        self._making = [threading.Lock() for _ in range(16)]

    def get(self, sha256: str) -> Held | None:
        """What is held of a picture."""
        with self._guard:
            found = self._held.get(sha256)
            if found is not None:
                self._held.move_to_end(sha256)
            return found

    def put(self, sha256: str, held: Held) -> None:
        """Hold it, in place of what was not asked for for longest."""
        with self._guard:
            self._held[sha256] = held
            self._held.move_to_end(sha256)
            while sum(map(_num_bytes, self._held.values())) > self._most:
                self._held.popitem(last=False)

    def made_once(self, sha256: str, make: Callable[[], Held]) -> Held:
        """What is held, else what `make` makes; while one thread makes it, others that need it wait."""
        with self._making[int(sha256[:1], 16)]:
            found = self.get(sha256)
            if found is None:
                with _WORKING:
                    found = make()
                self.put(sha256, found)
            return found


@dataclass(frozen=True)
class Picture:
    """A picture of the catalogue.

    Attributes:
        source: where it comes from.
        size: width and height as decoded.
        sha256: of the pixels that are uploaded: width, height and RGBA values, the mask included.
        converted: what the file, or its mask's, was and is not any more, in words.
        mask: a second file that marks a part with white; None = the file's own alpha counts.
        white: what the marked part becomes.
        num_opaque: pixels whose alpha is 255.
        num_transparent: pixels whose alpha is 0.
        versions: of the source and of the mask, when they were read.
        index: remembers it, and holds its pixels and its PNG: many jobs share the ones, many servers are sent the other.
    """

    source: Source = field(compare=False)
    size: tuple[int, int]
    sha256: str
    converted: tuple[str, ...]
    mask: Source | None = field(compare=False)
    white: White
    num_opaque: int
    num_transparent: int
    versions: tuple[str, str] = field(compare=False, repr=False)
    index: PictureIndex = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        """As it stands in the catalogue."""
        return self.source.name

    @property
    def upload_name(self) -> str:
        """A name by content: equal pictures share a file on the server, different ones never do."""
        return f"{self.sha256[:40]}.png"

    @property
    def is_opaque(self) -> bool:
        """Whether every pixel is opaque: as a product it is no cut-out."""
        return self.num_opaque == self.size[0] * self.size[1]

    def content(self) -> bytes:
        """The PNG to upload.

        Raises:
            PictureError: the file is not what was hashed any more.
            SourceError: it cannot be read any more.
        """
        unchanged = "" not in _known(self.versions, self.mask) and _versions(self.source, self.mask) == self.versions
        held = self.index.encoded.get(self.sha256) if unchanged else None
        if held is not None:
            return held
        pixels = self._rgba() if unchanged else self._read_again()
        return self.index.encoded.made_once(self.sha256, lambda: encode_png(pixels))

    def pixels(self) -> tuple[Bytes, Bytes]:
        """What was uploaded: RGB (H, W, 3), and alpha (H, W), 255 = opaque.

        Raises:
            PictureError: the file is not what was hashed any more, and its pixels are not held any more.
            SourceError: it cannot be read any more.
        """
        rgba = self._rgba()
        return rgba[..., :3], rgba[..., 3]

    def _rgba(self) -> Bytes:
        return self.index.kept.made_once(self.sha256, self._read_again)

    def _read_again(self) -> Bytes:
        pixels, _ = _decoded(self.source, self.mask, self.white)
        if _sha256(pixels) != self.sha256:
            self.index.forget(self)  # also where what was remembered is wrong: the next run reads it anew
            raise PictureError(f"{self.name!r} or its mask changed while the command ran: run it again")
        return pixels


class PictureIndex:
    """Which pictures were read before, and what they were: a second run need not decode them again.

    A picture is known by all of its path or address, of which nothing is written, by its version, by those of its mask, and by
    what decoded it. Threads may share it.

    Args:
        file: in a folder that no other process writes to, kept from run to run, begun anew where it is broken; None = in memory.
    """

    def __init__(self, file: Path | None) -> None:
        self.kept: Kept[Bytes] = Kept()
        self.encoded: Kept[bytes] = Kept()
        self._guard = threading.Lock()
        try:
            self._table = _table(file)
        except sqlite3.DatabaseError:
            if file is None:
                raise
            file.unlink()
            self._table = _table(file)

    def find(self, source: Source, mask: Source | None, white: White, versions: tuple[str, str]) -> Picture | None:
        """A picture that was remembered; None where there is none, or where a version is unknown."""
        if "" in _known(versions, mask):
            return None
        key = _key(source, mask, white, versions)
        with self._guard:
            found = self._table.execute("SELECT * FROM pictures WHERE key = ?", (key,)).fetchone()
        if found is None:
            return None
        _, sha256, width, height, converted, num_opaque, num_transparent = found
        said = tuple(json.loads(converted))
        return Picture(
            source,
            (width, height),
            sha256.hex(),
            said,
            mask,
            white,
            num_opaque,
            num_transparent,
            versions,
            self,
        )

    def remember(self, picture: Picture) -> None:
        """Keep what a picture is for later runs."""
        if "" in _known(picture.versions, picture.mask):
            return
        converted = json.dumps(picture.converted)
        counts = (picture.num_opaque, picture.num_transparent)
        row = (_key_of(picture), bytes.fromhex(picture.sha256), *picture.size, converted, *counts)
        with self._guard:
            self._table.execute("INSERT OR REPLACE INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def forget(self, picture: Picture) -> None:
        """Have a picture read anew by whoever asks for it next."""
        with self._guard:
            self._table.execute("DELETE FROM pictures WHERE key = ?", (_key_of(picture),))

    def close(self) -> None:
        """Let go of the file."""
        self._table.close()


def read_picture(source: Source, mask: Source | None, white: White, index: PictureIndex) -> Picture:
    """Describe a picture; it is decoded once, and where the index knows it not at all.

    Args:
        source: the picture.
        mask: a file that marks a part with white; None = the picture's own alpha counts.
        white: what the marked part becomes.
        index: remembers it.

    Raises:
        PictureError: it is not read, the mask has another size, marks nothing or everything, or says two things.
        SourceError: it cannot be read.
    """
    versions = _versions(source, mask)
    known = index.find(source, mask, white, versions)
    if known is not None:
        return known
    with _WORKING:
        pixels, converted = _decoded(source, mask, white)
    alpha, size = pixels[..., 3], (pixels.shape[1], pixels.shape[0])
    counts = int(np.count_nonzero(alpha == OPAQUE)), int(np.count_nonzero(alpha == 0))
    picture = Picture(source, size, _sha256(pixels), converted, mask, white, *counts, versions, index)
    index.kept.put(picture.sha256, pixels)
    index.remember(picture)
    return picture


def open_ad(content: bytes, name: str) -> tuple[str, Bytes]:
    """Kind, one of EXTENSIONS, and RGB (H, W, 3) of a downloaded picture.

    Args:
        content: of the file.
        name: for messages.

    Raises:
        PictureError: it is broken, or of another kind than EXTENSIONS.
    """
    kind = kind_of(content, name)
    if kind not in EXTENSIONS:
        raise PictureError(f"{name} is a {kind} file, expected an ad as {', '.join(EXTENSIONS)}")
    return kind, open_picture(content, name).pixels[..., :3]


def _decoded(source: Source, mask: Source | None, white: White) -> tuple[Bytes, tuple[str, ...]]:
    """(H, W, 4) as it is uploaded, and what was converted."""
    picture = open_picture(source.read(), repr(source.name))
    if mask is None:
        return picture.pixels, picture.converted
    marked, said = read_mask(mask.read(), repr(mask.name), picture.size, repr(source.name))
    pixels = picture.pixels.copy()
    pixels[..., 3] = marked if white == "opaque" else OPAQUE - marked
    pixels.setflags(write=False)
    own = () if bool((picture.pixels[..., 3] == OPAQUE).all()) else ("its own transparency gave way to the mask",)
    return pixels, (*picture.converted, *own, *(f"the mask: {words}" for words in said))


def _sha256(pixels: Bytes) -> str:
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _versions(source: Source, mask: Source | None) -> tuple[str, str]:
    return source.version(), mask.version() if mask is not None else ""


def _known(versions: tuple[str, str], mask: Source | None) -> tuple[str, ...]:
    """The versions of files that there are; "" among them is one that is not known without reading."""
    return versions if mask is not None else versions[:1]


def _key(source: Source, mask: Source | None, white: White, versions: tuple[str, str]) -> bytes:
    masked = (mask.key, white) if mask is not None else None
    return hashlib.sha256(json.dumps([decoded_by(), source.key, masked, versions]).encode()).digest()


def _key_of(picture: Picture) -> bytes:
    return _key(picture.source, picture.mask, picture.white, picture.versions)


def _table(file: Path | None) -> sqlite3.Connection:
    """The table, checked.

    Raises:
        sqlite3.DatabaseError: the file is broken, or another program's.
    """
    table = sqlite3.connect(file or ":memory:", isolation_level=None, check_same_thread=False)
    try:
        table.execute(
            "PRAGMA journal_mode = TRUNCATE"
        )  # a write-ahead log wants shared memory, which a network drive has not
        table.execute("PRAGMA synchronous = OFF")  # what a power cut breaks is found by the check below, and made again
        if table.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("broken")
        table.execute(
            "CREATE TABLE IF NOT EXISTS pictures (key BLOB PRIMARY KEY, sha256 BLOB, width INTEGER, height INTEGER, "
            "converted TEXT, num_opaque INTEGER, num_transparent INTEGER) WITHOUT ROWID"
        )
        if table.execute("SELECT count(*) FROM pictures").fetchone()[0] > MOST_REMEMBERED:
            table.execute("DELETE FROM pictures")
    except sqlite3.DatabaseError:
        table.close()
        raise
    return table
