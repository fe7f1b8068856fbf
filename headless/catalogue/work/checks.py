"""What is checked of every ad: it is a whole picture, has the size that was asked for, and shows the product as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pfv_core.ad.file_exactness import measure_file

from ..job.jobs import Job
from ..job.pictures import Picture, open_ad
from ..workflow.named_inputs import NamedInput, Prompt, Workflow, title_of
from ..workflow.picture_uses import COMPOSITE

WEBP_HEADER, FRAME_HEADER = 12, 16  # bytes before the first part of a WebP, and of a frame of an animated one


@dataclass(frozen=True)
class SavedAd:
    """A downloaded picture.

    Attributes:
        format: PNG, JPEG or WEBP, from its content.
        pixels: (H, W, 3) uint8.
        sha256: of the file.
        bytes: its length.
        is_lossless: whether its pixels are those that were saved: of a PNG, and of a WebP that was saved so.
    """

    format: str
    pixels: NDArray[np.uint8]
    sha256: str
    bytes: int
    is_lossless: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True)
class ProductPlace:
    """The node that puts a product's own pixels into what another one saves.

    Attributes:
        composite: its id.
        photo: the input with the product photo, whose alpha is the mask; None where the photo is placed on a canvas first.
        erode: pixels taken off the mask's rim.
    """

    composite: str
    photo: NamedInput | None
    erode: int


def read_ad(file: Path) -> SavedAd:
    """Decode a downloaded picture.

    Raises:
        PictureError: it is not whole, or no PNG, JPEG or WebP.
    """
    content = file.read_bytes()
    format_name, pixels = open_ad(content, file.name)
    is_lossless = format_name == "PNG" or (format_name == "WEBP" and _is_lossless_webp(content))
    return SavedAd(format_name, pixels, hashlib.sha256(content).hexdigest(), len(content), is_lossless)


def product_place(workflow: Workflow, prompt: Prompt, node_id: str) -> ProductPlace | None:
    """Where what a node saves comes straight from a composite: that composite, as it is posted.

    Args:
        workflow: for its inputs.
        prompt: filled.
        node_id: of the node that saves.
    """
    composite_id, composite = _linked(prompt, prompt[node_id], "images")
    if composite["class_type"] != COMPOSITE:
        return None
    inputs = composite["inputs"]
    photo = _photo(workflow, inputs) if "canvas" not in inputs else None
    erode = inputs.get("erode")
    if not isinstance(erode, int):
        photo = None  # another node says how much: the composite alone knows
    return ProductPlace(composite_id, photo, erode if isinstance(erode, int) else 0)


def check_ad(
    job: Job, ad: SavedAd, place: ProductPlace | None, texts: Mapping[str, list[str]]
) -> dict[str, dict[str, Any]]:
    """The checks of one saved image.

    Args:
        job: what was asked for.
        ad: what came.
        place: of the node that saved it.
        texts: what the run's nodes showed as text.

    Returns:
        `size`, when one was asked for, and `product`, when the workflow puts a product in: each with `passed`. The product
        is compared `by` the file, with the row's photo; where it was placed on a canvas first, or is a picture of the
        server's, by the composite node itself, whose count is repeated: it holds of the file where that is lossless.
    """
    checks: dict[str, dict[str, Any]] = {}
    if job.size:
        checks["size"] = {"passed": ad.size == job.size, "expected": list(job.size), "found": list(ad.size)}
    if place:
        picture = job.pictures.get(place.photo) if place.photo else None
        checks["product"] = _by_file(ad, picture, place) if picture else _by_node(ad, texts.get(place.composite, []))
    return checks


def _by_file(ad: SavedAd, picture: Picture, place: ProductPlace) -> dict[str, Any]:
    photo, alpha = picture.pixels()
    # By what the row says, however the workflow's nodes read it: a cut-out's opaque part, or what a mask's white marks.
    opacity = alpha if picture.mask is None or picture.white == "opaque" else 255 - alpha
    try:
        found = measure_file(ad.pixels, photo, opacity, place.erode)
    except ValueError as error:
        return {"passed": False, "by": "file", "why": str(error)}
    return {"passed": found.exact == found.inside > 0, "by": "file", "erode": place.erode, **asdict(found)}


def _by_node(ad: SavedAd, texts: list[str]) -> dict[str, Any]:
    """The composite's own report, of the pixels that were to be saved."""
    for text in texts:
        try:
            report = json.loads(text)
        except ValueError:
            continue
        if isinstance(report, dict) and isinstance(report.get("exact"), bool):
            lossy = {} if ad.is_lossless or not report["exact"] else {"why": _LOSSY.format(ad.format)}
            return {"passed": report["exact"] and not lossy, "by": "node", "ads": report.get("ads"), **lossy}
    return {
        "passed": False,
        "by": "node",
        "why": f"{COMPOSITE} gave no report: nobody knows whether the product is exact",
    }


_LOSSY = "saved as a lossy {}, whose pixels are others than those that were exact: save a PNG, or a lossless WebP"


def _is_lossless_webp(content: bytes) -> bool:
    kinds = set(_parts_of_webp(content, WEBP_HEADER, len(content)))
    return b"VP8L" in kinds and b"VP8 " not in kinds


def _parts_of_webp(content: bytes, place: int, end: int) -> Iterator[bytes]:
    """Kinds of the parts of a WebP, and of those of its frames."""
    while place + 8 <= end:
        kind, length = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        yield kind
        if kind == b"ANMF":
            yield from _parts_of_webp(content, place + 8 + FRAME_HEADER, place + 8 + length)
        place += 8 + length + length % 2


def _photo(workflow: Workflow, composite: Mapping[str, Any]) -> NamedInput | None:
    """The photo whose pixels a composite pastes where they stand."""
    match composite.get("product"):
        case [photo, 0]:
            return next((named for named in workflow.inputs if named.is_picture and named.node_id == photo), None)
    return None


def unchecked(workflow: Workflow) -> list[str]:
    """Titles of the nodes that save what a composite's picture became after it: what they save is not compared."""
    return [
        title_of(workflow.nodes[node_id])
        for node_id in workflow.savers
        if product_place(workflow, workflow.nodes, node_id) is None and _comes_from_composite(workflow.nodes, node_id)
    ]


def _comes_from_composite(prompt: Prompt, node_id: str) -> bool:
    seen, to_do = set[str](), [node_id]
    while to_do:
        current = to_do.pop()
        if current in seen or current not in prompt:
            continue
        seen.add(current)
        to_do += [str(value[0]) for value in prompt[current]["inputs"].values() if isinstance(value, list) and value]
    return any(prompt[found]["class_type"] == COMPOSITE for found in seen)


def _linked(prompt: Prompt, node: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """Id and node that an input is linked to; a node without a class where it is not."""
    link = node["inputs"].get(name)
    node_id = str(link[0]) if isinstance(link, list) and link else ""
    return node_id, prompt.get(node_id, {"class_type": "", "inputs": {}})


def saved_by(prompt: Prompt, node_id: str) -> str:
    """The title of the node that saved a file."""
    return title_of(prompt[node_id]) if node_id in prompt else node_id
