"""Strictly-ID with the demo's models: a scene drawn around a product, with somebody beside it in the right size."""

from __future__ import annotations

from typing import Any

from pfv_demo.sizes import STRICT_ID_FILE

from .blocks import (
    ADAPTER_COLOUR,
    COMPOSITE_HEIGHT,
    DEMO_MODELS,
    DEMO_PICTURES,
    DEMO_SAMPLER,
    DEMO_WORDS,
    PRODUCT_COLOUR,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    SAMPLING_COLOUR,
    SCALE_HEIGHT,
    Variant,
    encode,
    image_file,
    notes,
    prompt,
    rebinarize,
    sampler,
)
from .description import Group, Link, Node, Note, Workflow

HOW_TO_USE = """\
**1.** Load `demo_product_left.png`, `demo_pose.png` and `demo_appearance.png` of this pack's folder `workflows/demo_inputs` \
into the nodes that name them: the product, a cut-out where it stands in the ad; a mannequin; and a scene with somebody else's \
product, which is painted over.

**2.** Run. Beside the product stands a plant, as high as *Scale* says; what it is, table and wall follow the prompt. Where \
the product is opaque the ad is the photo itself, pixel by pixel, and its shadow falls on the new table.

**3.** Set *subject_cm* of *Scale* to 12 and *center* to 0.55: smaller, its foot where it was.

*Pose and appearance* count in the positive prompt alone, so that guidance strengthens them as it does the words; *Apply it \
without the pictures* is the negative's. This tiny file follows the heights; that it follows the \
mannequin's lean or the picture's looks cannot be told from chance (`docs/neighbours.md`).

Heights are those in the picture: what stands further back is smaller there.
"""

ABOUT_MODELS = f"""\
{DEMO_WORDS}
`{STRICT_ID_FILE}` comes with this pack too, and fits these models alone. For SD1.5 and SDXL none is public: train one with \
`python -m lab.train --preset strict_id_sd15` or `strict_id_sdxl`, and put loaders in the place of *PFV Demo Models*.
"""

PICTURES = {"pose": "Pose", "appearance": "Appearance"}
PAINTED = {"appearance"}
# From the product's first row to its last are 20 cm. A companion of the demo's scenes stands further back: its foot is higher.
SCALE = {
    "height_from": "sizes",
    "product_cm": 20.0,
    "subject_cm": 17.0,
    "height_ratio": 0.5,
    "center": 0.45,
}


def _brought(variant: Variant) -> Group:
    """The product and the texts; and the models."""
    models = variant.models
    return Group(
        "1  Product and sentence",
        PRODUCT_COLOUR,
        (
            (image_file("product", "Product photo", f"{variant.pictures}product_left.png"),),
            (
                *models.beside_references,
                prompt("positive", "Prompt", variant.prompt, models.clip),
                prompt("negative", "Negative prompt", variant.negative_prompt, models.clip),
            ),
        ),
    )


def _pictures(variant: Variant) -> Group:
    """Pose and appearance, encoded as in the training."""
    vision = variant.models.clip_vision
    shown = [image_file(name, title, f"{variant.pictures}{name}.png") for name, title in PICTURES.items()]
    hidden = [
        rebinarize(f"see_{name}", f"What is seen of the {name}", name, vision, "crop", name in PAINTED)
        for name in PICTURES
    ]
    encoded = [encode(f"encode_{name}", f"Encode the {name}", name, f"see_{name}", vision, "zero") for name in PICTURES]
    return Group("2  Pose and appearance", REFERENCE_COLOUR, (tuple(shown), tuple(hidden), tuple(encoded)))


