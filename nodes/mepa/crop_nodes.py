"""For detailers and upscalers, which sample a part of the ad as a picture of its own: which part that is."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..host.facts import Crop
from ..host.tiles import located
from ..host.tracking import crop_runs
from ..types import CATEGORY

LAST = "After all other nodes, but for Apply ControlNet; from here into the upscaler."
FOR = "For the upscaler or detailer."


def _pixels(name: str, least: int, tooltip: str) -> io.Input:
    return io.Int.Input(name, default=least, min=least, max=16384, tooltip=tooltip)


class MEPACrop(io.ComfyNode):
    """Model -> model whose masks are those of a part of the ad."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPACrop",
            display_name="MEPA Crop",
            category=CATEGORY,
            description="Says which part of the ad the sampler draws. A detailer or an upscaler that samples a part as a picture "
            "of its own would otherwise get every region and product mask of the model squeezed into it.",
            inputs=[
                io.Model.Input("model", tooltip="From MEPA Apply, RefAdGen Attention Fusion or RefAdGen Mask Input."),
                _pixels("x", 0, "Left edge of the part, pixels of the ad."),
                _pixels("y", 0, "Top edge of the part, pixels of the ad."),
                _pixels("width", 8, "Width of the part, pixels of the ad; it may be sampled at another size."),
                _pixels("height", 8, "Height of the part, pixels of the ad; it may be sampled at another size."),
                _pixels("ad_width", 8, "Width of the whole ad, which all regions and product masks must have."),
                _pixels("ad_height", 8, "Height of the whole ad, which all regions and product masks must have."),
            ],
            outputs=[
                io.Model.Output(
                    "cropped_model",
                    display_name="model",
                    tooltip="For the sampler or detailer of that part, and no other.",
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, x: int, y: int, width: int, height: int, ad_width: int, ad_height: int
    ) -> io.NodeOutput:
        """Tell a clone of the model."""
        return io.NodeOutput(crop_runs(model, Crop(y, x, height, width, ad_height, ad_width)))


class MEPATiles(io.ComfyNode):
    """Prompts -> prompts that say which tile of the ad is sampled."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPATiles",
            display_name="MEPA Tiles",
            category=CATEGORY,
            description="For upscalers and detailers that cut the ad into tiles by themselves, such as Ultimate SD Upscale: "
            "regions and product masks of the model follow each tile, instead of being squeezed into it.",
            inputs=[
                io.Conditioning.Input("positive", tooltip=LAST),
                io.Conditioning.Input("negative", tooltip=LAST),
                _pixels(
                    "ad_width",
                    8,
                    "Width of the ad before it is upscaled, which all regions and product masks must have.",
                ),
                _pixels(
                    "ad_height",
                    8,
                    "Height of the ad before it is upscaled, which all regions and product masks must have.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("located_positive", display_name="positive", tooltip=FOR),
                io.Conditioning.Output("located_negative", display_name="negative", tooltip=FOR),
            ],
        )

    @classmethod
    def execute(cls, positive: Any, negative: Any, ad_width: int, ad_height: int) -> io.NodeOutput:
        """Let both carry the ad's own places."""
        return io.NodeOutput(*(located(prompt, (ad_height, ad_width)) for prompt in (positive, negative)))
