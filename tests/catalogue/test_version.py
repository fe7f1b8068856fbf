"""The manifest says which version of this project wrote it."""

from __future__ import annotations

from pathlib import Path

import tomli

from headless.catalogue import __version__

ROOT = Path(__file__).resolve().parents[2]


def test_the_version_is_the_projects():
    project = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert __version__ == project["version"]
