"""What a workflow does with a picture that it loads, read from its links: what cannot be told there is not guessed."""

from __future__ import annotations

from typing import Literal

from .named_inputs import NamedInput, Workflow, title_of

CANVAS, COMPOSITE, REBINARIZE = "PFVAdCanvas", "StrictIDComposite", "PFVMaskRebinarize"


def white_of(workflow: Workflow, photo: NamedInput) -> Literal["opaque", "transparent"] | None:
    """What a mask's white becomes in a picture, as the nodes that take its mask read it; None = no node says.

    A node with `product_mask_selects` takes the product as what is opaque (a cut-out) or as what is transparent (painted).
    """
    readers = [
        workflow.nodes[node_id]["inputs"]
        for node_id, names in readers_of_mask(workflow, photo).items()
        if "product_mask" in names
    ]
    choices = {inputs.get("product_mask_selects") for inputs in readers} - {None}
    if len(choices) > 1:
        raise ValueError(
            f"the workflow's nodes disagree in product_mask_selects of {photo}: {sorted(map(str, choices))}"
        )
    if not choices:
        return None
    return "transparent" if choices == {"product"} else "opaque"


def cuts_out(workflow: Workflow, photo: NamedInput) -> bool:
    """Whether some node takes a product out of a picture by its mask."""
    return any("product_mask" in names for names in readers_of_mask(workflow, photo).values())


def hides(workflow: Workflow, reference: NamedInput) -> list[str]:
    """Titles of the nodes that hide what a picture's mask marks."""
    readers = readers_of_mask(workflow, reference)
    return [title_of(node) for node_id in readers if (node := workflow.nodes[node_id])["class_type"] == REBINARIZE]


def readers_of_mask(workflow: Workflow, picture: NamedInput) -> dict[str, list[str]]:
    """Node id -> the inputs that take a loader's mask."""
    link = [picture.node_id, 1]
    found = {
        node_id: [name for name, value in node["inputs"].items() if value == link]
        for node_id, node in workflow.nodes.items()
    }
    return {node_id: names for node_id, names in found.items() if names}


def is_pasted(workflow: Workflow, photo: NamedInput) -> bool:
    """Whether a composite pastes a photo's pixels where they stand, on no canvas."""
    composites = [node["inputs"] for node in workflow.nodes.values() if node["class_type"] == COMPOSITE]
    return any(inputs.get("product") == [photo.node_id, 0] and "canvas" not in inputs for inputs in composites)
