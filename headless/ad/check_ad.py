"""What a finished ad promises, measured on the saved file: the product's own pixels, and the workflow that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from pfv_core.ad.file_exactness import FileExactness, measure_file

from ..pictures.door import open_picture
from ..server.client import Prompt


def measure_ad(ad: Path, photo: Path, erode: int) -> FileExactness:
    """Compare a saved ad with the product photo that was loaded, a cut-out.

    Args:
        ad: the saved file.
        photo: the product photo; what is opaque of it is the product.
        erode: pixels taken off the mask's rim, as the composite node was told.

    Raises:
        ValueError: one of them cannot be read, or the sizes differ.
    """
    saved, product = (open_picture(file.read_bytes(), str(file)).pixels for file in (ad, photo))
    return measure_file(saved[..., :3], product[..., :3], product[..., 3], erode)


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
