"""RefAdGen: a reference U-Net's keys and values in the self-attention, a product mask at the U-Net's input, and trained files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ...pfv_core.attention.fusion import Combine, FusionControl
from ...pfv_core.choices import parse_choice
from ...pfv_core.masks import Selects, product_region
from ...pfv_core.research.mask_input import load_mask_input
from ...pfv_core.research.refadgen import open_refadgen
from ..ad.product_nodes import MASK_SELECTS_TOOLTIP
from ..host.files import Fingerprint, fingerprint
from ..host.mask_input import apply_mask_input
from ..host.refadgen import combine_of, load_reference
from ..host.reference_pass import ReferenceNoise
from ..host.schedule import Window
from ..host.self_attention import apply_attention_fusion
from ..types import CATEGORY, RESEARCH_CATEGORY
from ..window_inputs import window_inputs

FOLDER = "model_patches"  # the host's own, for weights that are added to a checkpoint
AS_TRAINED = "as_trained"
BASE_TOOLTIP = "The base that the file was trained on: SD1.5, SDXL, or the model of PFV Demo Models."


class RefAdGenAttentionFusion(io.ComfyNode):
    """Product image -> model whose self-attention sees it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="RefAdGenAttentionFusion",
            display_name="RefAdGen Attention Fusion",
            category=CATEGORY,
            description="Lets every self-attention of the model look at a product image: a reference U-Net reads the image, and "
            "its keys and values join the model's own inside the product mask. Several of these nodes stack.",
            inputs=[
                io.Model.Input("model", tooltip="SDXL, SD1.5 or a distilled SDXL (SSD-1B, Vega, KOALA)."),
                io.Latent.Input(
                    "reference_latent",
                    tooltip="The product image through VAE Encode, with the VAE of the model. Any size; a cut-out on a plain "
                    "ground is best. One for all images of a batch, or one for each.",
                ),
                io.Conditioning.Input(
                    "reference_prompt",
                    tooltip="What the product image shows, from CLIP Text Encode, or an empty prompt. For the pass on the "
                    "product image alone.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="How strongly the product image counts. 0: the node does nothing. 1: as in the paper's equation 1. "
                    "Where combine is blend: 1 at most.",
                ),
                io.Combo.Input(
                    "combine",
                    options=[AS_TRAINED, *Combine],
                    default=AS_TRAINED,
                    tooltip="add: the paper's equation 1, the product's attention on top of the model's own. blend: the "
                    "product's attention takes the place of the model's own, for models that were not trained for it. "
                    "as_trained: add with a reference_model of RefAdGen Load, else blend.",
                ),
                io.Combo.Input(
                    "reference_noise",
                    options=list(ReferenceNoise),
                    default=ReferenceNoise.CLEAN,
                    tooltip="clean: the product image is read once, without noise. step: it is read at each step, with the "
                    "noise of that step, which takes about the time of one more image.",
                ),
                *window_inputs(),
                io.Mask.Input(
                    "product_mask",
                    optional=True,
                    tooltip="Where the product stands in the new image; soft edges blend. It spans the whole image, at any "
                    "resolution of the same shape. Not connected: everywhere.",
                ),
                io.Model.Input(
                    "reference_model",
                    optional=True,
                    tooltip="What reads the product image: trained for it, from RefAdGen Load, or another checkpoint of the same "
                    "family, from another file. Not connected: the model reads it itself.",
                ),
                _selects_input(),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model",
                    display_name="model",
                    tooltip="For the sampler, MEPA Apply, or another of these nodes.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        reference_latent: dict[str, Any],
        reference_prompt: list[Any],
        strength: float,
        combine: str,
        reference_noise: str,
        start_percent: float,
        end_percent: float,
        product_mask: Tensor | None = None,
        reference_model: Any = None,
        product_mask_selects: str = Selects.PRODUCT,
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        return io.NodeOutput(
            apply_attention_fusion(
                model,
                reference_latent["samples"],
                reference_prompt,
                FusionControl(strength, combine_of(reference_model) if combine == AS_TRAINED else combine),
                parse_choice(ReferenceNoise, reference_noise, "reference_noise"),
                None if product_mask is None else product_region(product_mask, product_mask_selects, "product_mask"),
                reference_model,
                Window(start_percent, end_percent),
            )
        )


class RefAdGenLoad(io.ComfyNode):
    """Trained file + the base it was trained on -> the reference U-Net."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="RefAdGenLoad",
            display_name="RefAdGen Load",
            category=RESEARCH_CATEGORY,
            description="Research: the pack brings a small file for the demo's models, for SD1.5 and SDXL you train one. Loads "
            "the reference U-Net and the projections that RefAdGen's training wrote, for RefAdGen Attention Fusion. The same "
            "file goes into RefAdGen Mask Input.",
            inputs=[
                io.Model.Input("model", tooltip=BASE_TOOLTIP),
                io.Combo.Input(
                    "refadgen_name",
                    options=_safetensors(),
                    tooltip="A safetensors file in models/model_patches, as python -m lab.train of the pack's repository writes "
                    "it with a preset of RefAdGen; or pfv_demo_refadgen, which the pack brings.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    "loaded_model",
                    display_name="reference_model",
                    tooltip="For the input reference_model of RefAdGen Attention Fusion. It paints no pictures.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: Any, refadgen_name: str) -> io.NodeOutput:
        """Load the file."""
        file = open_refadgen(Path(folder_paths.get_full_path_or_raise(FOLDER, refadgen_name)))
        return io.NodeOutput(load_reference(model, file))

    @classmethod
    def fingerprint_inputs(cls, refadgen_name: str, **kwargs: Any) -> Fingerprint:
        """A file that was replaced is loaded anew."""
        return fingerprint(FOLDER, refadgen_name)


class RefAdGenMaskInput(io.ComfyNode):
    """Product mask + trained file -> model that reads the mask at its input."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="RefAdGenMaskInput",
            display_name="RefAdGen Mask Input",
            category=RESEARCH_CATEGORY,
            description="Research: the pack brings a small file for the demo's models, for SD1.5 and SDXL you train one. Gives "
            "the U-Net a product mask as a fifth input channel, so that the model knows from its first layer where the product "
            "stands.",
            inputs=[
                io.Model.Input("model", tooltip=BASE_TOOLTIP),
                io.Combo.Input(
                    "mask_input_name",
                    options=_safetensors(),
                    tooltip="A safetensors file in models/model_patches: RefAdGen's trained file, or its mask channel alone; or "
                    "pfv_demo_refadgen, which the pack brings.",
                ),
                io.Mask.Input(
                    "product_mask",
                    tooltip="Where the product stands in the new image. It spans the whole image, at any resolution of the same "
                    "shape. One for all images of a batch, or one for each.",
                ),
                _selects_input(),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model", display_name="model", tooltip="For the sampler, or RefAdGen Attention Fusion."
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, mask_input_name: str, product_mask: Tensor, product_mask_selects: str = Selects.PRODUCT
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        mask_input = load_mask_input(Path(folder_paths.get_full_path_or_raise(FOLDER, mask_input_name)))
        product = product_region(product_mask, product_mask_selects, "product_mask")
        return io.NodeOutput(apply_mask_input(model, mask_input, product))

    @classmethod
    def fingerprint_inputs(cls, mask_input_name: str, **kwargs: Any) -> Fingerprint:
        """A file that was replaced is loaded anew."""
        return fingerprint(FOLDER, mask_input_name)


def _selects_input() -> io.Combo.Input:
    """Last and optional, and the product at first: files that were saved without it mean that."""
    return io.Combo.Input(
        "product_mask_selects",
        options=list(Selects),
        default=Selects.PRODUCT,
        optional=True,
        tooltip=MASK_SELECTS_TOOLTIP,
    )


def _safetensors() -> list[str]:
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]
