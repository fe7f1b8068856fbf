"""An ad in one format as one node: canvas, depth, regions, sampling and result, one function for each column of its inside."""

from __future__ import annotations

from dataclasses import replace

from .blocks import (
    ADAPTER_COLOUR,
    COMPOSITE_HEIGHT,
    DEPTH_HEIGHT,
    MASK_REGION_HEIGHT,
    PLACE_HEIGHT,
    PRODUCT_COLOUR,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    SAMPLING_COLOUR,
    SHAPE_REGION_HEIGHT,
    FormatSettings,
    Variant,
    apply,
    sampler,
)
from .description import Group, Inlet, Link, Node, Subgraph

CANVAS_HEIGHT = 880  # of the node's body: its widgets, and a picture
GROUND = 0.5  # grey around the product where the model looks at it: a black or white product stands out too
LOOK = {"strength": 1.0, "combine": "blend", "reference_noise": "clean", "start_percent": 0.0, "end_percent": 1.0}
SHADOW_STRENGTH = 0.4
BALANCE = {"std_norm": False, "time_weighting": False}  # regions of their own need none, see docs/ablations.md

NAME = "Ad in one format"
TEXT = (
    "One ad of a placed product: canvas, depth, the product over the table over the background, each with a look of its own, "
    "and the product's own pixels with a contact shadow."
)
# What a designer gives it. Those behind the depth ControlNet are set on the node itself.
INPUTS = (
    "product",
    "product mask",
    "product depth",
    "background look",
    "table look",
    "reference depth",
    "hidden in reference",
    "prompt",
    "negative prompt",
    "model",
    "VAE",
    "depth ControlNet",
    "format",
    "own width",
    "own height",
    "position",
    "scale by",
    "share",
    "margin",
    "table begins at",
    "shadow size",
    "seed",
)
CANVAS_WIDGETS = {
    "format": "format",
    "custom_width": "own width",
    "custom_height": "own height",
    "position": "position",
    "scale_by": "scale by",
    "share": "share",
    "margin": "margin",
}


def ad_in_one_format(key: str, variant: Variant, settings: FormatSettings) -> Subgraph:
    """The subgraph with a variant's settings."""
    columns = {
        "Canvas": (PRODUCT_COLOUR, (_canvas(), _depth())),
        "Regions and the product as the model sees it": (REFERENCE_COLOUR, (_regions(settings), _look())),
        "Each look in its region": (ADAPTER_COLOUR, (_looks(),)),
        "Sampling": (SAMPLING_COLOUR, (_sampling(variant),)),
        "Result": (RESULT_COLOUR, (_result(variant),)),
    }
    groups = tuple(Group(title, colour, nodes) for title, (colour, nodes) in columns.items())
    outputs = {"ad": Link("composite", "image"), "report": Link("composite", "report")}
    return Subgraph(key, NAME, TEXT, INPUTS, outputs, groups)


def _canvas() -> tuple[Node, ...]:
    """The product on the canvas, and the sizes."""
    inputs = {
        "product": Inlet("product"),
        "product_mask": Inlet("product mask"),
        "product_mask_selects": "background",
        "model": Inlet("model"),
        "backdrop": GROUND,
        **{name: Inlet(inlet) for name, inlet in CANVAS_WIDGETS.items()},
    }
    sizes = {"width": Link("canvas", "width"), "height": Link("canvas", "height"), "batch_size": 1}
    return (
        Node("canvas", "PFVAdCanvas", "Canvas", inputs, CANVAS_HEIGHT),
        Node("frame", "GetImageSize", "Frame", {"image": Link("canvas", "image")}, 150),
        Node("latent", "EmptyLatentImage", "Empty latent", sizes),
    )


def _depth() -> tuple[Node, ...]:
    """The product's depth before the reference's, of which the table's edge stays at the same share of the height."""
    place = {"image": Inlet("product depth"), "canvas": Link("canvas", "canvas"), "backdrop": 0.0}
    compose = {
        "foreground_depth": Link("place_depth", "image"),
        "product_mask": Link("canvas", "product_mask"),
        "product_mask_selects": "product",
        "reference_depth": Inlet("reference depth"),
        "fill": "surroundings",
        "hidden_mask": Inlet("hidden in reference"),
        "fit": "stretch",
    }
    return (
        Node("place_depth", "PFVAdCanvasPlace", "Product depth", place, PLACE_HEIGHT),
        Node("depth", "PFVDepthCompose", "Depth", compose, DEPTH_HEIGHT),
    )


