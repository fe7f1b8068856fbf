"""One product in three ad formats: the canvas, regions as shares of it, depth, a look at the product, the exact size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pfv_demo.sizes import IMAGE_SIZE

from .blocks import (
    ABOUT_DEMO,
    ADAPTER_COLOUR,
    DEMO_MODELS,
    DEMO_PICTURES,
    DEMO_SAMPLER,
    LOADERS,
    NEGATIVE_PROMPT,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    FormatSettings,
    Variant,
    compress,
    image_file,
    notes,
    prompt,
    two_references,
)
from .description import Group, Instance, Link, Node, Note, Subgraph, Workflow
from .format_nodes import ad_in_one_format
from .full import MODEL_FILES

HOW_TO_USE = """\
**Product photo**: a cut-out with transparency, of any size. Each *Ad* places it in its format; what is opaque there the ad \
shows pixel by pixel, and glass over what is drawn behind it.

**Product depth, Background reference depth**: near is bright. The product's has the photo's size; the reference's is \
stretched to each format, so that the table's edge stays at the same share of the height.

**Background reference, Table reference**: pictures whose look you want. Paint over what must not come through.

**Ad**: one format in one node. *format* and *position* say where the product stands and how large, *table begins at* is a \
share of the height from the top, *seed* draws another. To look inside, press the button at the right end of its title: there \
are the canvas, the depth, the regions and the looks in them, each with its preview, and *Product's own pixels*, which says how \
many of the product's pixels are the photo's. What you change there changes in all three; what stands on the node is its own.

**Another format**: copy an *Ad* (Ctrl+C, Ctrl+Shift+V keeps its links), choose the *format*, and save its *ad*.

Each ad is sampled near the size that the model was trained at, and saved at its exact size.
"""

HOW_TO_USE_DEMO = f"""\
**1.** Load the pictures of this pack's folder `workflows/demo_inputs` into the nodes that name them.

**2.** Run. One product, three formats; in each the product is the photo's own pixels; the wall and the table follow their \
references.

**3.** Move the product: *position*, *margin* of an *Ad*.

**4.** Write *a bottle* into *Prompt*. Open an *Ad* (the button at the right end of its title) and set the *strength* of *Look \
at the product* to 0: now the model does not know the bottle's colour, and a rim of another one shows around the photo's pixels.

