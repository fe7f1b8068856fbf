"""Several image prompts for one MEPA Apply, and the image prompts of a model in its ControlNet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...pfv_core.attention.balance import PAPER_GAMMA
from ...pfv_core.attention.weights import PromptWeights
from ..host.adapter import ImagePrompt
from ..host.controlnet import apply_to_control_net
from ..host.regional_prompt import RegionalPrompt
from ..types import CATEGORY, BranchesType
from .prompt_inputs import balance_inputs, prompt_inputs, regional_prompt


class MEPABranch(io.ComfyNode):
    """Image prompt -> one more for the same MEPA Apply."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPABranch",
            display_name="MEPA Branch",
            category=CATEGORY,
            description="Superseded by stacked MEPA Apply nodes, which give the same picture; it keeps working. One image prompt "
            "with its own region, strength and balance, for the branches input of MEPA Apply or of another MEPA Branch: pose, "
            "appearance and style side by side in one cross-attention.",
            is_deprecated=True,
            inputs=[*prompt_inputs(), *balance_inputs()],
            outputs=[
                BranchesType.Output(
                    "all_branches",
                    display_name="branches",
                    tooltip="Those of the branches input and this one, for MEPA Apply or the next MEPA Branch.",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
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
        """Put it behind the others."""
        numbers = strength, text_share, gate, start_percent, end_percent
        prompt = regional_prompt(image_prompt, *numbers, region, std_norm, time_weighting, gamma, weights)
        return io.NodeOutput((*(branches or ()), prompt))


class MEPAApplyControlNet(io.ComfyNode):
    """ControlNet -> ControlNet with the image prompts of a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPAApplyControlNet",
            display_name="MEPA Apply to ControlNet",
            category=CATEGORY,
            description="Puts the image prompts that a model has from MEPA Apply into the cross-attentions of a ControlNet "
            "too, with the same regions and settings. Without this node a ControlNet sees the text alone.",
            inputs=[
                io.ControlNet.Input("control_net", tooltip="A ControlNet with cross-attention, for SDXL or SD1.5."),
                io.Model.Input(
                    "model",
                    tooltip="The model from MEPA Apply, which is also the one to sample with. A model without image prompts "
                    "leaves the ControlNet as it is.",
                ),
            ],
            outputs=[
                io.ControlNet.Output("patched_control_net", display_name="control_net", tooltip="For Apply ControlNet.")
            ],
        )

    @classmethod
    def execute(cls, control_net: Any, model: Any) -> io.NodeOutput:
        """Patch a copy of the ControlNet."""
        return io.NodeOutput(apply_to_control_net(control_net, model))
