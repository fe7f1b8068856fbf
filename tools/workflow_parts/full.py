"""Everything: two references in regions of their own, depth control, and the product's own pixels in the result."""

from __future__ import annotations

from .blocks import (
    ADAPTER_COLOUR,
    NEGATIVE_PROMPT,
    PRODUCT_COLOUR,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    SAMPLING_COLOUR,
    adapter,
    checkpoint,
    clip_vision,
    compress,
    encode,
    image_file,
    loader,
    prompt,
    rebinarize,
)
from .description import Group, Link, Node, Note, Workflow
from .models import DEPTH_CONTROLNET

HOW_TO_USE = """\
**Product photo**: a cut-out with transparency, placed where it stands in the ad. The ad gets its size: sides \
divisible by 8, about one megapixel. If you paint the product instead, set *product_mask_selects* to *product* \
in two nodes: *Depth of the ad* and *Product's own pixels*.

**Product depth, Background reference depth**: depth maps, near is bright, made from the product photo and from the \
background reference. Any size of the same shape.

**Background reference, Table reference**: pictures whose look you want. Paint over what must not come through \
(right-click, *Open in MaskEditor*).

**Background region, Table region**: any picture of the ad's shape; paint where each reference rules. Leave the \
product free: there the prompt rules.

Run. Inside the product the ad is the photo itself, pixel by pixel.
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

NOTES = Group(None, "", ((Note("How to use", HOW_TO_USE, 300), Note("Model files", MODEL_FILES, 240)),), 420)

REFERENCE = Group(
    "1  References",
    REFERENCE_COLOUR,
    (
        (
            clip_vision(),
            image_file("background", "Background reference", "reference_background.png"),
            image_file("table", "Table reference", "reference_table.png"),
        ),
        (
            rebinarize("hide_in_background", "Hide in the background reference", "background"),
            rebinarize("hide_in_table", "Hide in the table reference", "table"),
        ),
        (
            encode("encode_background", "Encode the background reference", "background", "hide_in_background"),
            encode("encode_table", "Encode the table reference", "table", "hide_in_table"),
        ),
    ),
)


def _apply(name: str, title: str, model: Link, image_prompt: str, region: str) -> Node:
    inputs = {
        "model": model,
        "image_prompt": Link(image_prompt, "PFV_IMAGE_PROMPT"),
        "region": Link(region, "MASK"),
        "strength": 1.0,
        "text_share": 0.0,
        "gate": "output",
        "start_percent": 0.0,
        "end_percent": 1.0,
    }
    return Node(name, "MEPAApply", title, inputs)


ADAPTER = Group(
    "2  Adapter and regions",
    ADAPTER_COLOUR,
    (
        (
            checkpoint(),
            adapter(),
            image_file("background_region", "Background region", "region_background.png"),
            image_file("table_region", "Table region", "region_table.png"),
        ),
        (
            compress("compress_background", "Background image prompt", "encode_background"),
            compress("compress_table", "Table image prompt", "encode_table"),
        ),
        (
            _apply(
                "apply_background",
                "Background reference in its region",
                Link("checkpoint", "MODEL"),
                "compress_background",
                "background_region",
            ),
            _apply(
                "apply_table",
                "Table reference in its region",
                Link("apply_background", "MODEL"),
                "compress_table",
                "table_region",
            ),
        ),
    ),
)


def _to_ad_size(name: str, title: str, image: Link, upscale_method: str) -> Node:
    """An image brought to the product photo's size; what sticks out of its shape is cut off evenly."""
    inputs = {
        "image": image,
        "upscale_method": upscale_method,
        "width": Link("ad_size", "width"),
        "height": Link("ad_size", "height"),
        "crop": "center",
    }
    return Node(name, "ImageScale", title, inputs)


# The reference's depth and its mask are scaled by picking pixels: a smooth kernel would mix hidden depth into visible.
PRODUCT = Group(
    "3  Product and depth",
    PRODUCT_COLOUR,
    (
        (
            image_file("product", "Product photo", "product.png"),
            image_file("product_depth", "Product depth", "product_depth.png"),
            image_file("reference_depth", "Background reference depth", "reference_background_depth.png"),
        ),
        (
            Node(
                "ad_size",
                "GetImageSize",
                "Ad size",
                {"image": Link("product", "IMAGE")},
                height=150,  # when it has run it shows the size in a box below its slots
            ),
            Node("hidden_image", "MaskToImage", None, {"mask": Link("hide_in_background", "MASK")}),
        ),
        (
            _to_ad_size("scaled_product_depth", "Product depth at ad size", Link("product_depth", "IMAGE"), "bilinear"),
            _to_ad_size(
                "scaled_reference_depth",
                "Reference depth at ad size",
                Link("reference_depth", "IMAGE"),
                "nearest-exact",
            ),
            _to_ad_size("scaled_hidden", "Hidden part at ad size", Link("hidden_image", "IMAGE"), "nearest-exact"),
            Node("hidden", "ImageToMask", None, {"image": Link("scaled_hidden", "IMAGE"), "channel": "red"}),
        ),
        (
            Node(
                "depth",
                "PFVDepthCompose",
                "Depth of the ad",
                {
                    "foreground_depth": Link("scaled_product_depth", "IMAGE"),
                    "product_mask": Link("product", "MASK"),
                    "product_mask_selects": "background",
                    "reference_depth": Link("scaled_reference_depth", "IMAGE"),
                    "fill": "surroundings",
                    "hidden_mask": Link("hidden", "MASK"),
                },
            ),
            Node("depth_preview", "PreviewImage", "Depth preview", {"images": Link("depth", "IMAGE")}, height=300),
        ),
    ),
)

SAMPLING = Group(
    "4  Sampling",
    SAMPLING_COLOUR,
    (
        (
            prompt("positive", "Prompt", "a ceramic coffee cup, product advertising photograph, soft daylight"),
            prompt("negative", "Negative prompt", NEGATIVE_PROMPT),
            loader("controlnet", "ControlNetLoader", "Depth ControlNet", "control_net_name", DEPTH_CONTROLNET),
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
                    "control_net": Link("controlnet", "CONTROL_NET"),
                    "image": Link("depth", "IMAGE"),
                    "strength": 0.8,
                    "start_percent": 0.0,
                    "end_percent": 1.0,
                },
            ),
        ),
        (
            Node(
                "sampler",
                "KSampler",
                "Sampler",
                {
                    "model": Link("apply_table", "MODEL"),
                    "positive": Link("control", "positive"),
                    "negative": Link("control", "negative"),
                    "latent_image": Link("latent", "LATENT"),
                    "seed": 1,
                    "steps": 30,
                    "cfg": 7.5,
                    "sampler_name": "ddim",
                    "scheduler": "ddim_uniform",
                    "denoise": 1.0,
                },
            ),
        ),
    ),
)

RESULT = Group(
    "5  Result",
    RESULT_COLOUR,
    (
        (
            Node("decode", "VAEDecode", None, {"samples": Link("sampler", "LATENT"), "vae": Link("checkpoint", "VAE")}),
            Node(
                "composite",
                "StrictIDComposite",
                "Product's own pixels",
                {
                    "generated": Link("decode", "IMAGE"),
                    "product": Link("product", "IMAGE"),
                    "product_mask": Link("product", "MASK"),
                    "product_mask_selects": "background",
                    "erode": 2,
                    "feather": 4,
                },
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

FULL = Workflow("full", (NOTES, REFERENCE, ADAPTER, PRODUCT, SAMPLING, RESULT))
