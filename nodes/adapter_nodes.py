"""Adapter file -> image prompt -> patched model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from torch import Tensor

from ..pfv_core.adapter import CompressMethod
from ..pfv_core.attention import BranchControl, Gate
from ..pfv_core.vit import ImageTokens
from .convert import region_mask
from .cross_attention_patch import apply_image_prompt
from .host_adapter import FOLDER, HostAdapter, ImagePrompt, register_folder
from .types import CATEGORY, AdapterType, ImagePromptType, ImageTokensType


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
            outputs=[AdapterType.Output("adapter", display_name="adapter", tooltip="For PFV Token Compress.")],
        )

    @classmethod
    def execute(cls, adapter_name: str) -> io.NodeOutput:
        """Load."""
        return io.NodeOutput(HostAdapter.load(Path(folder_paths.get_full_path_or_raise(FOLDER, adapter_name))))

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str) -> tuple[str, int, int]:
        """A file that was replaced is loaded anew."""
        path = folder_paths.get_full_path(FOLDER, adapter_name)
        if path is None:
            return adapter_name, 0, 0
        stat = Path(path).stat()
        return adapter_name, stat.st_size, stat.st_mtime_ns


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
                    options=CompressMethod,
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
                ImagePromptType.Input("image_prompt", tooltip="From PFV Token Compress."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="How strongly the image prompt counts. 0: the node does nothing. 1: as the adapter was trained.",
                ),
                io.Float.Input(
                    "text_share",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much the text prompt still counts inside the region. 0: not at all, the image rules alone (the "
                    "paper's region control). 1: fully (the usual IP-Adapter).",
                ),
                io.Combo.Input(
                    "gate",
                    options=Gate,
                    default=Gate.OUTPUT,
                    tooltip="output: outside the region the image prompt is exactly absent. query: the paper's equation 6 as "
                    "printed, where each prompt's average still reaches the other's region.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the sampling where it begins. 0: at once. 1: at the very end.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the sampling where it ends. 0: at once. 1: never.",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="1 = the image prompt rules here, 0 = the text does; soft edges blend. It spans the whole image, at "
                    "any resolution of the same shape. Not connected: everywhere.",
                ),
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
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        control = BranchControl(strength, text_share, gate)
        patched = apply_image_prompt(
            model, image_prompt, control, region_mask(region, "region"), start_percent, end_percent
        )
        return io.NodeOutput(patched)
