"""Leaves out, and says so, what compares with packages that are not installed; the maths is tested without them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

# File -> the packages it compares pfv_core with.
COMPARES_WITH = {"test_open_clip_vit.py": ("open_clip",), "test_against_diffusers.py": ("diffusers",)}

_absent = {
    file: [package for package in packages if find_spec(package) is None] for file, packages in COMPARES_WITH.items()
}
collect_ignore = [file for file, packages in _absent.items() if packages]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files that were left out."""
    for file in collect_ignore:
        terminalreporter.write_line(f"{file} was left out: {', '.join(_absent[file])} is not installed")
