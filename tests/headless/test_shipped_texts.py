"""What people read who installed the pack without its repository: nothing there sends them to what they have not."""

from __future__ import annotations

import ast
import re

import pytest

from headless.host.find import PACK_ROOT
from pfv_mepa.tests.support.archive import archive_files

ELSEWHERE = re.compile(r"docs/[a-z_]+\.md|python3? -m (?:lab|benchmarks|headless|tools|tests)\b")


def shipped(*suffixes: str) -> list[str]:
    """Without what the repository and the demo's files say of themselves."""
    names = (file.as_posix() for file in archive_files(PACK_ROOT))
    return sorted(
        name for name in names if name.endswith(suffixes) and name.startswith(("nodes/", "pfv_core/", "web/"))
    )


def paragraphs_of(name: str) -> list[str]:
    """Of a page those between empty lines, and the rows of its tables; of a module its texts, which are not its comments."""
    text = (PACK_ROOT / name).read_text(encoding="utf-8")
    if name.endswith(".md"):
        return [
            row for block in text.split("\n\n") for row in (block.split("\n") if block.startswith("|") else [block])
        ]
    tree = ast.parse(text)
    parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(value.value) for value in node.values if isinstance(value, ast.Constant)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            found.append(node.value)
    return found


@pytest.mark.parametrize("name", [*shipped(".md"), *shipped(".py")])
def test_what_is_in_the_repository_alone_is_said_to_be_there(name):
    for paragraph in paragraphs_of(name):
        assert not ELSEWHERE.search(paragraph) or "repository" in paragraph, paragraph
