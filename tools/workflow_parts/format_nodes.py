"""The nodes of one ad format: canvas, depth, regions, sampling and result, one function for each column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .blocks import RESULT_HEIGHT, Variant, apply, branch, sampler
from .description import Link, Node

CANVAS_HEIGHT = 880  # of the node's body: its widgets, and a picture
COMPOSITE_HEIGHT = 290  # its widgets, and a line of text
TABLE_EDGE = 0.66  # share of every format's height
GROUND = 0.5  # grey around the product where the model looks at it: a black or white product stands out too
LOOK = {"strength": 1.0, "combine": "blend", "reference_noise": "clean", "start_percent": 0.0, "end_percent": 1.0}
SHADOW_STRENGTH = 0.4
BALANCE = {"std_norm": False, "time_weighting": False}  # regions of their own need none, see docs/ablations.md


@dataclass(frozen=True)
class Format:
    """One of the ads.

    Attributes:
        key: of the nodes' names.
        title: of the nodes and of the saved file.
        colour: of its group.
        canvas: widgets of PFV Ad Canvas.
        shadow_size: of the contact shadow, pixels: about a tenth of the product's height.
        product_region: by how many pixels the product's region grows, and the width of its soft edge.
    """

    key: str
    title: str
    colour: str
    canvas: Mapping[str, Any]
    shadow_size: int
    product_region: tuple[int, int] = (8, 8)

    def name(self, node: str) -> str:
        """A node's name in the description."""
        return f"{node}_{self.key}"

    def link(self, node: str, output: str) -> Link:
        """An output of a node of this format."""
        return Link(self.name(node), output)

    def node(
        self, name: str, class_type: str, title: str, inputs: Mapping[str, Any], height: int | None = None
    ) -> Node:
        """A node of this format."""
        return Node(self.name(name), class_type, f"{title} {self.title}", inputs, height)


def canvas_nodes(part: Format) -> tuple[Node, ...]:
    """The product on the canvas, and the sizes."""
    inputs = {
        "product": Link("product", "IMAGE"),
        "product_mask": Link("product", "MASK"),
        "product_mask_selects": "background",
        "backdrop": GROUND,
        **part.canvas,
    }
    return (
        part.node("canvas", "PFVAdCanvas", "Canvas", inputs, CANVAS_HEIGHT),
        part.node("frame", "GetImageSize", "Frame", {"image": part.link("canvas", "image")}, 150),
        part.node(
            "latent",
            "EmptyLatentImage",
            "Empty latent",
            {"width": part.link("canvas", "width"), "height": part.link("canvas", "height"), "batch_size": 1},
        ),
    )


def _stretched(part: Format, name: str, title: str, image: Link) -> Node:
    """An image at the frame's size, by picking pixels: a smooth kernel would mix hidden depth into visible."""
    inputs = {
        "image": image,
        "upscale_method": "nearest-exact",
        "width": part.link("frame", "width"),
        "height": part.link("frame", "height"),
        "crop": "disabled",
    }
    return part.node(name, "ImageScale", title, inputs)


def depth_nodes(part: Format, variant: Variant) -> tuple[Node, ...]:
    """The product's depth before the reference's."""
    place = {"image": Link("product_depth", "IMAGE"), "canvas": part.link("canvas", "canvas"), "backdrop": 0.0}
    compose = {
        "foreground_depth": part.link("place_depth", "image"),
        "product_mask": part.link("canvas", "product_mask"),
        "product_mask_selects": "product",
        "reference_depth": part.link("stretched_depth", "IMAGE"),
        "fill": "surroundings",
        "hidden_mask": part.link("hidden", "MASK"),
    }
    return (
        part.node("place_depth", "PFVAdCanvasPlace", "Product depth in", place),
        _stretched(part, "stretched_depth", "Reference depth in", Link("reference_depth", "IMAGE")),
        _stretched(part, "stretched_hidden", "Hidden part in", Link("hidden_image", "IMAGE")),
        part.node(
            "hidden",
            "ImageToMask",
            "Hidden mask in",
            {"image": part.link("stretched_hidden", "IMAGE"), "channel": "red"},
        ),
        part.node("depth", "PFVDepthCompose", "Depth of", compose),
    )


