"""The subgraphs that the page offers to every workflow: `subgraphs/<name>.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from .ad_nodes import NAMED_PRODUCT, host_cut_out, host_search
from .blocks import ADAPTER_COLOUR, PREVIEW_HEIGHT, PRODUCT_COLOUR
from .description import Group, Inlet, Link, Node, Subgraph
from .format_nodes import ad_in_one_format
from .formats import BOTTOM, BY_HEIGHT, FORMAT_SETTINGS, FORMATS_VARIANT, TABLE_EDGE


class Offered(NamedTuple):
    """A subgraph as the page offers it.

    Attributes:
        subgraph: the description; the page takes the file's name for its own.
        search_words: under which the page finds it besides, with commas.
        values: of its widgets; those that are left out have the host's default.
    """

    subgraph: Subgraph
    search_words: str
    values: Mapping[str, Any]


def _with_inlets(group: Group, inlets: dict[tuple[str, str], Inlet]) -> Group:
    """A group whose nodes take some inputs, (node, input), from outside."""

    def changed(node: Node) -> Node:
        own = {name: inlet for (target, name), inlet in inlets.items() if target == node.name}
        return replace(node, inputs={**node.inputs, **own})

    columns = tuple(
        tuple(changed(item) if isinstance(item, Node) else item for item in column) for column in group.columns
    )
    return replace(group, columns=columns)


def _cut_out() -> Subgraph:
    """A photo cut out by the host's model, which painting corrects."""
    inputs = {
        "photo": Inlet("photo"),
        "mask": Inlet("painted"),
        "mask_selects": Inlet("painted selects"),
        "found": Link("foreground", "mask"),
    }
    node = Node("cut_out", "PFVCutOut", "Product", inputs, height=PREVIEW_HEIGHT + 100)
    return Subgraph(
        "cut_out",
        "PFV Cut Out by Model",
        "Cuts the product out of a photo with BiRefNet (ComfyUI 0.21); what is painted wins.",
        ("photo", "painted", "painted selects"),
        {"product_mask": Link("cut_out", "product_mask"), "report": Link("cut_out", "report")},
        (
            _with_inlets(host_cut_out(), {("foreground", "image"): Inlet("photo")}),
            Group("Product", PRODUCT_COLOUR, ((node,),)),
        ),
    )


def _reference() -> Subgraph:
    """A reference without a thing that is named."""
    inputs = {
        "clip_vision": Inlet("clip_vision"),
        "adapter": Inlet("adapter"),
        "reference": Inlet("reference"),
        "mask": Inlet("painted"),
        "found": Link("detect", "masks"),
    }
    asked = {("detect", "image"): Inlet("reference"), ("name", "text"): Inlet("what to hide", NAMED_PRODUCT)}
    node = Node("look", "PFVReference", "Look", inputs, height=PREVIEW_HEIGHT + 200)
    return Subgraph(
        "reference",
        "PFV Reference by Name",
        "Makes an image prompt of a picture without what is named, found by SAM 3 (ComfyUI 0.20); what is painted wins.",
        ("clip_vision", "adapter", "reference", "painted", "what to hide"),
        {"image_prompt": Link("look", "image_prompt"), "hidden_mask": Link("look", "hidden_mask")},
        (
            _with_inlets(host_search(), asked),
            Group("Look", ADAPTER_COLOUR, ((node,),)),
        ),
    )


def _ad() -> Subgraph:
    subgraph = ad_in_one_format("ad_in_one_format", FORMATS_VARIANT, FORMAT_SETTINGS)
    return replace(subgraph, name="PFV Ad in One Format")


OFFERED = (
    Offered(
        _ad(),
        "ad format, banner, advertisement, product ad",
        {**BOTTOM, "table begins at": TABLE_EDGE, "shadow size": BY_HEIGHT},
    ),
    Offered(_cut_out(), "remove background, cut out, packshot", {}),
    Offered(_reference(), "image prompt, hide product, ip-adapter", {}),
)
