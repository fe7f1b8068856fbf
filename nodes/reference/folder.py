"""Where saved references lie, and what their files may be called."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from ...pfv_core.reference.file import SUFFIX

FOLDER = "pfv_references"
KEY_DIGITS = 16  # of the key, in the file's name
LONGEST_NAME = 100
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def register_folder() -> None:
    """Make the folders of saved references known to the host, the user's own paths first.

    References are saved into the first of them, which is the user's own where extra_model_paths.yaml names one.
    """
    paths, _ = folder_paths.folder_names_and_paths.get(FOLDER, ([], None))
    places = (folder_paths.get_output_directory(), folder_paths.get_input_directory(), folder_paths.models_dir)
    own = [str(Path(place) / FOLDER) for place in places]
    every = [*paths, *(path for path in own if path not in paths)]
    folder_paths.folder_names_and_paths[FOLDER] = (every, {SUFFIX})


def file_name(name: str, key: str) -> str:
    """File of a reference with this key.

    Raises:
        ValueError: a name that could mean another folder, or that some file system does not take.
    """
    if (
        not 1 <= len(name) <= LONGEST_NAME
        or name.startswith(".")
        or name != name.strip()
        or _FORBIDDEN.search(name)
        or _RESERVED.fullmatch(name)
    ):
        raise ValueError(
            f"name is {name!r}, expected 1 to {LONGEST_NAME} characters of a plain file name: no folders, none of "
            '< > : " / \\ | ? *, no dot at the beginning, no space around it'
        )
    return f"{name}_{key[:KEY_DIGITS]}{SUFFIX}"
