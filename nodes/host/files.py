"""Files that the host finds by a folder's and a file's name."""

from __future__ import annotations

from pathlib import Path

import folder_paths

Fingerprint = tuple[str, int, int]
"""Name, bytes, and time of change in nanoseconds."""


def fingerprint(folder: str, name: str) -> Fingerprint:
    """What tells a file from one that took its place, for a node's `fingerprint_inputs`.

    Args:
        folder: the host's name of the kind of files, such as ipadapter.
        name: the file's, as the host lists it.

    Returns:
        Its name, size and time of change; the name and zeros where the host finds none.
    """
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        return name, 0, 0
    stat = Path(path).stat()
    return name, stat.st_size, stat.st_mtime_ns
