"""Nodes and colours that the workflows share."""

from __future__ import annotations

from .description import Link, ModelFile, Node
from .models import ADAPTER, CHECKPOINT, CLIP_VISION

REFERENCE_COLOUR = "#3f789e"
ADAPTER_COLOUR = "#a1309b"
PRODUCT_COLOUR = "#8A8"
SAMPLING_COLOUR = "#b58b2a"
RESULT_COLOUR = "#A88"

PREVIEW_HEIGHT = 360  # of a node that shows an image
PROMPT_HEIGHT = 150
RESULT_HEIGHT = 460

NEGATIVE_PROMPT = "text, watermark, logo, blurry, low quality, deformed"


def checkpoint() -> Node:
    """The loader whose MODEL, CLIP and VAE the others use as `checkpoint`."""
    return loader("checkpoint", "CheckpointLoaderSimple", "Checkpoint", "ckpt_name", CHECKPOINT)


def clip_vision() -> Node:
    """The image encoder, `clip_vision`."""
    return loader("clip_vision", "CLIPVisionLoader", "CLIP Vision", "clip_name", CLIP_VISION)


def adapter() -> Node:
    """The image-prompt adapter, `adapter`."""
    return loader("adapter", "MEPAAdapterLoader", "Adapter", "adapter_name", ADAPTER)


def loader(name: str, class_type: str, title: str, widget: str, model: ModelFile) -> Node:
    """A loader of one file."""
    return Node(name, class_type, title, {widget: model.name}, model=model)


def image_file(name: str, title: str, file_name: str) -> Node:
    """An image from the input folder; its MASK is 1 where painted or transparent."""
    return Node(name, "LoadImage", title, {"image": file_name}, height=PREVIEW_HEIGHT)


def prompt(name: str, title: str, text: str) -> Node:
    """A text prompt."""
    return Node(name, "CLIPTextEncode", title, {"clip": Link("checkpoint", "CLIP"), "text": text}, height=PROMPT_HEIGHT)


def rebinarize(name: str, title: str, reference: str) -> Node:
    """Hidden patches from what is painted on the image of node `reference`."""
    inputs = {
        "clip_vision": Link("clip_vision", "CLIP_VISION"),
        "reference": Link(reference, "IMAGE"),
        "mask": Link(reference, "MASK"),
        "fit": "pad",
        "threshold": 0.0,
    }
    return Node(name, "PFVMaskRebinarize", title, inputs, height=PREVIEW_HEIGHT + 60)


def encode(name: str, title: str, reference: str, patch_mask: str) -> Node:
    """Visible tokens of the image of node `reference`, with the patch mask of node `patch_mask`."""
    inputs = {
        "clip_vision": Link("clip_vision", "CLIP_VISION"),
        "reference": Link(reference, "IMAGE"),
        "patch_mask": Link(patch_mask, "PFV_PATCH_MASK"),
        "mode": "drop",
    }
    return Node(name, "PFVImageEncode", title, inputs)


def compress(name: str, title: str, tokens: str) -> Node:
    """Image prompt from the tokens of node `tokens`."""
    inputs = {
        "image_tokens": Link(tokens, "PFV_IMAGE_TOKENS"),
        "adapter": Link("adapter", "MEPA_ADAPTER"),
        "method": "adapter",
        "num_tokens": 0,
    }
    return Node(name, "PFVTokenCompress", title, inputs)
