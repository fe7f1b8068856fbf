"""Regions: drawn, made from masks, and made to share the frame."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.figures import percent
from ...pfv_core.masks import Selects, background_of, region_of, region_selection, within_range
from ...pfv_core.region.distance import fade, grow
from ...pfv_core.region.preview import COLOURS, region_preview
from ...pfv_core.region.regions import Shape, Sharing, draw_region, share_frame
from ..convert import image_from_core, image_to_core
from ..feedback import with_line
from ..types import CATEGORY

NUM_REGIONS = len(COLOURS)


def _share_input(name: str, default: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=-1.0, max=2.0, step=0.01, tooltip=tooltip)


class MEPARegionShape(io.ComfyNode):
    """Two points -> region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPARegionShape",
            display_name="MEPA Region Shape",
            category=CATEGORY,
            description="Draws a region: a rectangle, an ellipse, a half-plane or a gradient between two points, which are "
            "shares of the canvas, so that one drawing serves every format.",
            inputs=[
                io.Int.Input("width", default=1024, min=1, max=16384, tooltip="Of the canvas, pixels."),
                io.Int.Input("height", default=1024, min=1, max=16384, tooltip="Of the canvas, pixels."),
                io.Combo.Input(
                    "shape",
                    options=list(Shape),
                    default=Shape.HALF_PLANE,
                    tooltip="rectangle, ellipse: in the box between the two points. half_plane: what is on the right of "
                    "somebody who walks from point 1 to point 2; from left to right it is what lies below. gradient: rises "
                    "from point 1 to point 2.",
                ),
                _share_input("x1", 0.0, "Point 1. 0: left edge of the canvas. 1: right edge."),
                _share_input("y1", 0.6, "Point 1. 0: top edge of the canvas. 1: bottom edge."),
                _share_input("x2", 1.0, "Point 2. 0: left edge of the canvas. 1: right edge."),
                _share_input("y2", 0.6, "Point 2. 0: top edge of the canvas. 1: bottom edge."),
                io.Float.Input(
                    "softness",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Width of the edge as a share of the canvas's shorter side. 0: hard. A gradient takes 0 only.",
                ),
            ],
            outputs=[io.Mask.Output("region", display_name="region", tooltip="1 = in the region, 0 = outside.")],
        )

    @classmethod
    def execute(
        cls, width: int, height: int, shape: str, x1: float, y1: float, x2: float, y2: float, softness: float
    ) -> io.NodeOutput:
        """Draw."""
        region = draw_region(shape, (height, width), (x1, y1), (x2, y2), softness)
        return io.NodeOutput(region, ui=_shown(region, cls))


class MEPARegionFromMask(io.ComfyNode):
    """Mask -> region."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="MEPARegionFromMask",
            display_name="MEPA Region From Mask",
            category=CATEGORY,
            description="Makes a region of a painted mask or of a product's mask: grown or shrunk by a disk, with a soft edge, "
            "or everything around it.",
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="1 = selected, as painted. The thing is where its share is above 0.1: glass counts.",
                ),
                io.Combo.Input(
                    "mask_selects",
                    options=list(Selects),
                    default=Selects.PRODUCT,
                    tooltip="What the mask selects. product: the thing the region is made of. background: what lies around it, "
                    "as the mask of a cut-out with transparency does.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-1024,
                    max=1024,
                    tooltip="Pixels by which the thing grows on all sides, Euclidean. Below 0: it shrinks. 0: as it is.",
                ),
                io.Int.Input(
                    "softness",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Pixels over which the region fades outside its edge. 0: a hard edge.",
                ),
                io.Boolean.Input(
                    "around",
                    default=False,
                    tooltip="Off: the region is the thing. On: it is everything around the thing.",
                ),
            ],
            outputs=[io.Mask.Output("region", display_name="region", tooltip="1 = in the region, 0 = outside.")],
        )

    @classmethod
    def execute(cls, mask: Tensor, mask_selects: str, grow: int, softness: int, around: bool) -> io.NodeOutput:
        """Grow, fade and turn."""
        grown = _grown(region_selection(mask, mask_selects, "mask"), grow)
        region = fade(grown, softness)
        region = background_of(region) if around else region
        return io.NodeOutput(region, ui=_shown(region, cls))


def _shown(region: Tensor, cls: type[io.ComfyNode]) -> dict[str, Any]:
    """A region on grey, and its share of the frame."""
    shares = ", ".join(percent(share) for share in region.flatten(1).double().mean(1).tolist())
    preview = ui.PreviewImage(image_from_core(region_preview([region])), cls=cls)
    return with_line(preview.as_dict(), f"region: {shares} of the frame")


def _grown(selected: Tensor, pixels: int) -> Tensor:
    grown = grow(selected, pixels)
    for index, share in enumerate(grown.flatten(1).float().mean(1).tolist()):
        if share in (0.0, 1.0):
            what = "nothing is left" if share == 0.0 else "the whole frame is taken"
            raise ValueError(f"grow is {pixels}: {what} of mask {index}; give it another number")
    return grown


class MEPARegionBuilder(io.ComfyNode):
    """Regions -> regions that share the frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        numbers = range(1, NUM_REGIONS + 1)
        return io.Schema(
            node_id="MEPARegionBuilder",
            display_name="MEPA Region Builder",
            category=CATEGORY,
            description="Lets up to four regions share the frame and shows how: each in a colour, overlaps striped, the rest "
            "grey. Each result goes to its own MEPA Apply; in the rest the text prompt rules.",
            inputs=[
                io.Mask.Input("region_1", tooltip="1 = in the region, soft edges count. With layers: the topmost."),
                io.Combo.Input(
                    "sharing",
                    options=list(Sharing),
                    default=Sharing.PARTITION,
                    tooltip="Where regions meet. partition: they are divided by their sum where it passes 1, so that regions and "
                    "rest add up to 1. layers: each lies over those with a higher number, and all add up to 1 with the rest. "
                    "overlap: they stay as they are.",
                ),
                *(
                    io.Mask.Input(f"region_{number}", optional=True, tooltip="Another region, the same size.")
                    for number in numbers[1:]
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="Shown under the preview, stretched to the regions' size."
                ),
            ],
            outputs=[
                *(
                    io.Mask.Output(f"shared_{number}", display_name=f"region_{number}", tooltip=_OUTPUT_TOOLTIP)
                    for number in numbers
                ),
                io.Mask.Output("rest", display_name="rest", tooltip="1 = in no region: there the text prompt rules."),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="Regions in colours, overlaps striped, rest grey."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        region_1: Tensor,
        sharing: str,
        region_2: Tensor | None = None,
        region_3: Tensor | None = None,
        region_4: Tensor | None = None,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        """Share."""
        inputs = (region_1, region_2, region_3, region_4)
        given = {number: mask for number, mask in enumerate(inputs, 1) if mask is not None}
        regions, rest = share_frame([region_of(mask, f"region_{number}") for number, mask in given.items()], sharing)
        shared = dict(zip(given, regions, strict=True))
        preview = image_from_core(region_preview(regions, _picture(image)))
        results = [shared.get(number, rest * 0) for number in range(1, NUM_REGIONS + 1)]
        return io.NodeOutput(*results, rest, preview, ui=ui.PreviewImage(preview, cls=cls))


_OUTPUT_TOOLTIP = "For the region of a MEPA Apply. Empty where the input is not connected."


def _picture(image: Tensor | None) -> Tensor | None:
    if image is None:
        return None
    return within_range(image_to_core(image[:1], "image"), "image")
