"""One product in three ad formats: the canvas, regions as shares of it, depth, a look at the product, the exact size."""

from __future__ import annotations

from .blocks import (
    ABOUT_DEMO,
    ADAPTER_COLOUR,
    DEMO_MODELS,
    DEMO_PICTURES,
    DEMO_SAMPLER,
    LOADERS,
    NEGATIVE_PROMPT,
    PRODUCT_COLOUR,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    SAMPLING_COLOUR,
    Variant,
    compress,
    image_file,
    notes,
    prompt,
    two_references,
)
from .description import Group, Link, Node, Note, Workflow
from .format_nodes import Format, canvas_nodes, depth_nodes, prompt_nodes, region_nodes, result_nodes, sampling_nodes
from .full import MODEL_FILES

HOW_TO_USE = """\
**Product photo**: a cut-out with transparency, of any size. *Canvas* places it in each format; what is opaque there the \
ad shows pixel by pixel, and glass over what is drawn behind it. If you paint the product instead, set \
*product_mask_selects* to *product* in the three *Canvas* nodes.

**Product depth, Background reference depth**: near is bright. The product's has the photo's size; the reference's is \
stretched to each format, so that the table's edge stays at the same share of the height.

**Background reference, Table reference**: pictures whose look you want. Paint over what must not come through.

**Regions**: the product, grown by a few pixels, lies over the table, the table over the background. The preview of \
*Regions* shows them. The product's region belongs to the prompt. The background's image prompt is *MEPA Apply*'s own, the \
table's a branch of it.

**Look at the product**: the model sees the product of *Canvas* while it draws, so that what it draws around the pasted one \
has the same colours. *strength* 0: off.

**References in the ControlNet**: its cross-attentions get the image prompts too. Bypass the node to leave it at the text.

**Product's own pixels**: adds a contact shadow at the product's foot (*shadow_strength* 0: none), and says below its widgets \
how many of the product's pixels are the photo's.

Each ad is sampled at its size rounded up to multiples of 8, and saved at its exact size.

**Scale map** shows which rows a subject takes that is five times as high as the product. It is for a ControlNet with four \
hint channels that you trained: none is public.
"""

HOW_TO_USE_DEMO = """\
**1.** Load the pictures of this pack's folder `workflows/demo_inputs` into the nodes that name them.

**2.** Run. One product, three formats; in each the product is the photo's own pixels, which *Product's own pixels* counts below \
its widgets; the wall and the table follow their references.

**3.** Move the product: *position*, *margin* in a *Canvas*.

**4.** Write *a bottle* into *Prompt* and set the *strength* of *Look at the product* to 0: now the model does not know the \
bottle's colour, and a rim of another one shows around the photo's pixels.

The demo's models know 128x128 pixels; in the other shapes they are less sure of what they draw.

**Scale map** is for a ControlNet with four hint channels that you trained; nothing here uses it.
"""


def _references(variant: Variant) -> Group:
    """Two pictures, what is hidden in them, and the product with its depth."""
    shown, hidden, encoded = two_references(variant)
    pictures = variant.pictures
    product = (
        image_file("product", "Product photo", f"{pictures}product.png"),
        image_file("product_depth", "Product depth", f"{pictures}product_depth.png"),
        image_file("reference_depth", "Background reference depth", f"{pictures}reference_background_depth.png"),
    )
    hidden_image = Node("hidden_image", "MaskToImage", None, {"mask": Link("hide_in_background", "MASK")})
    return Group("1  References and product", REFERENCE_COLOUR, (shown, hidden, (*encoded, hidden_image), product))


def _prompts(variant: Variant) -> Group:
    """Image prompts and text prompts, the same for every format."""
    models = variant.models
    return Group(
        "2  Adapter and prompts",
        ADAPTER_COLOUR,
        (
            (*models.beside_adapter, *models.beside_prompts),
            (
                compress("compress_background", "Background image prompt", "encode_background", models.adapter),
                compress("compress_table", "Table image prompt", "encode_table", models.adapter),
                prompt("positive", "Prompt", variant.prompt, models.clip),
                prompt("negative", "Negative prompt", variant.negative_prompt, models.clip),
            ),
        ),
    )


