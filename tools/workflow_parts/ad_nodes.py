"""The steps from two photographs to an ad, one function for each group on the canvas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .blocks import (
    ADAPTER_COLOUR,
    COMPOSITE_HEIGHT,
    DEPTH_HEIGHT,
    MASK_REGION_HEIGHT,
    PLACE_HEIGHT,
    PREVIEW_HEIGHT,
    PRODUCT_COLOUR,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    SAMPLING_COLOUR,
    SHAPE_REGION_HEIGHT,
    FormatSettings,
    Variant,
    apply,
    image_file,
    loader,
    prompt,
    sampler,
)
from .description import Group, Link, Node
from .format_nodes import CANVAS_HEIGHT, SHADOW_STRENGTH
from .models import BACKGROUND_REMOVAL, DEPTH_ANYTHING, SAM3

# 20 of them at most; without a number SAM 3 Detect keeps one, and the others would come through.
NAMED_PRODUCT = "the bottle:20"
FOUND_COLOUR = "#555"  # of what the host finds by itself: mute such a group, and the pack's own way takes its place
CUT_OUT, NAMED, DEPTHS = "Product by BiRefNet", "By name, SAM 3", "Depth Anything 3"  # begin the titles of those groups


@dataclass(frozen=True)
class AdSettings:
    """What an ad of two photographs has besides its variant.

    Attributes:
        canvas: widgets of PFV Ad Canvas.
        region: of the product.
        shadow_size: of the contact shadow, pixels; 0 = by the product's height.
        host_models: whether the host's own models find the product, the other product and the depths.
    """

    canvas: Mapping[str, Any]
    region: FormatSettings
    shadow_size: int
    host_models: bool


def brought(variant: Variant) -> Group:
    """All that somebody brings: two pictures and a sentence; and the models."""
    models = variant.models
    shown = (
        image_file("photo", "Product photo", f"{variant.pictures}product_photo.png"),
        image_file("reference", "Reference", f"{variant.pictures}reference_photo.png"),
    )
    sentence = (
        prompt("positive", "Prompt", variant.prompt, models.clip),
        prompt("negative", "Negative prompt", variant.negative_prompt, models.clip),
    )
    loaders = (*models.beside_references, *models.beside_adapter, *models.beside_prompts)
    return Group("1  Your two pictures and your sentence", SAMPLING_COLOUR, (shown, (*loaders, *sentence)))


def host_cut_out() -> Group:
    """The host's model that cuts out."""
    remove = {"bg_removal_model": Link("remover", "bg_model"), "image": Link("photo", "IMAGE")}
    nodes = (
        loader("remover", "LoadBackgroundRemovalModel", "Model that cuts out", "bg_removal_name", BACKGROUND_REMOVAL),
        Node("foreground", "RemoveBackground", "Cut the product out", remove),
    )
    return Group(f"{CUT_OUT} (ComfyUI 0.21)", FOUND_COLOUR, (nodes,))


def host_search() -> Group:
    """The host's model that finds a thing by its name."""
    detect = {
        "model": Link("sam", "MODEL"),
        "image": Link("reference", "IMAGE"),
        "conditioning": Link("name", "CONDITIONING"),
        "threshold": 0.5,
        "refine_iterations": 2,
        "individual_masks": False,
    }
    nodes = (
        loader("sam", "CheckpointLoaderSimple", "Model that finds things", "ckpt_name", SAM3),
        prompt("name", "What must not come through", NAMED_PRODUCT, Link("sam", "CLIP")),
        Node("detect", "SAM3_Detect", "Find it in the reference", detect),
    )
    return Group(f"{NAMED} (ComfyUI 0.20)", FOUND_COLOUR, (nodes,))


def host_depth() -> Group:
    """The host's model that estimates depth, of both pictures."""
    columns = []
    for picture, title in (("reference", "Depth of the reference"), ("photo", "Depth of the photo")):
        estimate = {
            "da3_model": Link("estimator", "DA3_MODEL"),
            "image": Link(picture, "IMAGE"),
            "resolution": 504,
            "resize_method": "upper_bound_resize",
            "mode": "mono",
        }
        render = {
            "da3_geometry": Link(f"{picture}_geometry", "da3_geometry"),
            "output": "depth",
            "output.normalization": "v2_style",
            "output.apply_sky_clip": False,
        }
        columns.append(
            (
                Node(f"{picture}_geometry", "DA3Inference", f"Estimate: {title.lower()}", estimate),
                Node(f"{picture}_depth", "DA3Render", title, render),
            )
        )
    estimator = loader("estimator", "LoadDA3Model", "Model that estimates depth", "model_name", DEPTH_ANYTHING)
    placed = {"image": Link("photo_depth", "IMAGE"), "canvas": Link("canvas", "canvas"), "backdrop": 0.0}
    place = Node("placed_depth", "PFVAdCanvasPlace", "Depth where the product stands", placed, PLACE_HEIGHT)
    reference, photo = columns
    return Group(f"{DEPTHS} (ComfyUI 0.25)", FOUND_COLOUR, ((estimator, *reference), (*photo, place)), starts_row=True)


def product(variant: Variant, settings: AdSettings) -> Group:
    """The product cut out, and placed."""
    cut_out = {"photo": Link("photo", "IMAGE"), "mask": Link("photo", "MASK")}
    canvas = {
        "product": Link("photo", "IMAGE"),
        "product_mask": Link("cut_out", "product_mask"),
        "product_mask_selects": "product",
        "model": variant.models.model,
        **settings.canvas,
    }
    if settings.host_models:
        cut_out["found"] = Link("foreground", "mask")
    return Group(
        "2  Product",
        PRODUCT_COLOUR,
        (
            (Node("cut_out", "PFVCutOut", "Product", cut_out, height=PREVIEW_HEIGHT + 100),),
            (Node("canvas", "PFVAdCanvas", "Format and place", canvas, CANVAS_HEIGHT + 30),),
        ),
    )


