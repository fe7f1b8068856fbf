"""Everything: two references in regions of their own, depth control, and the product's own pixels in the result."""

from __future__ import annotations

from .blocks import (
    ABOUT_DEMO,
    ADAPTER_COLOUR,
    COMPOSITE_HEIGHT,
    DEMO_MODELS,
    DEMO_PICTURES,
    DEMO_SAMPLER,
    DEPTH_HEIGHT,
    LOADERS,
    NEGATIVE_PROMPT,
    PRODUCT_COLOUR,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    SAMPLING_COLOUR,
    Variant,
    apply,
    compress,
    image_file,
    notes,
    prompt,
    sampler,
    two_references,
)
from .description import Group, Link, Node, Note, Workflow

HOW_TO_USE = """\
**Product photo**: a cut-out with transparency, placed where it stands in the ad. The ad gets its size: sides \
divisible by 8, about one megapixel. If you paint the product instead, set *product_mask_selects* to *product* \
in two nodes: *Depth of the ad* and *Product's own pixels*.

**Product depth, Background reference depth**: depth maps, near is bright, made from the product photo and from the \
background reference, of any size; what sticks out of the ad's shape is cut off evenly.

**Background reference, Table reference**: pictures whose look you want. Paint over what must not come through \
(right-click, *Open in MaskEditor*).

**Background region, Table region**: any picture of the ad's shape; paint where each reference rules. Leave the \
product free: there the prompt rules.

Run. Where the product is opaque the ad is the photo itself, pixel by pixel; glass is mixed with what is drawn behind it.
"""

MODEL_FILES = """\
| folder in `models` | file |
|---|---|
| `checkpoints` | `sd_xl_base_1.0.safetensors`, or any SDXL checkpoint |
| `clip_vision` | `CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors` |
| `ipadapter` | `ip-adapter-plus_sdxl_vit-h.safetensors` |
| `controlnet` | `diffusers_xl_depth_full.safetensors`, or any SDXL depth ControlNet |

The CLIP vision file is called `model.safetensors` on its page (h94/IP-Adapter, `models/image_encoder`): rename it.
"""

HOW_TO_USE_DEMO = """\
**1.** Load the seven pictures of this pack's folder `workflows/demo_inputs` into the nodes that name them. In both \
references somebody else's product is painted over; the product photo is a cut-out.

**2.** Run. The wall follows one reference, the table the other, and inside the product the ad is the photo itself, \
pixel by pixel.

**3.** Delete the link to *mask* of *Hide in the background reference* and run again: now the other product is seen, and \
leaks into the ad.
"""


def _references(variant: Variant) -> Group:
    """Two pictures, and what is hidden in them."""
    return Group("1  References", REFERENCE_COLOUR, two_references(variant))


def _regions(variant: Variant) -> Group:
    """Each reference as an image prompt in its region."""
    models = variant.models
    return Group(
        "2  Adapter and regions",
        ADAPTER_COLOUR,
        (
            (
                *models.beside_adapter,
                image_file("background_region", "Background region", f"{variant.pictures}region_background.png"),
                image_file("table_region", "Table region", f"{variant.pictures}region_table.png"),
            ),
            (
                compress("compress_background", "Background image prompt", "encode_background", models.adapter),
                compress("compress_table", "Table image prompt", "encode_table", models.adapter),
            ),
            (
                apply(
                    "apply_background",
                    "Background reference in its region",
                    models.model,
                    Link("compress_background", "PFV_IMAGE_PROMPT"),
                    Link("background_region", "MASK"),
                ),
                apply(
                    "apply_table",
                    "Table reference in its region",
                    Link("apply_background", "MODEL"),
                    Link("compress_table", "PFV_IMAGE_PROMPT"),
                    Link("table_region", "MASK"),
                ),
            ),
        ),
    )


