"""What is checked of every ad: it is a whole picture, has the size that was asked for, and shows the product as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from .exactness import measure_exactness
from .jobs import Job
from .named_inputs import NamedInput, Workflow
from .pictures import FORMATS, Picture, opened

COMPOSITE = "StrictIDComposite"


@dataclass(frozen=True)
class SavedAd:
    """A downloaded picture.

    Attributes:
        format: PNG, JPEG or WEBP, from its content.
        size: width and height.
        sha256: of the file.
        bytes: its length.
    """

    format: str
    size: tuple[int, int]
    sha256: str
    bytes: int


@dataclass(frozen=True)
class ProductPlace:
    """Where a workflow puts a product's own pixels into what it saves.

    Attributes:
        save: id of the node that saves.
        composite: id of the node that puts them in.
        photo: the input with the product photo, whose alpha is the mask; None where the photo is placed on a canvas first.
        opaque: whether the product is what is opaque of it.
        erode: pixels taken off the mask's rim.
    """

    save: str
    composite: str
    photo: NamedInput | None
    opaque: bool
    erode: int


def read_ad(file: Path) -> SavedAd:
    """Decode a downloaded picture.

    Raises:
        PictureError: it is not whole, or no PNG, JPEG or WebP.
    """
    with opened(file):
        pass
    with Image.open(file, formats=FORMATS) as image:
        content = file.read_bytes()
        return SavedAd(str(image.format), image.size, hashlib.sha256(content).hexdigest(), len(content))


def product_places(workflow: Workflow) -> list[ProductPlace]:
    """Every saved image that comes straight from a composite."""
    places = []
    for node_id, node in workflow.nodes.items():
        composite_id, composite = _linked(workflow, node, "images")
        erode = composite["inputs"].get("erode")
        if composite["class_type"] == COMPOSITE and isinstance(erode, int):
            opaque = composite["inputs"].get("product_mask_selects") == "background"
            places.append(ProductPlace(node_id, composite_id, _photo(workflow, composite), opaque, erode))
    return places


def check_ad(
    job: Job, file: Path, ad: SavedAd, places: list[ProductPlace], node_id: str, texts: Mapping[str, list[str]]
) -> dict[str, Any]:
    """The checks of one saved image.

    Args:
        job: what was asked for.
        file: the image.
        ad: what it is.
        places: of the workflow.
        node_id: of the node that saved it.
        texts: what the run's nodes showed as text.

    Returns:
        `size`, when one was asked for, and `product`, when the workflow puts a product in: each with `passed`. The product
        is compared `by` the file, with the row's photo; where it was placed on a canvas first, or is a picture of the
        server's, by the composite node itself, whose count is repeated.
    """
    checks: dict[str, Any] = {}
    if job.size:
        checks["size"] = {"passed": ad.size == job.size, "expected": list(job.size), "found": list(ad.size)}
    for place in places:
        if place.save != node_id:
            continue
        picture = job.pictures.get(place.photo) if place.photo else None
        product = _product_check(file, picture, place) if picture else _node_check(texts.get(place.composite, []))
        if product:
            checks["product"] = product
    return checks


def passed(checks: dict[str, Any]) -> bool:
    """Whether nothing that was checked failed."""
    return all(check["passed"] for check in checks.values())


def _product_check(file: Path, picture: Picture, place: ProductPlace) -> dict[str, Any]:
    photo, alpha = picture.product()
    mask = alpha if place.opaque else alpha.point(lambda value: 255 - value)
    with opened(file) as image:
        try:
            found = measure_exactness(image, photo, mask, place.erode)
        except ValueError as error:
            return {"passed": False, "by": "file", "why": str(error)}
    return {"passed": found.exact == found.inside > 0, "by": "file", "erode": place.erode, **asdict(found)}


def _node_check(texts: list[str]) -> dict[str, Any] | None:
    """The composite's own report, where it makes one."""
    for text in texts:
        try:
            report = json.loads(text)
        except ValueError:
            continue
        if isinstance(report, dict) and isinstance(report.get("exact"), bool):
            return {"passed": report["exact"], "by": "node", "ads": report.get("ads")}
    return None


def _photo(workflow: Workflow, composite: dict[str, Any]) -> NamedInput | None:
    """The photo that both the composite's product and its mask come from."""
    links = [composite["inputs"].get(name) for name in ("product", "product_mask")]
    if not all(isinstance(link, list) and len(link) == 2 for link in links) or links[0][0] != links[1][0]:
        return None
    return next((named for named in workflow.inputs if named.is_picture and named.node_id == links[0][0]), None)


def _linked(workflow: Workflow, node: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """Id and node that an input is linked to; a node without a class where it is not."""
    link = node["inputs"].get(name)
    node_id = str(link[0]) if isinstance(link, list) and link else ""
    return node_id, workflow.nodes.get(node_id, {"class_type": "", "inputs": {}})
