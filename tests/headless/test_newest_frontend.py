"""A newer page is installed once, into a folder of its own; where it cannot be, the reason is said."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from pfv_mepa.tests.support.newest_frontend import VERSION, FrontendNotInstalledError, newest_frontend

NAME = f"comfyui_frontend_package-{VERSION}"


@pytest.fixture
def only_this_folder(tmp_path, monkeypatch) -> Path:
    """The folder that pip takes packages from, in place of any index."""
    (tmp_path / "wheels").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


def write_wheel(folder: Path, page: str) -> None:
    metadata = f"Metadata-Version: 2.1\nName: comfyui_frontend_package\nVersion: {VERSION}\n"
    with zipfile.ZipFile(folder / f"{NAME}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"comfyui_frontend_package/static/{page}", "a page")
        archive.writestr(f"{NAME}.dist-info/METADATA", metadata)
        archive.writestr(f"{NAME}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{NAME}.dist-info/RECORD", "")


def test_it_is_installed_once(tmp_path, only_this_folder):
    write_wheel(only_this_folder, "index.html")
    page = newest_frontend(Path(sys.executable), tmp_path / "frontends")
    assert (page / "index.html").read_text() == "a page"
    assert newest_frontend(Path("no-python-is-asked"), tmp_path / "frontends") == page
    assert [folder.name for folder in (tmp_path / "frontends").iterdir()] == [VERSION]


def test_where_it_cannot_be_had_the_reason_is_said(tmp_path, only_this_folder):
    with pytest.raises(FrontendNotInstalledError, match=r"cannot be had: .*No matching distribution found"):
        newest_frontend(Path(sys.executable), tmp_path / "frontends")
    assert list((tmp_path / "frontends").iterdir()) == []


def test_a_package_without_a_page_is_none(tmp_path, only_this_folder):
    write_wheel(only_this_folder, "other.html")
    with pytest.raises(FrontendNotInstalledError, match="cannot be had"):
        newest_frontend(Path(sys.executable), tmp_path / "frontends")
