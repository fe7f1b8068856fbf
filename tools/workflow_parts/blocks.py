"""Nodes and colours that the workflows share, and where they have their models and settings from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pfv_demo.sizes import IMAGE_SIZE

from .description import Group, Inlet, Link, ModelFile, Node, Note
from .models import ADAPTER, CHECKPOINT, CLIP_VISION, DEPTH_CONTROLNET

REFERENCE_COLOUR = "#3f789e"
ADAPTER_COLOUR = "#a1309b"
PRODUCT_COLOUR = "#8A8"
SAMPLING_COLOUR = "#b58b2a"
RESULT_COLOUR = "#A88"

PREVIEW_HEIGHT = 360  # of a node that shows an image
APPLY_HEIGHT = 600  # its widgets, a line of text and the region's picture
DEPTH_HEIGHT = 420
MASK_REGION_HEIGHT = 380  # widgets and the region's picture
SHAPE_REGION_HEIGHT = 540
PLACE_HEIGHT = 340
SCALE_HEIGHT = 540  # widgets and the rows over the product
COMPOSITE_HEIGHT = 600  # widgets, a line of text, and the picture of what is exact
PROMPT_HEIGHT = 150
RESULT_HEIGHT = 460

NEGATIVE_PROMPT = "text, watermark, logo, blurry, low quality, deformed"


@dataclass(frozen=True)
class ModelSource:
    """The outputs that hand out the models, and the nodes that have them, by where they stand on the canvas.

    Attributes:
        model, clip, vae, clip_vision, control_net, adapter: links to them.
        beside_references, beside_adapter, beside_prompts: the nodes, each tuple at the head of one column.
    """

    model: Link
    clip: Link
    vae: Link
    clip_vision: Link
    control_net: Link
    adapter: Link
    beside_references: tuple[Node, ...]
    beside_adapter: tuple[Node, ...]
    beside_prompts: tuple[Node, ...]


@dataclass(frozen=True)
class Variant:
    """What differs between two workflows of the same nodes.

    Attributes:
        name: of the files.
        models: where they come from.
        notes: what the canvas says.
        pictures: prefix of the pictures' file names.
        prompt, negative_prompt: as shipped.
        size: width and height of the ad, where no picture tells it.
        sampler: KSampler's settings.
        control_strength: of the depth.
        erode, feather: of the product's mask, pixels.
    """

    name: str
    models: ModelSource
    notes: Group
    pictures: str
    prompt: str
    negative_prompt: str
    sampler: Mapping[str, Any]
    size: tuple[int, int] = (0, 0)
    control_strength: float = 1.0
    erode: int = 0
    feather: int = 0


@dataclass(frozen=True)
class FormatSettings:
    """What an ad in one format has inside, whatever its format is: pixels that the product's region grows by, and the width
    of its soft edge."""

    grow: int
    softness: int


def notes(*texts: Note, width: int) -> Group:
    """Texts below each other, left of everything."""
    return Group(None, "", (texts,), width)


def loader(name: str, class_type: str, title: str, widget: str, model: ModelFile) -> Node:
    """A loader of one file."""
    return Node(name, class_type, title, {widget: model.name}, models=(model,))


def image_file(name: str, title: str, file_name: str) -> Node:
    """An image from the input folder; its MASK is 1 where painted or transparent."""
    return Node(name, "LoadImage", title, {"image": file_name}, height=PREVIEW_HEIGHT)


def prompt(name: str, title: str, text: str, clip: Link) -> Node:
    """A text prompt."""
    return Node(name, "CLIPTextEncode", title, {"clip": clip, "text": text}, height=PROMPT_HEIGHT)


def rebinarize(
    name: str, title: str, reference: str, clip_vision: Link, fit: str = "pad", painted: bool = True
) -> Node:
    """Hidden patches from what is painted on the image of node `reference`; painted=False = none."""
    inputs = {
        "clip_vision": clip_vision,
        "reference": Link(reference, "IMAGE"),
        **({"mask": Link(reference, "MASK")} if painted else {}),
        "fit": fit,
        "threshold": 0.0,
    }
    return Node(name, "PFVMaskRebinarize", title, inputs, height=PREVIEW_HEIGHT + 60)


def encode(name: str, title: str, reference: str, patch_mask: str, clip_vision: Link, mode: str = "drop") -> Node:
    """Tokens of the image of node `reference`, with the patch mask of node `patch_mask`."""
    inputs = {
        "clip_vision": clip_vision,
        "reference": Link(reference, "IMAGE"),
        "patch_mask": Link(patch_mask, "PFV_PATCH_MASK"),
        "mode": mode,
    }
    return Node(name, "PFVImageEncode", title, inputs)


def two_references(variant: Variant) -> tuple[tuple[Node, ...], tuple[Node, ...], tuple[Node, ...]]:
    """Columns: the models and two pictures, what is hidden in them, and what is left of them encoded."""
    vision, pictures = variant.models.clip_vision, variant.pictures
    names = ("background", "table")
    shown = [image_file(name, f"{name.title()} reference", f"{pictures}reference_{name}.png") for name in names]
    hidden = [rebinarize(f"hide_in_{name}", f"Hide in the {name} reference", name, vision) for name in names]
    encoded = [
        encode(f"encode_{name}", f"Encode the {name} reference", name, f"hide_in_{name}", vision) for name in names
    ]
    return (*variant.models.beside_references, *shown), tuple(hidden), tuple(encoded)


def compress(name: str, title: str, tokens: str, adapter: Link) -> Node:
    """Image prompt from the tokens of node `tokens`."""
    inputs = {
        "image_tokens": Link(tokens, "PFV_IMAGE_TOKENS"),
        "adapter": adapter,
        "method": "adapter",
        "num_tokens": 0,
    }
    return Node(name, "PFVTokenCompress", title, inputs)


def apply(
    name: str,
    title: str,
    model: Link,
    image_prompt: Link | Inlet,
    region: Link,
    others: Mapping[str, Any] | None = None,
) -> Node:
    """An image prompt alone in a region, and what other inputs of MEPA Apply are given."""
    inputs = {
        "model": model,
        "image_prompt": image_prompt,
        "region": region,
        "strength": 1.0,
        "text_share": 0.0,
        "gate": "output",
        "start_percent": 0.0,
        "end_percent": 1.0,
        **(others or {}),
    }
    return Node(name, "MEPAApply", title, inputs, height=APPLY_HEIGHT)


def sampler(variant: Variant, model: Link, positive: Link, negative: Link, latent: Link) -> Node:
    """The variant's KSampler."""
    inputs = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return Node("sampler", "KSampler", "Sampler", {**inputs, "seed": 1, **variant.sampler, "denoise": 1.0})