def _strict_id(variant: Variant) -> Group:
    """The hint, the ControlNet that reads it, and what its branches read."""
    scale = {
        "product": Link("product", "IMAGE"),
        "product_mask": Link("product", "MASK"),
        "product_mask_selects": "background",
        **SCALE,
    }
    branches = {
        "control_net": Link("load", "CONTROL_NET"),
        "pose": Link("encode_pose", "PFV_IMAGE_TOKENS"),
        "appearance": Link("encode_appearance", "PFV_IMAGE_TOKENS"),
        "pose_strength": 1.0,
        "appearance_strength": 1.0,
        "std_norm": "as_trained",
        "time_weighting": "as_trained",
        "gamma": 400,
    }
    return Group(
        "3  Strictly-ID",
        ADAPTER_COLOUR,
        (
            (Node("scale", "PFVScaleMap", "Scale", scale, SCALE_HEIGHT),),
            (
                Node("load", "StrictIDLoadControlNet", None, {"control_net_name": STRICT_ID_FILE}, height=100),
                Node("branches", "StrictIDBranches", "Pose and appearance", branches),
            ),
        ),
        starts_row=True,
    )


def _control(variant: Variant, control_net: str) -> dict[str, Any]:
    return {
        "positive": Link("positive", "CONDITIONING"),
        "negative": Link("negative", "CONDITIONING"),
        "control_net": Link(control_net, "CONTROL_NET"),
        "image": Link("scale", "hint"),
        "strength": variant.control_strength,
        "start_percent": 0.0,
        "end_percent": 1.0,
    }


def _sampling(variant: Variant) -> Group:
    """The negative has the hint alone, so that guidance strengthens the pictures as it does the text."""
    size = {"width": Link("ad_size", "width"), "height": Link("ad_size", "height"), "batch_size": 1}
    sampled = sampler(
        variant,
        model=variant.models.model,
        positive=Link("control", "positive"),
        negative=Link("control_negative", "negative"),
        latent=Link("latent", "LATENT"),
    )
    return Group(
        "4  Sampling",
        SAMPLING_COLOUR,
        (
            (
                # When the size has been found it is shown in a box below the slots.
                Node("ad_size", "GetImageSize", "Ad size", {"image": Link("product", "IMAGE")}, height=150),
                Node("latent", "EmptyLatentImage", "Empty latent at ad size", size),
            ),
            (
                Node("control", "ControlNetApplyAdvanced", "Apply Strictly-ID", _control(variant, "branches")),
                Node(
                    "control_negative",
                    "ControlNetApplyAdvanced",
                    "Apply it without the pictures",
                    _control(variant, "load"),
                ),
            ),
            (sampled,),
        ),
    )


def _result(variant: Variant) -> Group:
    composite = {
        "generated": Link("decode", "IMAGE"),
        "product": Link("product", "IMAGE"),
        "product_mask": Link("product", "MASK"),
        "product_mask_selects": "background",
        "erode": variant.erode,
        "feather": variant.feather,
    }
    save = {"images": Link("composite", "IMAGE"), "filename_prefix": "ad"}
    return Group(
        "5  Result",
        RESULT_COLOUR,
        (
            (
                Node("decode", "VAEDecode", None, {"samples": Link("sampler", "LATENT"), "vae": variant.models.vae}),
                Node("composite", "StrictIDComposite", "Product's own pixels", composite, COMPOSITE_HEIGHT),
            ),
            (Node("save", "SaveImage", "Save the ad", save, height=RESULT_HEIGHT),),
        ),
    )


def strict_id(variant: Variant) -> Workflow:
    """The workflow with a variant's models and settings."""
    parts = (_brought, _pictures, _strict_id, _sampling, _result)
    return Workflow(variant.name, (variant.notes, *(part(variant) for part in parts)))


DEMO_STRICT_ID = strict_id(
    Variant(
        name="demo_strict_id",
        models=DEMO_MODELS,
        notes=notes(Note("How to use", HOW_TO_USE, 400), Note("The models", ABOUT_MODELS, 360), width=420),
        pictures=DEMO_PICTURES,
        prompt="a red bottle on a slate table beside a green plant, plain blue wall",
        negative_prompt="",
        sampler=DEMO_SAMPLER | {"seed": 3},
        erode=1,
        feather=1,
    )
)
