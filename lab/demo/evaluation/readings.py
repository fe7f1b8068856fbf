"""A run's readings in one small file, so that another machine adds to them: settings and values, without the pictures."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from ...files import save_atomically, save_text

RUN = "run.json"
RESULTS = "chunks"
NO_TRAINING = "none"  # identity of what takes no trained file
_ANY_TIME = (1980, 1, 1, 0, 0, 0)  # the same readings are the same file whenever they are packed


def pack(out: Path, file: Path, trained: Collection[str]) -> None:
    """Write the settings and the values that a folder of results holds into a zip archive.

    Args:
        out: the folder.
        file: the archive.
        trained: identities of the trained files whose values count; those of others, replaced by newer ones, are left out.
    """
    known = {*trained, NO_TRAINING}
    values = sorted((out / RESULTS).rglob("*.json"))
    members = [out / RUN, *(value for value in values if known.issuperset(value.parent.name.split("+")))]

    def write(unfinished: Path) -> None:
        with zipfile.ZipFile(unfinished, "w") as archive:
            for member in members:
                name = zipfile.ZipInfo(member.relative_to(out).as_posix(), _ANY_TIME)
                name.external_attr = 0o644 << 16
                archive.writestr(name, member.read_bytes(), zipfile.ZIP_DEFLATED, 9)

    save_atomically(file, write)


def settings_in(file: Path) -> str:
    """The settings, as JSON, of what was packed."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(RUN).decode()


def unpack(file: Path, out: Path, left_out: Collection[str] = (), plan: str = "") -> int:
    """Put the values that were packed into a folder of results; those that it has stay.

    Args:
        file, out: from and to.
        left_out: names of conditions or ways whose values are not taken.
        plan: whose values are taken, where several plans' are packed: which of the others' are to be left out, they know.

    Returns:
        How many were left out.
    """
    count = 0
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            parts, place = PurePosixPath(name).parts, out / name
            if parts[0] != RESULTS or ".." in parts or (plan and parts[1] != plan):
                continue
            if parts[-3] in left_out:
                count += 1
            elif not place.is_file():
                save_text(place, archive.read(name).decode())
    return count