def _regions(settings: FormatSettings) -> tuple[Node, ...]:
    """The product over the table over the background."""
    product = {"mask": Link("canvas", "product_mask"), "mask_selects": "product"}
    table = {
        "width": Link("frame", "width"),
        "height": Link("frame", "height"),
        "shape": "half_plane",
        "x1": 0.0,
        "y1": Inlet("table begins at"),
        "x2": 1.0,
        "y2": Inlet("table begins at"),
    }
    shared = {
        "region_1": Link("product_region", "region"),
        "region_2": Link("table_region", "region"),
        "region_3": Link("canvas", "region"),
        "sharing": "layers",
        "image": Link("canvas", "image"),
    }
    edge = {"grow": settings.grow, "softness": settings.softness}
    return (
        Node("product_region", "MEPARegionFromMask", "Product region", {**product, **edge}, MASK_REGION_HEIGHT),
        Node("table_region", "MEPARegionShape", "Table region", table, SHAPE_REGION_HEIGHT),
        Node("regions", "MEPARegionBuilder", "Regions", shared, 420),
    )


def _look() -> tuple[Node, ...]:
    """The product where it stands, for the model to look at."""
    encode = {"pixels": Link("canvas", "image"), "vae": Inlet("VAE")}
    look = {
        "model": Inlet("model"),
        "reference_latent": Link("encode_product", "LATENT"),
        "reference_prompt": Inlet("prompt"),
        "product_mask": Link("canvas", "product_mask"),
        **LOOK,
    }
    return (
        Node("encode_product", "VAEEncode", "Encode the product", encode),
        Node("look", "RefAdGenAttentionFusion", "Look at the product", look),
    )


def _looks() -> tuple[Node, ...]:
    """Each reference in its region."""
    background, table = Link("regions", "region_3"), Link("regions", "region_2")
    model = Link("apply_background", "MODEL")
    return (
        apply(
            "apply_background", "Background look", Link("look", "MODEL"), Inlet("background look"), background, BALANCE
        ),
        apply("apply_table", "Table look", model, Inlet("table look"), table, BALANCE),
    )


def _sampling(variant: Variant) -> tuple[Node, ...]:
    """Depth, and the sampler."""
    control = {
        "positive": Inlet("prompt"),
        "negative": Inlet("negative prompt"),
        "control_net": Link("prompted_control", "control_net"),
        "image": Link("depth", "depth"),
        "strength": variant.control_strength,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    model = Link("apply_table", "MODEL")
    prompted = {"control_net": Inlet("depth ControlNet"), "model": model}
    sampled = sampler(
        variant,
        model=model,
        positive=Link("control", "positive"),
        negative=Link("control", "negative"),
        latent=Link("latent", "LATENT"),
    )
    return (
        Node("prompted_control", "MEPAApplyControlNet", "Looks in the ControlNet", prompted),
        Node("control", "ControlNetApplyAdvanced", "Apply depth", control),
        replace(sampled, inputs={**sampled.inputs, "seed": Inlet("seed")}),
    )


def _result(variant: Variant) -> tuple[Node, ...]:
    """The ad at its exact size."""
    composite = {
        "generated": Link("decode", "IMAGE"),
        "product": Link("canvas", "image"),
        "product_mask": Link("canvas", "product_mask"),
        "product_mask_selects": "product",
        "erode": variant.erode,
        "feather": variant.feather,
        "shadow_strength": SHADOW_STRENGTH,
        "shadow_size": Inlet("shadow size"),
        "canvas": Link("canvas", "canvas"),
    }
    decode = {"samples": Link("sampler", "LATENT"), "vae": Inlet("VAE")}
    return (
        Node("decode", "VAEDecode", "Decode", decode),
        Node("composite", "StrictIDComposite", "Product's own pixels", composite, COMPOSITE_HEIGHT),
    )
