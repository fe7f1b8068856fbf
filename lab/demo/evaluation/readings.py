"""A run's readings in one small file, so that another machine adds to them: settings and values, without the pictures."""

from __future__ import annotations

import zipfile
from pathlib import Path

from ...files import save_atomically, save_text

RUN = "run.json"
RESULTS = "chunks"
_ANY_TIME = (1980, 1, 1, 0, 0, 0)  # the same readings are the same file whenever they are packed


def pack(out: Path, file: Path) -> None:
    """Write the settings and all values that a folder of results holds into a zip archive."""
    members = [out / RUN, *sorted((out / RESULTS).rglob("*.json"))]

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


def unpack(file: Path, out: Path) -> None:
    """Put the values that were packed into a folder of results; those that it has stay."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            place = out / name
            if name.startswith(f"{RESULTS}/") and ".." not in place.parts and not place.is_file():
                save_text(place, archive.read(name).decode())
