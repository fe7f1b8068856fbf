"""Adapter file -> image prompt -> patched model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.adapter.model import CompressMethod
from ...pfv_core.attention.balance import PAPER_GAMMA
from ...pfv_core.attention.weights import PromptWeights
from ...pfv_core.figures import percent
from ...pfv_core.reference.vit import ImageTokens
from ...pfv_core.region.grid_preview import latent_grid_preview
from ..convert import image_from_core
from ..feedback import with_line
from ..host.adapter import FOLDER, HostAdapter, ImagePrompt, register_folder
from ..host.cross_attention import apply_prompt
from ..host.files import Fingerprint, fingerprint
from ..host.regional_prompt import RegionalPrompt
from ..host.unet import cross_attention_blocks
from ..types import CATEGORY, AdapterType, ImagePromptType, ImageTokensType
from .prompt_inputs import balance_inputs, prompt_inputs, regional_prompt

FRAME = 256  # pixels; what is shown where no region says how large the ad is


class MEPAAdapterLoader(io.ComfyNode):
    """File -> adapter."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        register_folder()
        return io.Schema(
            node_id="MEPAAdapterLoader",
            display_name="MEPA Adapter Loader",
            category=CATEGORY,
            description="Loads an image-prompt adapter from models/ipadapter: ip-adapter_sdxl_vit-h, "
            "ip-adapter-plus_sdxl_vit-h, their SD1.5 siblings, or a MEPA adapter. The kind is read from the file.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A file in models/ipadapter.",
                )
            ],
            outputs=[
                AdapterType.Output(
                    "adapter", display_name="adapter", tooltip="For PFV Reference or PFV Token Compress."
                )
            ],
        )

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        """Load."""
        return io.NodeOutput(HostAdapter.load(Path(folder_paths.get_full_path_or_raise(FOLDER, adapter_name))))

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str) -> Fingerprint:
        """A file that was replaced is loaded anew."""
        return fingerprint(FOLDER, adapter_name)


class PFVTokenCompress(io.ComfyNode):
    """Visible tokens -> image prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVTokenCompress",
            display_name="PFV Token Compress",
            category=CATEGORY,
            description="Compresses the visible tokens of a reference to the few tokens of an image prompt.",
            inputs=[
                ImageTokensType.Input("image_tokens", tooltip="From PFV Image Encode."),
                AdapterType.Input("adapter", tooltip="From MEPA Adapter Loader."),
                io.Combo.Input(
                    "method",
                    options=list(CompressMethod),
                    default=CompressMethod.ADAPTER,
                    tooltip="adapter: as the file was trained. eq3_normalized, eq3_literal: the paper's equation 3 with the "
                    "file's latents, for adapter-plus and MEPA files. cluster: the patches are first averaged in clusters, "
                    "which needs no training.",
                ),
                io.Int.Input(
                    "num_tokens",
                    default=0,
                    min=0,
                    max=4096,
                    tooltip="For cluster: patches left, at most. 0: as many as the adapter has latents. The other methods "
                    "have their number from the file: leave 0.",
                ),
            ],
            outputs=[ImagePromptType.Output("image_prompt", display_name="image_prompt", tooltip="For MEPA Apply.")],
        )

    @classmethod
    def execute(cls, image_tokens: ImageTokens, adapter: HostAdapter, method: str, num_tokens: int) -> io.NodeOutput:
        """Compress."""
        return io.NodeOutput(adapter.image_prompt(image_tokens, method, num_tokens))


class MEPAApply(io.ComfyNode):
    """Image prompt -> patched model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPAApply",
            display_name="MEPA Apply",
            category=CATEGORY,
            description="Puts an image prompt beside the text in every cross-attention of the model, in a region of its own. "
            "Several of these nodes stack: one for each image prompt.",
            inputs=[
                io.Model.Input("model", tooltip="SDXL, SD1.5 or a distilled SDXL (SSD-1B, Vega, KOALA)."),
                *prompt_inputs(),
                *balance_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model", display_name="model", tooltip="For the sampler, or another MEPA Apply."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        image_prompt: ImagePrompt,
        strength: float,
        text_share: float,
        gate: str,
        start_percent: float,
        end_percent: float,
        region: Tensor | None = None,
        std_norm: bool = False,
        time_weighting: bool = False,
        gamma: int = PAPER_GAMMA,
        branches: tuple[RegionalPrompt, ...] | None = None,
        weights: PromptWeights | None = None,
    ) -> io.NodeOutput:
        """Patch a clone of the model, with one image prompt after another."""
        numbers = strength, text_share, gate, start_percent, end_percent
        own = regional_prompt(image_prompt, *numbers, region, std_norm, time_weighting, gamma, weights)
        for prompt in (own, *(branches or ())):
            model = apply_prompt(model, prompt)
        return io.NodeOutput(model, ui=shown_region(model, own.region, cls, strength))


def shown_region(model: Any, region: Tensor | None, cls: type[io.ComfyNode], strength: float = 1.0) -> dict[str, Any]:
    """A region on the grids of a model's own cross-attentions, its share of the frame, and that strength 0 is off. None: all of a
    square frame."""
    drawn = torch.ones(1, FRAME, FRAME) if region is None else region
    shares = ", ".join(percent(share) for share in drawn.flatten(1).double().mean(1).tolist())
    levels = [block.layer.level for block in cross_attention_blocks(model)]
    preview = ui.PreviewImage(image_from_core(latent_grid_preview(drawn, levels)), cls=cls)
    off = "" if strength else "; strength is 0, so the node does nothing"
    said = "the whole frame" if region is None else f"{shares} of the frame"
    return with_line(preview.as_dict(), f"region: {said}{off}")
