"""Where the samples of a data set are: one number a sample, written once beside them and memory-mapped by every process.

An index is a safetensors file. Its numbers are the places where samples begin in one long stretch of bytes: for shards the
.tar files one after the other, for a folder the names of its images, which the index holds too. It knows from what it was
made: names, sizes and times of the shards, or of the folders, whose times change with every file that comes, goes or is
renamed. Where any of that has changed, it is made anew.

webdataset has such an index, `wids`, up to 0.2.111; it is not used here: it reads the headers of a whole shard whenever it
opens one and keeps them as objects in every process, which samples in random order make it do all the time; it takes names
of at most 100 characters; and webdataset 1.0 has dropped it.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files import NotWrittenError, save_atomically
from .data import DataError
from .parts import Names

FOLDER = ".pfv_index"
FORMAT = "3"
SETTLED = 2_000_000_000  # nanoseconds; a change within one tick of a file system's clock does not show in its times


@dataclass(frozen=True)
class Source:
    """A shard or a folder, as it was when its samples were looked for.

    Attributes:
        name: relative to the data set's place.
        changed: nanoseconds since 1970, from the file system.
        size: bytes.
    """

    name: str
    changed: int
    size: int

    @classmethod
    def of(cls, root: Path, name: str) -> Source:
        """As it is now."""
        found = (root / name).stat()
        return cls(name, found.st_mtime_ns, found.st_size)


@dataclass(frozen=True)
class Scan:
    """What was found in a data set.

    Attributes:
        sources: what it was found in.
        bounds: (N + 1,) where each sample begins, and where the last one ends.
        names: bytes of a folder's names; empty for shards.
        digest: equal for equal names of samples in the same order.
        without: samples that lack what may lie beside them, by its kind.
    """

    sources: Sequence[Source]
    bounds: NDArray[np.int64]
    names: bytes
    digest: str
    without: Mapping[str, Names]


class Index:
    """An index, open. A pickled one is its file's name: whoever unpickles it maps the file for itself.

    Args:
        file: of the index.
        digest: what it must hold; empty = anything.

    Raises:
        DataError: there is none, or one of another data set.
    """

    def __init__(self, file: Path, digest: str = "") -> None:
        self.file = file
        try:
            self._content = safe_open(file, "np")
            about = self._content.metadata()
            self.digest: str = about["digest"]
            self.sources = [Source(*source) for source in json.loads(about["sources"])]
            self.without = {kind: Names(**names) for kind, names in json.loads(about["without"]).items()}
            self.begun, known = int(about["begun"]), about["format"] == FORMAT
            self._bounds, self._names = self._content.get_slice("bounds"), self._content.get_slice("names")
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"{file} is no index of a data set ({error}): delete it") from error
        if not known or (digest and digest != self.digest):
            raise DataError(f"{file} is not the index that this run began with: the data set changed, start again")
        self.starts = [0, *accumulate(source.size for source in self.sources)]

    def __getstate__(self) -> tuple[Path, str]:
        return self.file, self.digest

    def __setstate__(self, state: tuple[Path, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __len__(self) -> int:
        return int(self._bounds.get_shape()[0]) - 1

    def bounds(self, number: int) -> tuple[int, int]:
        """Where a sample begins and ends."""
        start, end = self._bounds[number : number + 2].tolist()
        return start, end

    def name(self, number: int) -> str:
        """Of an image in a folder."""
        start, end = self.bounds(number)
        return bytes(self._names[start:end]).decode("utf-8", "surrogateescape")

    def holds_for(self, root: Path) -> bool:
        """Whether what it was made from is as it was."""
        try:
            unchanged = all(Source.of(root, source.name) == source for source in self.sources)
        except OSError:
            return False
        return unchanged and all(source.changed < self.begun - SETTLED for source in self.sources)


def write_index(scan: Scan, file: Path, begun: int) -> None:
    """Write an index; others see the old one or the whole new one.

    Raises:
        DataError: it cannot be written.
    """
    about: dict[str, Any] = {
        "format": FORMAT,
        "digest": scan.digest,
        "begun": str(begun),
        "sources": json.dumps([[source.name, source.changed, source.size] for source in scan.sources]),
        "without": json.dumps({kind: asdict(names) for kind, names in scan.without.items()}),
    }
    tensors: dict[str, NDArray[Any]] = {"bounds": scan.bounds, "names": np.frombuffer(scan.names, np.uint8)}

    def write(unfinished: Path) -> None:
        save_file(tensors, unfinished, about)

    try:
        save_atomically(file, write)
    except (OSError, NotWrittenError) as error:
        raise DataError(
            f"the index of the data cannot be written: {error}. Give another folder for it (--index)"
        ) from error


def is_settled(folder: Path) -> bool:
    """Whether a folder changed long enough ago for any later change to show in its time; or its clock is ahead of ours."""
    return not 0 <= now() - folder.stat().st_mtime_ns <= SETTLED


def now() -> int:
    """Nanoseconds since 1970: taken before anything is looked for."""
    return time.time_ns()


def digest_of(names: Sequence[str]) -> str:
    """A short name for a list of names."""
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:16]
