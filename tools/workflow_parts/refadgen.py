"""RefAdGen with the demo's models: a product drawn from its photo where a mask says, in a scene of the prompt's."""

from __future__ import annotations

from pfv_demo.sizes import REFADGEN_FILE

from .blocks import (
    ADAPTER_COLOUR,
    DEMO_MODELS,
    DEMO_PICTURES,
    DEMO_SAMPLER,
    DEMO_SIZE,
    DEMO_WORDS,
    PRODUCT_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    SAMPLING_COLOUR,
    Variant,
    image_file,
    notes,
    prompt,
    sampler,
)
from .description import Group, Link, Node, Note, Workflow

HOW_TO_USE = """\
**1.** Load `demo_packshot.png` and `demo_place.png` of this pack's folder `workflows/demo_inputs` into the nodes that name \
them: a photo of the product on grey, and a picture on which is painted where the product shall stand.

**2.** Run. The prompt names table and wall; what the product is, the photo alone says, and it is drawn anew from what the \
model sees there. Nothing is pasted: no pixel of it is the photo's own, and its label is not kept.

**3.** Set the *strength* of *See the product photo* to 0 and run again: now nothing says what the product is.
"""

ABOUT_MODELS = f"""\
{DEMO_WORDS}
`{REFADGEN_FILE}` comes with this pack too, and fits these models alone. For SD1.5 and SDXL none is public: train one with \
`python -m lab.train --preset refadgen_sd15` or `refadgen_sdxl`, and put *Load Checkpoint* in the place of *PFV Demo Models*.
"""


def _brought(variant: Variant) -> Group:
    """The photo, the place, and the texts; and the models."""
    models, pictures = variant.models, variant.pictures
    return Group(
        "1  Product, place and sentence",
        PRODUCT_COLOUR,
        (
            (
                image_file("photo", "Product photo", f"{pictures}packshot.png"),
                image_file("place", "Place of the product", f"{pictures}place.png"),
            ),
            (
                *models.beside_references,
                prompt("positive", "Prompt", variant.prompt, models.clip),
                prompt("negative", "Negative prompt", variant.negative_prompt, models.clip),
                prompt("nothing", "Empty prompt for the photo", "", models.clip),
            ),
        ),
    )


def _refadgen(variant: Variant) -> Group:
    """The photo as the trained reference U-Net reads it, and the place at the U-Net's input."""
    models = variant.models
    fusion = {
        "model": Link("mask_input", "MODEL"),
        "reference_latent": Link("encode", "LATENT"),
        "reference_prompt": Link("nothing", "CONDITIONING"),
        "reference_model": Link("load", "MODEL"),
        "strength": 1.0,
        "combine": "as_trained",
        "reference_noise": "clean",
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    mask = {"model": models.model, "mask_input_name": REFADGEN_FILE, "product_mask": Link("place", "MASK")}
    return Group(
        "2  RefAdGen",
        ADAPTER_COLOUR,
        (
            (
                Node("load", "RefAdGenLoad", None, {"model": models.model, "refadgen_name": REFADGEN_FILE}),
                Node("mask_input", "RefAdGenMaskInput", "Tell the model the place", mask),
                Node("encode", "VAEEncode", "Encode the photo", {"pixels": Link("photo", "IMAGE"), "vae": models.vae}),
            ),
            (Node("fusion", "RefAdGenAttentionFusion", "See the product photo", fusion),),
        ),
    )


def _sampling(variant: Variant) -> Group:
    width, height = variant.size
    sampled = sampler(
        variant,
        model=Link("fusion", "MODEL"),
        positive=Link("positive", "CONDITIONING"),
        negative=Link("negative", "CONDITIONING"),
        latent=Link("size", "LATENT"),
    )
    size = {"width": width, "height": height, "batch_size": 1}
    return Group("3  Sampling", SAMPLING_COLOUR, ((Node("size", "EmptyLatentImage", "Ad size", size), sampled),))


def _result(variant: Variant) -> Group:
    save = {"images": Link("decode", "IMAGE"), "filename_prefix": "ad"}
    return Group(
        "4  Result",
        RESULT_COLOUR,
        (
            (
                Node("decode", "VAEDecode", None, {"samples": Link("sampler", "LATENT"), "vae": variant.models.vae}),
                Node("save", "SaveImage", "Save the ad", save, height=RESULT_HEIGHT),
            ),
        ),
    )


def refadgen(variant: Variant) -> Workflow:
    """The workflow with a variant's models and settings."""
    parts = (_brought, _refadgen, _sampling, _result)
    return Workflow(variant.name, (variant.notes, *(part(variant) for part in parts)))


DEMO_REFADGEN = refadgen(
    Variant(
        name="demo_refadgen",
        models=DEMO_MODELS,
        notes=notes(Note("How to use", HOW_TO_USE, 320), Note("The models", ABOUT_MODELS, 360), width=420),
        pictures=DEMO_PICTURES,
        prompt="a wooden table, blue wall with dots",
        negative_prompt="",
        sampler=DEMO_SAMPLER,
        size=DEMO_SIZE,
    )
)
