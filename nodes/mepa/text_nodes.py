"""A text prompt that rules in a region of its own, beside image prompts."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...pfv_core.attention.control import PromptControl
from ...pfv_core.masks import mask_to_core, region_of
from ..host.cross_attention import apply_prompt
from ..host.regional_prompt import RegionalPrompt
from ..host.schedule import Window
from ..host.text_prompt import TextPrompt
from ..types import CATEGORY
from ..window_inputs import window_inputs
from .apply_nodes import shown_region


class MEPAApplyText(io.ComfyNode):
    """Text and region -> patched model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPAApplyText",
            display_name="MEPA Apply Text",
            category=CATEGORY,
            description="Lets a text prompt rule in a region of its own, in the same cross-attention as the main text and the "
            "image prompts: no further call of the model. Stacks with MEPA Apply and with more of these nodes.",
            inputs=[
                io.Model.Input("model", tooltip="SDXL, SD1.5 or a distilled SDXL (SSD-1B, Vega, KOALA)."),
                io.Conditioning.Input(
                    "text",
                    tooltip="From CLIP Text Encode, with the CLIP of this model. Only its tokens count in the region: SDXL's "
                    "pooled text and sizes stay those of the main text, and the negative keeps its own text. What would count "
                    "for nothing here (area, mask, hooks, a ControlNet, a part of the sampling) is refused.",
                ),
                io.Mask.Input(
                    "region",
                    tooltip="1 = this text rules here, 0 = the main text does; soft edges blend. It spans the whole image, at "
                    "any resolution of the same shape.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="How much of the main text gives way in the region. 0: the node does nothing. 1: this text alone.",
                ),
                *window_inputs(),
            ],
            outputs=[
                io.Model.Output(
                    "patched_model",
                    display_name="model",
                    tooltip="For the sampler, MEPA Apply or another MEPA Apply Text.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, text: list[Any], region: Tensor, strength: float, start_percent: float, end_percent: float
    ) -> io.NodeOutput:
        """Patch a clone of the model."""
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength:g}, expected 0 (the main text alone) to 1 (this text alone)")
        if not bool(mask_to_core(region, "region").any()):
            raise ValueError("region selects nothing, so the text would do nothing: paint where it shall rule")
        rules = region_of(region, "region")
        control = PromptControl(strength, 1.0 - strength)
        prompt = RegionalPrompt(TextPrompt.of(text), control, rules, Window(start_percent, end_percent))
        patched = apply_prompt(model, prompt)
        return io.NodeOutput(patched, ui=shown_region(patched, rules, cls))
