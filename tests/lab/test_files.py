"""Files that are whole or not there, for whoever may read new files."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from lab.files import NotWrittenError, save_atomically, save_text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_file_is_for_those_whom_new_files_are_for(tmp_path, umask):
    """safetensors makes its own for the owner alone: another's ComfyUI, or training, could not read it."""
    before = os.umask(umask)
    try:
        save_atomically(tmp_path / "one", lambda file: save_file({"values": torch.zeros(1)}, file))
        save_text(tmp_path / "other", "text")
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("one", "other")} == {0o666 & ~umask}


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    save_text(tmp_path / "file", "old")

    def half(file):
        file.write_text("half")
        raise OSError("full")

    with pytest.raises(NotWrittenError, match=r"full\. .*is as it was before"):
        save_atomically(tmp_path / "file", half)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]
