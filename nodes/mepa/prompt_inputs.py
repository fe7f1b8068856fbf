"""What an image prompt is asked for: the inputs that MEPA Apply and MEPA Branch share, written once."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ...pfv_core.attention.balance import PAPER_GAMMA
from ...pfv_core.attention.control import Gate, PromptControl
from ...pfv_core.attention.weights import PromptWeights
from ...pfv_core.masks import region_mask
from ..host.adapter import ImagePrompt
from ..host.regional_prompt import RegionalPrompt
from ..host.schedule import Window
from ..types import BranchesType, ImagePromptType, WeightsType
from ..window_inputs import window_inputs


def regional_prompt(
    image_prompt: ImagePrompt,
    strength: float,
    text_share: float,
    gate: str,
    start_percent: float,
    end_percent: float,
    region: Tensor | None,
    std_norm: bool,
    time_weighting: bool,
    gamma: int,
    weights: PromptWeights | None,
) -> RegionalPrompt:
    """From the inputs of a node."""
    return RegionalPrompt(
        image_prompt,
        PromptControl(strength, text_share, gate, std_norm, float(gamma) if time_weighting else None),
        region_mask(region, "region"),
        Window(start_percent, end_percent),
        weights or PromptWeights(),
    )


def prompt_inputs() -> list[io.Input]:
    """Everything but the balance, which came later and stands behind it."""
    return [
        ImagePromptType.Input(
            "image_prompt", tooltip="From PFV Reference, PFV Combine References or PFV Token Compress."
        ),
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
            options=list(Gate),
            default=Gate.OUTPUT,
            tooltip="output: outside the region the image prompt is exactly absent. query: the paper's equation 6 as "
            "printed, where each prompt's average still reaches the other's region.",
        ),
        *window_inputs(),
        io.Mask.Input(
            "region",
            optional=True,
            tooltip="1 = the image prompt acts here, 0 = it does not; soft edges blend. How much of the text stays where it "
            "acts, text_share says. It spans the whole image, at any resolution of the same shape. Not connected: everywhere.",
        ),
    ]


def balance_inputs() -> list[io.Input]:
    """Balance of the image prompt against the text, off by default, and the further prompts that come with it."""
    return [
        io.Boolean.Input(
            "std_norm",
            default=False,
            optional=True,
            tooltip="Bring the image prompt to the text's standard deviation, so that neither drowns the other: for "
            "adapters that copy the reference whatever the prompt says. Strength counts after it.",
        ),
        io.Boolean.Input(
            "time_weighting",
            default=False,
            optional=True,
            tooltip="Let the text lay out the picture alone at first and the image prompt come in later, see gamma.",
        ),
        io.Int.Input(
            "gamma",
            default=PAPER_GAMMA,
            min=1,
            max=10000,
            optional=True,
            tooltip="For time_weighting, in timesteps of the model (SDXL and SD1.5 count 1000, from 999 at the start to 0 at "
            "the end): absent down to 2 x gamma, whole from gamma on, rising between. Small is late; less than 1000 there.",
        ),
        BranchesType.Input(
            "branches",
            optional=True,
            tooltip="Further image prompts from MEPA Branch, each with its own settings. The same as one MEPA Apply after "
            "another.",
        ),
        WeightsType.Input(
            "weights",
            optional=True,
            tooltip="From MEPA Weights: multiplies the strength of this node's own image prompt in each layer and over the "
            "sampling. 0: the text alone. 1: strength as it is. Not connected: 1 everywhere.",
        ),
    ]
