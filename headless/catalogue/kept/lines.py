"""What a line of the manifest says of its checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def all_checks(line: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and result of every check of a line of the manifest; earlier versions had those of all files in one place."""
    yield from line.get("checks", {}).items()
    for file in line["files"]:
        yield from file.get("checks", {}).items()


def passed(line: Mapping[str, Any]) -> bool:
    """Whether nothing that was checked failed."""
    return all(check["passed"] for _, check in all_checks(line))