LOADERS = ModelSource(
    model=Link("checkpoint", "MODEL"),
    clip=Link("checkpoint", "CLIP"),
    vae=Link("checkpoint", "VAE"),
    clip_vision=Link("clip_vision", "CLIP_VISION"),
    control_net=Link("controlnet", "CONTROL_NET"),
    adapter=Link("adapter", "MEPA_ADAPTER"),
    beside_references=(loader("clip_vision", "CLIPVisionLoader", "CLIP Vision", "clip_name", CLIP_VISION),),
    beside_adapter=(
        loader("checkpoint", "CheckpointLoaderSimple", "Checkpoint", "ckpt_name", CHECKPOINT),
        loader("adapter", "MEPAAdapterLoader", "Adapter", "adapter_name", ADAPTER),
    ),
    beside_prompts=(
        loader("controlnet", "ControlNetLoader", "Depth ControlNet", "control_net_name", DEPTH_CONTROLNET),
    ),
)

PAIRED_LOADERS = ModelSource(
    model=Link("checkpoint", "MODEL"),
    clip=Link("checkpoint", "CLIP"),
    vae=Link("checkpoint", "VAE"),
    clip_vision=Link("adapter", "CLIP_VISION"),
    control_net=Link("controlnet", "CONTROL_NET"),
    adapter=Link("adapter", "MEPA_ADAPTER"),
    beside_references=(),
    beside_adapter=(
        Node(
            "adapter", "MEPALoad", "Adapter and encoder", {"adapter_name": ADAPTER.name}, models=(ADAPTER, CLIP_VISION)
        ),
    ),
    beside_prompts=(
        loader("checkpoint", "CheckpointLoaderSimple", "Checkpoint", "ckpt_name", CHECKPOINT),
        loader("controlnet", "ControlNetLoader", "Depth ControlNet", "control_net_name", DEPTH_CONTROLNET),
    ),
)

DEMO_MODELS = ModelSource(
    model=Link("models", "MODEL"),
    clip=Link("models", "CLIP"),
    vae=Link("models", "VAE"),
    clip_vision=Link("models", "CLIP_VISION"),
    control_net=Link("models", "CONTROL_NET"),
    adapter=Link("models", "MEPA_ADAPTER"),
    beside_references=(Node("models", "PFVDemoModels"),),
    beside_adapter=(),
    beside_prompts=(),
)
DEMO_SIZE = (IMAGE_SIZE, IMAGE_SIZE)
DEMO_SAMPLER = {"steps": 20, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple"}
DEMO_PICTURES = "demo_"
DEMO_WORDS = f"""\
The models come with this pack: tiny ones, trained on rendered scenes of {IMAGE_SIZE}x{IMAGE_SIZE} pixels, so \
that this runs anywhere in seconds.

They know products (*red, orange, yellow, green, teal, blue, purple, pink, black, white*; *bottle, jar, flask, vase, tube, \
box*), tables (*wooden, marble, slate, linen*) and walls (a colour; *plain*, or *with stripes, bands, dots, checks, slants*).
"""
ABOUT_DEMO = f"""\
{DEMO_WORDS}
With SDXL: open the workflow of the same name without *demo*.
"""