def look(variant: Variant, settings: AdSettings) -> Group:
    """The reference without the other product, as an image prompt; and where its ground begins."""
    models = variant.models
    hide = {
        "clip_vision": models.clip_vision,
        "adapter": models.adapter,
        "reference": Link("reference", "IMAGE"),
        "mask": Link("reference", "MASK"),
    }
    ground = {"picture": Link("reference", "IMAGE"), "hidden_mask": Link("look", "hidden_mask")}
    if settings.host_models:
        hide["found"] = Link("detect", "masks")
        ground["depth"] = Link("reference_depth", "IMAGE")
    return Group(
        "3  Look of the reference",
        REFERENCE_COLOUR,
        (
            (Node("look", "PFVReference", "Look", hide, height=PREVIEW_HEIGHT + 200),),
            (Node("ground", "PFVGround", "Ground", ground, height=DEPTH_HEIGHT),),
        ),
        starts_row=not settings.host_models,
    )


def depth(settings: AdSettings) -> Group:
    """The depth of the ad."""
    mask = {"product_mask": Link("canvas", "product_mask"), "product_mask_selects": "product"}
    standing = {**mask, "line": Link("ground", "line")}
    if settings.host_models:
        standing["depth"] = Link("placed_depth", "image")
    compose = {
        "foreground_depth": Link("product_depth", "depth"),
        **mask,
        "reference_depth": Link("ground", "depth"),
        "fill": "surroundings",
        "hidden_mask": Link("look", "hidden_mask"),
        "fit": "stretch",
    }
    nodes = (
        Node("product_depth", "PFVProductDepth", "Product depth", standing, height=DEPTH_HEIGHT),
        Node("depth", "PFVDepthCompose", "Depth of the ad", compose, DEPTH_HEIGHT),
    )
    return Group("4  Depth", PRODUCT_COLOUR, tuple((node,) for node in nodes))


def regions(variant: Variant, settings: AdSettings) -> Group:
    """The product over the ground over the background, and the look in the latter two."""
    ground = {
        "width": Link("frame", "width"),
        "height": Link("frame", "height"),
        "shape": "half_plane",
        "x1": 0.0,
        "y1": Link("ground", "line"),
        "x2": 1.0,
        "y2": Link("ground", "line"),
    }
    edge = {"grow": settings.region.grow, "softness": settings.region.softness}
    stacked = {
        "region_1": Link("product_region", "region"),
        "region_2": Link("ground_region", "region"),
        "region_3": Link("canvas", "region"),
        "sharing": "layers",
        "image": Link("canvas", "image"),
    }
    product_mask = {"mask": Link("canvas", "product_mask"), "mask_selects": "product"}
    image_prompt = Link("look", "image_prompt")
    background, ground_part = Link("regions", "region_3"), Link("regions", "region_2")
    return Group(
        "5  The look in the background and on the ground",
        ADAPTER_COLOUR,
        (
            (
                Node("frame", "GetImageSize", "Frame", {"image": Link("canvas", "image")}, 150),
                Node(
                    "product_region",
                    "MEPARegionFromMask",
                    "Product region",
                    {**product_mask, **edge},
                    MASK_REGION_HEIGHT,
                ),
            ),
            (Node("ground_region", "MEPARegionShape", "Ground region", ground, SHAPE_REGION_HEIGHT),),
            (Node("regions", "MEPARegionBuilder", "Regions", stacked, 420),),
            (apply("apply_background", "Background", variant.models.model, image_prompt, background),),
            (apply("apply_ground", "On the ground", Link("apply_background", "MODEL"), image_prompt, ground_part),),
        ),
        starts_row=True,
    )


def sampling(variant: Variant) -> Group:
    """Depth control and the sampler."""
    control = {
        "positive": Link("positive", "CONDITIONING"),
        "negative": Link("negative", "CONDITIONING"),
        "control_net": variant.models.control_net,
        "image": Link("depth", "depth"),
        "strength": variant.control_strength,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    sizes = {"width": Link("canvas", "width"), "height": Link("canvas", "height"), "batch_size": 1}
    nodes = (
        Node("control", "ControlNetApplyAdvanced", "Apply depth", control),
        Node("latent", "EmptyLatentImage", "Empty latent", sizes),
        sampler(
            variant,
            model=Link("apply_ground", "MODEL"),
            positive=Link("control", "positive"),
            negative=Link("control", "negative"),
            latent=Link("latent", "LATENT"),
        ),
    )
    return Group("6  Sampling", SAMPLING_COLOUR, (nodes,))


def result(variant: Variant, settings: AdSettings) -> Group:
    """The ad at the format's size."""
    composite = {
        "generated": Link("decode", "IMAGE"),
        "product": Link("canvas", "image"),
        "product_mask": Link("canvas", "product_mask"),
        "product_mask_selects": "product",
        "erode": variant.erode,
        "feather": variant.feather,
        "shadow_strength": SHADOW_STRENGTH,
        "shadow_size": settings.shadow_size,
        "canvas": Link("canvas", "canvas"),
    }
    save = {"images": Link("composite", "image"), "filename_prefix": "ad"}
    return Group(
        "7  Result",
        RESULT_COLOUR,
        (
            (
                Node("decode", "VAEDecode", None, {"samples": Link("sampler", "LATENT"), "vae": variant.models.vae}),
                Node("composite", "StrictIDComposite", "Product's own pixels", composite, COMPOSITE_HEIGHT),
            ),
            (Node("save", "SaveImage", "Save the ad", save, RESULT_HEIGHT),),
        ),
    )
