"""What the tools write is whole, or what was there before."""

from __future__ import annotations

import os
import re
from functools import partial

import pytest
from PIL import Image

from headless.host.find import PACK_ROOT
from pfv_mepa.tools.files import save_atomically, save_text

TOOLS = sorted((PACK_ROOT / "tools").glob("*.py"))


def test_a_picture_and_a_text_are_written_into_a_folder_that_is_made(tmp_path):
    picture = Image.new("RGB", (8, 8), (200, 0, 0))
    save_atomically(tmp_path / "new" / "picture.jpg", partial(picture.save, quality=92))
    save_text(tmp_path / "new" / "text.md", "an ä")
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["picture.jpg", "text.md"]
    with Image.open(tmp_path / "new" / "picture.jpg") as written:
        assert written.format == "JPEG"
    assert (tmp_path / "new" / "text.md").read_text(encoding="utf-8") == "an ä"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_is_for_those_whom_new_files_are_for(tmp_path, umask):
    before = os.umask(umask)
    try:
        save_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    save_text(tmp_path / "file", "old")

    def half(file):
        file.write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        save_atomically(tmp_path / "file", half)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]


@pytest.mark.parametrize("file", [file for file in TOOLS if file.name != "files.py"], ids=lambda file: file.stem)
def test_no_tool_writes_in_another_way(file):
    assert not re.findall(r"\.(?:write_text|write_bytes|save)\(", file.read_text(encoding="utf-8"))
