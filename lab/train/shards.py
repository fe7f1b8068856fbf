"""Webdataset shards, as an index finds samples in them: uncompressed .tar files in which the files of a sample stand together."""

from __future__ import annotations

import io
import tarfile
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import DataError
from .index import Index, Scan, Source, digest_of
from .parts import BESIDE, Inventory, Parts, beside, stem, texts_of

BLOCK = 512  # of a .tar, bytes


@dataclass(frozen=True)
class Shards:
    """Every image in shards, in the order in which it stands there.

    Attributes:
        root: the folder that holds them.
        names: of the files.
    """

    root: Path
    names: tuple[str, ...]

    @property
    def place(self) -> str:
        """The folder, or the one shard."""
        return str(self.root / self.names[0] if len(self.names) == 1 else self.root)

    def is_indexed_by(self, index: Index) -> bool:
        """The shards' names, times and sizes tell."""
        return tuple(source.name for source in index.sources) == self.names and index.holds_for(self.root)

    def scan(self) -> Scan:
        """DataError for a file that is no .tar, where there is no image, or images without a caption."""
        inventory, bounds, images = Inventory(self.place), array("q"), list[str]()
        sources = [Source.of(self.root, name) for name in self.names]
        start = 0
        for source in sources:
            for offset, files in _samples_of_shard(self.root / source.name):
                image = inventory.image_of(files)
                if image is not None:
                    bounds.append(start + offset)
                    images.append(f"{source.name}/{image}")
            start += source.size
        inventory.check()
        bounds.append(start)
        return Scan(sources, np.array(bounds, np.int64), b"", digest_of(images), inventory.without)

    def parts(self, index: Index, number: int) -> Parts:
        """The image, its caption and what lies beside it, in one read."""
        start, end = index.bounds(number)
        shard = bisect_right(index.starts, start) - 1
        name, offset = index.sources[shard].name, start - index.starts[shard]
        try:
            with (self.root / name).open("rb") as file:
                file.seek(offset)
                content = file.read(min(end, index.starts[shard + 1]) - start)  # the next may be in the next shard
            with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
                found = {member.name.removeprefix("./"): archive.extractfile(member) for member in archive}
                image = Inventory(name).image_of(list(found))
                contents = {file: stream.read() for file, stream in found.items() if stream is not None}
        except (tarfile.TarError, OSError) as error:
            raise DataError(f"sample {number} in {self.root / name} cannot be read ({error}): write it anew") from error
        if image is None:
            raise DataError(f"{self.root / name} holds no image at byte {offset}: it changed while it was read")
        others = {kind: contents[part] for kind in BESIDE if (part := beside(image, kind)) in contents}
        return Parts(f"{name}/{image}", contents[image], texts_of(image, contents.get), others)


def _samples_of_shard(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Where the files of each stem begin, and their names.

    Raises:
        DataError: no whole .tar, or files of a stem that stand apart.
    """
    seen: set[str] = set()
    begin, together = 0, list[str]()
    for offset, name in _members(file):
        if together and stem(name) != stem(together[0]):
            yield begin, together
            together = []
        if not together:
            begin = offset
            if stem(name) in seen:
                raise DataError(
                    f"in {file} the files of {stem(name)} stand apart: webdataset shards keep the files of a sample together. "
                    f"Write it anew, for example by tar --sort=name -cf {file.name} FOLDER"
                )
            seen.add(stem(name))
        together.append(name)
    if together:
        yield begin, together


def _members(file: Path) -> Iterator[tuple[int, str]]:
    """Where each file in a .tar begins, and its name."""
    try:
        with tarfile.open(file, "r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it keeps all that it has seen
                if member.isfile():
                    yield member.offset, member.name.removeprefix("./")
            if file.stat().st_size < archive.offset + BLOCK:
                raise tarfile.ReadError("its end is missing")  # tarfile takes a cut between two files as the end
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{file} is not a whole, uncompressed .tar ({error}): webdataset shards are") from error
