"""What samples can lie in, and a folder of pictures, as an index finds samples in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from .data import DataError
from .index import FOLDER, Index, Scan, Source, digest_of
from .parts import BESIDE, Inventory, Parts, beside, groups, texts_of
from .shards import Shards


class Store(Protocol):
    """Where samples lie."""

    @property
    def place(self) -> str:
        """What messages call it."""

    @property
    def root(self) -> Path:
        """What the sources of its index are relative to."""

    def is_indexed_by(self, index: Index) -> bool:
        """Whether an index is of all that is there now."""

    def scan(self) -> Scan:
        """Look for the samples. DataError where they cannot be used."""

    def parts(self, index: Index, number: int) -> Parts:
        """Read a sample. DataError where it is broken."""


@dataclass(frozen=True)
class PictureFolder:
    """Every image in a folder and the folders in it, by name."""

    root: Path

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.root)

    def is_indexed_by(self, index: Index) -> bool:
        """The times of all folders tell: what comes or goes, a folder too, changes the time of the one it lies in."""
        return index.holds_for(self.root)

    def scan(self) -> Scan:
        """DataError where there is no image, images without a caption (the first are named), a folder that is a link."""
        inventory, sources, images = Inventory(self.place), [], []
        for folder, inner, files in os.walk(self.root, onerror=_unreadable):
            inner[:] = sorted(name for name in inner if name != FOLDER)
            inside = Path(folder).relative_to(self.root)
            for name in inner:
                if (self.root / inside / name).is_symlink():
                    raise DataError(
                        f"{self.root / inside / name} is a link to a folder, which is not followed: put the folder itself "
                        "there, or take the link away"
                    )
            sources.append(Source.of(self.root, str(inside)))
            for together in groups(sorted(files)).values():
                image = inventory.image_of([(inside / file).as_posix() for file in together])
                if image is not None:
                    images.append(image)
        inventory.check()
        images.sort()
        names = [image.encode("utf-8", "surrogateescape") for image in images]
        bounds = np.fromiter(accumulate(map(len, names), initial=0), np.int64, len(names) + 1)
        return Scan(sources, bounds, b"".join(names), digest_of(images), inventory.without)

    def parts(self, index: Index, number: int) -> Parts:
        """The image, its caption and what lies beside it."""
        name = index.name(number)
        others = {kind: self.root / beside(name, kind) for kind in BESIDE}
        try:
            return Parts(
                name=f"{self.place}/{name}",
                image=(self.root / name).read_bytes(),
                texts=texts_of(name, lambda file: _content(self.root / file)),
                beside={kind: file.read_bytes() for kind, file in others.items() if file.is_file()},
            )
        except OSError as error:
            raise DataError(f"{self.place}/{name} cannot be read ({error})") from error


def _content(file: Path) -> bytes | None:
    return file.read_bytes() if file.is_file() else None


def store_at(place: Path) -> Store:
    """A .tar, a folder of .tar files, or a folder of images.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if place.suffix == ".tar":
        if not place.is_file():
            raise FileNotFoundError(f"no shard at {place}")
        return Shards(place.parent, (place.name,))
    if not place.is_dir():
        raise FileNotFoundError(f"no folder of training images at {place}")
    tars = sorted(file.name for file in place.glob("*.tar"))
    return Shards(place, tuple(tars)) if tars else PictureFolder(place)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read ({error}): make it readable, or take it away") from error