def _format(number: int, part: Format, variant: Variant) -> Group:
    columns = (
        canvas_nodes(part),
        depth_nodes(part, variant),
        region_nodes(part),
        prompt_nodes(part, variant),
        sampling_nodes(part, variant),
        result_nodes(part, variant),
    )
    return Group(f"{number}  {part.title}", part.colour, columns)


def _scale_map(part: Format) -> Group:
    """The map of one format, seen alone."""
    inputs = {
        "product": part.link("canvas", "image"),
        "product_mask": part.link("canvas", "product_mask"),
        "product_mask_selects": "product",
        "height_from": "sizes",
        "product_cm": 4.0,
        "subject_cm": 20.0,
        "center": 0.0,
    }
    return Group(
        "6  Scale map",
        "#666",
        (
            (
                Node("scale_map", "PFVScaleMap", "Scale map", inputs),
                Node("seen", "MaskPreview", "Scale map preview", {"mask": Link("scale_map", "scale_map")}, 300),
            ),
        ),
    )


def formats(variant: Variant, parts: tuple[Format, ...]) -> Workflow:
    """The workflow with a variant's models and settings, one group for each format."""
    groups = [_format(number, part, variant) for number, part in enumerate(parts, 3)]
    return Workflow(
        variant.name, (variant.notes, _references(variant), _prompts(variant), *groups, _scale_map(parts[0]))
    )


BOTTOM = {"position": "bottom", "scale_by": "height", "share": 0.5, "margin": 0.15}
RIGHT = {"position": "bottom_right", "scale_by": "height", "share": 0.6, "margin": 0.12}
DEMO_REGION = (-2, 0)  # the demo's cross-attention has cells of 16 pixels: what reaches into one, draws in all of it
DEMO_SHADOW = 6
DEMO_BOTTOM = {"position": "bottom", "scale_by": "original"}  # each with the margin that ends the product with a cell
DEMO_RIGHT = {"position": "bottom_right", "scale_by": "original", "margin": 0.06}

FORMATS = formats(
    Variant(
        name="formats",
        models=LOADERS,
        notes=notes(Note("How to use", HOW_TO_USE, 640), Note("Model files", MODEL_FILES, 240), width=420),
        pictures="",
        prompt="a ceramic coffee cup, product advertising photograph, soft daylight",
        negative_prompt=NEGATIVE_PROMPT,
        sampler={"steps": 30, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"},
        control_strength=0.8,
        erode=2,
        feather=4,
    ),
    (
        Format("1x1", "1:1", PRODUCT_COLOUR, {"format": "1:1", **BOTTOM}, 48),
        Format("1080x1350", "4:5", SAMPLING_COLOUR, {"format": "1080x1350", **BOTTOM}, 64),
        Format("1200x628", "1.91:1", RESULT_COLOUR, {"format": "1200x628", **RIGHT}, 36),
    ),
)

DEMO_FORMATS = formats(
    Variant(
        name="demo_formats",
        models=DEMO_MODELS,
        notes=notes(Note("How to use", HOW_TO_USE_DEMO, 440), Note("The models", ABOUT_DEMO, 300), width=420),
        pictures=DEMO_PICTURES,
        prompt="a red bottle",
        negative_prompt="",
        sampler=DEMO_SAMPLER,
        control_strength=1.5,
        erode=1,
        feather=1,
    ),
    (
        Format(
            "1x1",
            "1:1",
            PRODUCT_COLOUR,
            {"format": "custom", "custom_width": 128, "custom_height": 128, **DEMO_BOTTOM, "margin": 0.125},
            DEMO_SHADOW,
            DEMO_REGION,
        ),
        Format(
            "1080x1350",
            "4:5",
            SAMPLING_COLOUR,
            {"format": "custom", "custom_width": 112, "custom_height": 140, **DEMO_BOTTOM, "margin": 0.2},
            DEMO_SHADOW,
            DEMO_REGION,
        ),
        Format(
            "1200x628",
            "1.91:1",
            RESULT_COLOUR,
            {"format": "custom", "custom_width": 172, "custom_height": 90, **DEMO_RIGHT},
            DEMO_SHADOW,
            DEMO_REGION,
        ),
    ),
)
