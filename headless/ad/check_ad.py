"""What a saved ad says of itself: the workflow that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from ..server.client import Prompt


def embedded_prompt(file: Path) -> Prompt | None:
    """The API-format workflow that the host wrote into a PNG, or None when there is none."""
    with Image.open(file, formats=("PNG",)) as image:
        text: Any = image.info.get("prompt")
    return json.loads(text) if text else None


def same_workflow(one: Prompt, other: Prompt) -> bool:
    """Whether two workflows have the same nodes and inputs; the host adds marks of its own to one that it runs."""
    return _essence(one) == _essence(other)


def _essence(prompt: Prompt) -> dict[str, Any]:
    return {node_id: (node["class_type"], node["inputs"]) for node_id, node in prompt.items()}
