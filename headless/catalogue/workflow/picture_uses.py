"""What a workflow does with a picture that it loads, read from its links: what cannot be told there is not guessed.

All of it is read from the workflow as it is filled for a row: a column may change what a mask selects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from .named_inputs import NamedInput, Prompt, title_of

CANVAS, COMPOSITE, CUT_OUT, REBINARIZE = "PFVAdCanvas", "StrictIDComposite", "PFVCutOut", "PFVMaskRebinarize"
PRODUCT_MASK = {"product_mask": "product_mask_selects"}
"""Input that takes a product's mask -> input that says what 1 is."""
PRODUCT_MASKS = {CUT_OUT: {"mask": "mask_selects"}}
"""Likewise, of the classes whose inputs have other names."""


def white_of(prompt: Prompt, photo: NamedInput) -> Literal["opaque", "transparent"] | None:
    """What a mask's white becomes in a picture, as the nodes that take its mask read it; None = no node says.

    Such a node takes the product as what is opaque (a cut-out) or as what is transparent (painted).

    Raises:
        ValueError: nodes disagree, or what one takes comes from another node.
    """
    selects = selects_of(prompt, photo)
    for name, choice in selects.items():
        if not isinstance(choice, str):
            raise ValueError(
                f"what a mask of {photo} selects cannot be told: another node sets {name}; give it a value"
            )
    if len(set(selects.values())) > 1:
        said = ", ".join(f"{name} is {choice!r}" for name, choice in selects.items())
        raise ValueError(f"the workflow's nodes disagree in what a mask of {photo} selects: {said}")
    if not selects:
        return None
    return "transparent" if "product" in selects.values() else "opaque"


def selects_of(prompt: Prompt, photo: NamedInput) -> dict[str, Any]:
    """What a picture's mask selects, `product` or `background`, by the name of each input that says so."""
    found: dict[str, Any] = {}
    for node_id, names in readers_of_mask(prompt, photo).items():
        node = prompt[node_id]
        for says in (_product_masks(node).get(name) for name in names):
            if says in node["inputs"]:
                found[f"{title_of(node)}.{says}"] = node["inputs"][says]
    return found


def cuts_out(prompt: Prompt, photo: NamedInput) -> bool:
    """Whether some node takes a product out of a picture by its mask, and in no other way."""
    return any("product_mask" in names for names in readers_of_mask(prompt, photo).values())


def hides(prompt: Prompt, reference: NamedInput) -> list[str]:
    """Titles of the nodes that hide what a picture's mask marks."""
    readers = readers_of_mask(prompt, reference)
    return [title_of(node) for node_id in readers if (node := prompt[node_id])["class_type"] == REBINARIZE]


def readers_of_mask(prompt: Prompt, picture: NamedInput) -> dict[str, list[str]]:
    """Node id -> the inputs that take a loader's mask."""
    link = [picture.node_id, 1]
    found = {
        node_id: [name for name, value in node["inputs"].items() if value == link] for node_id, node in prompt.items()
    }
    return {node_id: names for node_id, names in found.items() if names}


def is_pasted(prompt: Prompt, photo: NamedInput) -> bool:
    """Whether a composite pastes a photo's pixels where they stand, on no canvas."""
    composites = [node["inputs"] for node in prompt.values() if node["class_type"] == COMPOSITE]
    return any(inputs.get("product") == [photo.node_id, 0] and "canvas" not in inputs for inputs in composites)


def _product_masks(node: Mapping[str, Any]) -> dict[str, str]:
    return PRODUCT_MASKS.get(node["class_type"], PRODUCT_MASK)