def region_nodes(part: Format) -> tuple[Node, ...]:
    """The product over the table over the background."""
    grow, softness = part.product_region
    product = {"mask": part.link("canvas", "product_mask"), "mask_selects": "product"}
    table = {
        "width": part.link("frame", "width"),
        "height": part.link("frame", "height"),
        "shape": "half_plane",
        "x1": 0.0,
        "y1": TABLE_EDGE,
        "x2": 1.0,
        "y2": TABLE_EDGE,
    }
    shared = {
        "region_1": part.link("product_region", "region"),
        "region_2": part.link("table_region", "region"),
        "region_3": part.link("canvas", "region"),
        "sharing": "layers",
        "image": part.link("canvas", "image"),
    }
    return (
        part.node(
            "product_region", "MEPARegionFromMask", "Product region in", {**product, "grow": grow, "softness": softness}
        ),
        part.node("table_region", "MEPARegionShape", "Table region in", table),
        part.node("regions", "MEPARegionBuilder", "Regions of", shared, 420),
    )


def prompt_nodes(part: Format, variant: Variant) -> tuple[Node, ...]:
    """What the model looks at beside the text: the product where it stands, and the table's reference."""
    look = {
        "model": variant.models.model,
        "reference_latent": part.link("encode_product", "LATENT"),
        "reference_prompt": Link("positive", "CONDITIONING"),
        "product_mask": part.link("canvas", "product_mask"),
        **LOOK,
    }
    return (
        part.node(
            "encode_product",
            "VAEEncode",
            "Encode the product in",
            {"pixels": part.link("canvas", "image"), "vae": variant.models.vae},
        ),
        part.node("look", "RefAdGenAttentionFusion", "Look at the product in", look),
        branch(
            part.name("table_branch"),
            f"Table reference in {part.title}",
            "compress_table",
            part.link("regions", "region_2"),
            BALANCE,
        ),
    )


def sampling_nodes(part: Format, variant: Variant) -> tuple[Node, ...]:
    """Each reference in its region, depth, and the sampler."""
    models = variant.models
    control = {
        "positive": Link("positive", "CONDITIONING"),
        "negative": Link("negative", "CONDITIONING"),
        "control_net": part.link("prompted_control", "control_net"),
        "image": part.link("depth", "depth"),
        "strength": variant.control_strength,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    sampled = sampler(
        variant,
        model=part.link("apply_background", "MODEL"),
        positive=part.link("control", "positive"),
        negative=part.link("control", "negative"),
        latent=part.link("latent", "LATENT"),
    )
    return (
        apply(
            part.name("apply_background"),
            f"Background reference in {part.title}",
            part.link("look", "MODEL"),
            "compress_background",
            part.link("regions", "region_3"),
            {**BALANCE, "branches": part.link("table_branch", "branches")},
        ),
        part.node(
            "prompted_control",
            "MEPAApplyControlNet",
            "References in the ControlNet of",
            {"control_net": models.control_net, "model": part.link("apply_background", "MODEL")},
        ),
        part.node("control", "ControlNetApplyAdvanced", "Apply depth to", control),
        replace(sampled, name=part.name("sampler"), title=f"Sampler {part.title}"),
    )


def result_nodes(part: Format, variant: Variant) -> tuple[Node, ...]:
    """The ad at its exact size."""
    composite = {
        "generated": part.link("decode", "IMAGE"),
        "product": part.link("canvas", "image"),
        "product_mask": part.link("canvas", "product_mask"),
        "product_mask_selects": "product",
        "erode": variant.erode,
        "feather": variant.feather,
        "shadow_strength": SHADOW_STRENGTH,
        "shadow_size": part.shadow_size,
        "canvas": part.link("canvas", "canvas"),
    }
    decode = {"samples": part.link("sampler", "LATENT"), "vae": variant.models.vae}
    save = {"images": part.link("composite", "image"), "filename_prefix": f"ad_{part.key}"}
    return (
        part.node("decode", "VAEDecode", "Decode", decode),
        part.node("composite", "StrictIDComposite", "Product's own pixels in", composite, COMPOSITE_HEIGHT),
        part.node("save", "SaveImage", "Save the ad", save, RESULT_HEIGHT),
    )