def _product(variant: Variant) -> Group:
    """The product photo, and the depth of the ad: its own before the reference's."""
    pictures = variant.pictures
    compose = {
        "foreground_depth": Link("product_depth", "IMAGE"),
        "product_mask": Link("product", "MASK"),
        "product_mask_selects": "background",
        "reference_depth": Link("reference_depth", "IMAGE"),
        "fill": "surroundings",
        "hidden_mask": Link("hide_in_background", "MASK"),
        "fit": "crop",
    }
    reference_depth = f"{pictures}reference_background_depth.png"
    return Group(
        "3  Product and depth",
        PRODUCT_COLOUR,
        (
            (
                image_file("product", "Product photo", f"{pictures}product.png"),
                image_file("product_depth", "Product depth", f"{pictures}product_depth.png"),
                image_file("reference_depth", "Background reference depth", reference_depth),
            ),
            (
                # When the size has been found it is shown in a box below the slots.
                Node("ad_size", "GetImageSize", "Ad size", {"image": Link("product", "IMAGE")}, height=150),
                Node("depth", "PFVDepthCompose", "Depth of the ad", compose, DEPTH_HEIGHT),
            ),
        ),
        starts_row=True,
    )


def _sampling(variant: Variant) -> Group:
    """Prompts, depth control and sampler."""
    models = variant.models
    return Group(
        "4  Sampling",
        SAMPLING_COLOUR,
        (
            (
                prompt("positive", "Prompt", variant.prompt, models.clip),
                prompt("negative", "Negative prompt", variant.negative_prompt, models.clip),
                *models.beside_prompts,
                Node(
                    "latent",
                    "EmptyLatentImage",
                    "Empty latent at ad size",
                    {
                        "width": Link("ad_size", "width"),
                        "height": Link("ad_size", "height"),
                        "batch_size": 1,
                    },
                ),
            ),
            (
                Node(
                    "control",
                    "ControlNetApplyAdvanced",
                    "Apply depth",
                    {
                        "positive": Link("positive", "CONDITIONING"),
                        "negative": Link("negative", "CONDITIONING"),
                        "control_net": models.control_net,
                        "image": Link("depth", "IMAGE"),
                        "strength": variant.control_strength,
                        "start_percent": 0.0,
                        "end_percent": 1.0,
                    },
                ),
            ),
            (
                sampler(
                    variant,
                    model=Link("apply_table", "MODEL"),
                    positive=Link("control", "positive"),
                    negative=Link("control", "negative"),
                    latent=Link("latent", "LATENT"),
                ),
            ),
        ),
    )


def _result(variant: Variant) -> Group:
    """The ad."""
    models = variant.models
    return Group(
        "5  Result",
        RESULT_COLOUR,
        (
            (
                Node("decode", "VAEDecode", None, {"samples": Link("sampler", "LATENT"), "vae": models.vae}),
                Node(
                    "composite",
                    "StrictIDComposite",
                    "Product's own pixels",
                    {
                        "generated": Link("decode", "IMAGE"),
                        "product": Link("product", "IMAGE"),
                        "product_mask": Link("product", "MASK"),
                        "product_mask_selects": "background",
                        "erode": variant.erode,
                        "feather": variant.feather,
                    },
                    COMPOSITE_HEIGHT,
                ),
            ),
            (
                Node(
                    "save",
                    "SaveImage",
                    "Save the ad",
                    {"images": Link("composite", "IMAGE"), "filename_prefix": "ad"},
                    height=RESULT_HEIGHT,
                ),
            ),
        ),
    )


def full(variant: Variant) -> Workflow:
    """The workflow with a variant's models and settings."""
    parts = (_references, _regions, _product, _sampling, _result)
    return Workflow(variant.name, (variant.notes, *(part(variant) for part in parts)))


FULL = full(
    Variant(
        name="full",
        models=LOADERS,
        notes=notes(Note("How to use", HOW_TO_USE, 300), Note("Model files", MODEL_FILES, 240), width=420),
        pictures="",
        prompt="a ceramic coffee cup, product advertising photograph, soft daylight",
        negative_prompt=NEGATIVE_PROMPT,
        sampler={"steps": 30, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"},
        control_strength=0.8,
        erode=2,
        feather=4,
    )
)

DEMO_FULL = full(
    Variant(
        name="demo_full",
        models=DEMO_MODELS,
        notes=notes(Note("How to use", HOW_TO_USE_DEMO, 300), Note("The models", ABOUT_DEMO, 300), width=420),
        pictures=DEMO_PICTURES,
        prompt="a red bottle",
        negative_prompt="",
        sampler=DEMO_SAMPLER,
        control_strength=1.0,
        erode=1,
        feather=1,
    )
)
