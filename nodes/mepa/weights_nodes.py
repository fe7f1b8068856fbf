"""How strongly an image prompt counts in each layer and over the sampling, as one value for MEPA Apply."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ...pfv_core.attention.curve import EXAMPLE as SAMPLING_EXAMPLE
from ...pfv_core.attention.curve import Curve, Sampling, sampling_curve
from ...pfv_core.attention.layer_weights import EXAMPLE as LAYER_EXAMPLE
from ...pfv_core.attention.layer_weights import Layers, LayerWeights, Weights, in_families
from ...pfv_core.attention.unet_layout import Side
from ...pfv_core.attention.weights import PromptWeights
from ...pfv_core.attention.weights_preview import weights_preview
from ..convert import image_from_core
from ..feedback import with_line
from ..types import CATEGORY, WeightsType


class MEPAWeights(io.ComfyNode):
    """Choices -> weights."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPAWeights",
            display_name="MEPA Weights",
            category=CATEGORY,
            description="How strongly an image prompt counts in each group of layers and over the sampling: its look without its "
            "layout, its layout without its look, early or late. The weights multiply the strength of MEPA Apply.",
            inputs=[
                io.Combo.Input(
                    "layers",
                    options=list(Layers),
                    default=Layers.ALL,
                    tooltip="all: every layer. look: the reference's colours without its patterns. layout: its patterns "
                    "without its colours. Both are measured of walls on the demo models; in SDXL and SD1.5 they are "
                    "style_transfer and composition, as others found them. From ease_in on: the weight types of IPAdapter_plus. "
                    "custom: the table.",
                ),
                io.String.Input(
                    "layer_table",
                    default="",
                    multiline=True,
                    tooltip=f"For custom: a name and a weight, one a line or separated by commas, such as {LAYER_EXAMPLE}. "
                    "Names: all, input, middle, output, output 1 (a level), input 2.1 (a level and a transformer of it). What "
                    "says more exactly counts; what nothing names has weight 1. 0: the text alone. 1: strength as it is.",
                ),
                io.Combo.Input(
                    "sampling",
                    options=list(Sampling),
                    default=Sampling.CONSTANT,
                    tooltip="Weight over the sampling. constant: 1. rising: from 0 at the beginning to 1 at the end. falling: "
                    "the other way. rising_falling: 0, 1, 0. falling_rising: 1, 0, 1. custom: the table.",
                ),
                io.String.Input(
                    "sampling_table",
                    default="",
                    multiline=True,
                    tooltip=f"For custom: share of the sampling and weight, such as {SAMPLING_EXAMPLE}. 0 is its beginning, 1 "
                    "its end, as in start_percent; straight lines between. Weight 0: the text alone. 1: strength as it is.",
                ),
            ],
            outputs=[WeightsType.Output("weights", display_name="weights", tooltip="For the weights of a MEPA Apply.")],
        )

    @classmethod
    def execute(cls, layers: str, layer_table: str, sampling: str, sampling_table: str) -> io.NodeOutput:
        """Read, and show what they are in the kinds of U-Nets that have such layers."""
        weights = PromptWeights(LayerWeights.of(layers, layer_table), sampling_curve(sampling, sampling_table))
        families = in_families(weights.layers)
        picture = image_from_core(weights_preview([*families.values()], weights.sampling))
        said = [f"{family.value}: {_by_side(found)}" for family, found in families.items()]
        line = "; ".join([*(said or ["layers: looked up in the model by MEPA Apply"]), _over_time(weights.sampling)])
        return io.NodeOutput(weights, ui=with_line(ui.PreviewImage(picture, cls=cls).as_dict(), line))


def _by_side(weights: Weights) -> str:
    """The weights of each side in running order, one number where they agree."""
    parts = []
    for side in (Side.INPUT, Side.MIDDLE, Side.OUTPUT):
        of_side = [f"{weight:.3g}" for transformer, weight in weights.items() if transformer.side is side]
        parts.append(f"{side.value} {of_side[0] if len(set(of_side)) == 1 else ' '.join(of_side)}")
    return ", ".join(parts)


def _over_time(curve: Curve) -> str:
    if curve.constant is not None:
        return f"sampling: {curve.constant:g} all the time"
    return "sampling: " + ", ".join(f"{weight:g} at {share:g}" for share, weight in curve.points)