The demo's models know {IMAGE_SIZE}x{IMAGE_SIZE} pixels; in the other shapes they are less sure of what they draw.
"""

TABLE_EDGE = 0.66  # share of every format's height
DEMO_TABLE_EDGE = 0.625  # of the demo's background reference


@dataclass(frozen=True)
class Format:
    """One of the ads.

    Attributes:
        key: of the saved file.
        title: of the node, and behind the titles of what is in it.
        canvas: the subgraph's inputs of these names.
        shadow_size: of the contact shadow, pixels; BY_HEIGHT = a tenth of the product's height.
    """

    key: str
    title: str
    canvas: Mapping[str, Any]
    shadow_size: int


def _references(variant: Variant) -> Group:
    """Two pictures, what is hidden in them, and the product with its depth."""
    shown, hidden, encoded = two_references(variant)
    pictures = variant.pictures
    reference_depth = f"{pictures}reference_background_depth.png"
    depth = image_file("reference_depth", "Background reference depth", reference_depth)
    product = (
        image_file("product", "Product photo", f"{pictures}product.png"),
        image_file("product_depth", "Product depth", f"{pictures}product_depth.png"),
    )
    return Group("1  References and product", REFERENCE_COLOUR, (shown, hidden, (*encoded, depth), product))


def _prompts(variant: Variant) -> Group:
    """Image prompts and text prompts, the same for every format."""
    models = variant.models
    loaders = (*models.beside_adapter, *models.beside_prompts)
    shared = (
        compress("compress_background", "Background image prompt", "encode_background", models.adapter),
        compress("compress_table", "Table image prompt", "encode_table", models.adapter),
        prompt("positive", "Prompt", variant.prompt, models.clip),
        prompt("negative", "Negative prompt", variant.negative_prompt, models.clip),
    )
    columns = tuple(column for column in (loaders, shared) if column)
    return Group("2  Adapter and prompts", ADAPTER_COLOUR, columns)


def _ad(part: Format, variant: Variant, subgraph: Subgraph, table_edge: float) -> tuple[Instance | Node, ...]:
    """One ad, and the node that saves it."""
    models = variant.models
    inputs = {
        "product": Link("product", "IMAGE"),
        "product mask": Link("product", "MASK"),
        "product depth": Link("product_depth", "IMAGE"),
        "background look": Link("compress_background", "PFV_IMAGE_PROMPT"),
        "table look": Link("compress_table", "PFV_IMAGE_PROMPT"),
        "reference depth": Link("reference_depth", "IMAGE"),
        "hidden in reference": Link("hide_in_background", "MASK"),
        "prompt": Link("positive", "CONDITIONING"),
        "negative prompt": Link("negative", "CONDITIONING"),
        "model": models.model,
        "VAE": models.vae,
        "depth ControlNet": models.control_net,
        **part.canvas,
        "table begins at": table_edge,
        "shadow size": part.shadow_size,
        "seed": 1,
    }
    name = f"ad_{part.key}"
    save = {"images": Link(name, "ad"), "filename_prefix": name}
    return (
        Instance(name, subgraph, f"Ad {part.title}", part.title, inputs),
        Node(f"save_{part.key}", "SaveImage", f"Save the ad {part.title}", save, RESULT_HEIGHT),
    )


def formats(variant: Variant, parts: tuple[Format, ...], settings: FormatSettings, table_edge: float) -> Workflow:
    """The workflow with a variant's models and settings; the table begins at a share of every format's height."""
    subgraph = ad_in_one_format(f"{variant.name}/ad", variant, settings)
    columns = tuple((item,) for part in parts for item in _ad(part, variant, subgraph, table_edge))
    ads = Group("3  One ad for each format", RESULT_COLOUR, columns, starts_row=True)
    return Workflow(variant.name, (variant.notes, _references(variant), _prompts(variant), ads))


# As large as fits, whatever the product's shape and the format's.
BOTTOM = {"position": "bottom", "scale by": "fit", "share": 0.7, "margin": 0.1}
RIGHT = {"position": "bottom_right", "scale by": "fit", "share": 0.8, "margin": 0.1}
BY_HEIGHT = 0  # the contact shadow's size
DEMO_REGION = FormatSettings(
    grow=-2, softness=0
)  # its cross-attention has cells of 16 pixels: what reaches into one, draws in all of it
DEMO_SHADOW = 12
DEMO_MARGIN = 0.1875  # of the square ad: the shipped product just fits between two of them
DEMO_BOTTOM = {"position": "bottom", "scale by": "original"}  # each with the margin that ends the product with a cell
DEMO_RIGHT = {"position": "bottom_right", "scale by": "original"}


def _custom(width: int, height: int, layout: Mapping[str, Any]) -> dict[str, Any]:
    return {"format": "custom", "own width": width, "own height": height, **layout}


FORMATS_VARIANT = Variant(
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
)
FORMAT_SETTINGS = FormatSettings(grow=8, softness=8)
FORMATS = formats(
    FORMATS_VARIANT,
    (
        Format("1x1", "1:1", {"format": "1:1", **BOTTOM}, BY_HEIGHT),
        Format("1080x1350", "4:5", {"format": "1080x1350", **BOTTOM}, BY_HEIGHT),
        Format("1200x628", "1.91:1", {"format": "1200x628", **RIGHT}, BY_HEIGHT),
    ),
    FORMAT_SETTINGS,
    TABLE_EDGE,
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
        Format("1x1", "1:1", _custom(IMAGE_SIZE, IMAGE_SIZE, {**DEMO_BOTTOM, "margin": DEMO_MARGIN}), DEMO_SHADOW),
        Format("4x5", "4:5", _custom(224, 280, {**DEMO_BOTTOM, "margin": 0.25}), DEMO_SHADOW),
        Format("1.91x1", "1.91:1", _custom(352, 184, {**DEMO_RIGHT, "margin": 0.044}), DEMO_SHADOW),
    ),
    DEMO_REGION,
    DEMO_TABLE_EDGE,
)
