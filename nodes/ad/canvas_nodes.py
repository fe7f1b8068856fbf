"""The canvas of an ad: a product placed on it, other images placed like it, and the exact size at the end."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.ad.canvas import AdCanvas
from ...pfv_core.ad.formats import AUTO, CUSTOM, FORMATS, SAMPLING_SCALES, AdFormat, Training, ad_format
from ...pfv_core.ad.opacity import SEEN_ABOVE
from ...pfv_core.ad.placement import Layout, Position, ScaleBy
from ...pfv_core.masks import Selects, background_of, product_opacity, within_range
from ...pfv_core.region.distance import fade
from ...pfv_core.region.preview import canvas_preview, small_picture
from ..convert import depth_to_core, image_from_core, image_to_core
from ..feedback import with_line
from ..host.training_size import family_of, training_of
from ..types import CATEGORY, AdCanvasType
from .product_nodes import MASK_SELECTS_TOOLTIP


def _share_input(name: str, default: float, tooltip: str, highest: float = 0.9) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=highest, step=0.01, tooltip=tooltip)


class PFVAdCanvas(io.ComfyNode):
    """Cut-out -> the product on an ad's canvas."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVAdCanvas",
            display_name="PFV Ad Canvas",
            category=CATEGORY,
            description="Places a product cut-out on the canvas of an ad format. Gives the pixels that Strict-ID Composite "
            "keeps, the region around the product for MEPA Apply, and the size to sample at.",
            inputs=[
                io.Image.Input("product", tooltip="The product photo."),
                io.Mask.Input("product_mask", tooltip="Where the product is, the same size."),
                io.Combo.Input(
                    "product_mask_selects",
                    options=list(Selects),
                    default=Selects.BACKGROUND,
                    tooltip=MASK_SELECTS_TOOLTIP,
                ),
                io.Combo.Input(
                    "format",
                    options=[*FORMATS, CUSTOM],
                    default="1:1",
                    tooltip="Of the finished ad. Shapes come at about one megapixel; sizes (width x height) are exact.",
                ),
                io.Int.Input("custom_width", default=1024, min=8, max=8192, tooltip="Pixels. For format custom alone."),
                io.Int.Input(
                    "custom_height", default=1024, min=8, max=8192, tooltip="Pixels. For format custom alone."
                ),
                io.Combo.Input(
                    "sampling_scale",
                    options=[*map(str, SAMPLING_SCALES), AUTO],
                    default=AUTO,
                    tooltip="Sampled pixels per pixel of the ad. auto: so that the sampled area comes near to what the model "
                    "was trained on; where no model is connected, near to one megapixel. 1: as large as the ad, its sides "
                    "rounded up to multiples of 8.",
                ),
                io.Combo.Input(
                    "position",
                    options=list(Position),
                    default=Position.CENTER,
                    tooltip="Where in the safe area the product stands. numbers: its centre is at x and y.",
                ),
                io.Combo.Input(
                    "scale_by",
                    options=list(ScaleBy),
                    default=ScaleBy.FIT,
                    tooltip="What share is a share of. fit: the largest size that fits the safe area. height, width: of the "
                    "canvas, for the product's box. area: of the canvas, for the product's own pixels. original: the "
                    "photo's pixels one to one, never resized; share is not used.",
                ),
                io.Float.Input(
                    "share",
                    default=0.7,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How large the product is, see scale_by. 1: as large as possible. Near 0: a dot.",
                ),
                _share_input(
                    "margin",
                    0.05,
                    "Free space inside each side of the safe area, as a share of the canvas's shorter side. 0: none.",
                    0.45,
                ),
                _share_input("safe_left", 0.0, "Share of the width that is covered at the left. 0: nothing."),
                _share_input("safe_top", 0.0, "Share of the height that is covered at the top. 0: nothing."),
                _share_input("safe_right", 0.0, "Share of the width that is covered at the right. 0: nothing."),
                _share_input("safe_bottom", 0.0, "Share of the height that is covered at the bottom. 0: nothing."),
                _share_input(
                    "x", 0.5, "For position numbers: centre of the product. 0: left edge. 1: right edge.", 1.0
                ),
                _share_input(
                    "y", 0.5, "For position numbers: centre of the product. 0: top edge. 1: bottom edge.", 1.0
                ),
                io.Int.Input(
                    "region_rim",
                    default=0,
                    min=0,
                    max=1024,
                    tooltip="Pixels over which the region rises from 0 at the product to 1. 0: a hard edge.",
                ),
                _share_input("backdrop", 0.0, "Grey around the product in image. 0: black. 1: white.", 1.0),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that is sampled, from its loader: for sampling_scale auto, and for what the node says "
                    "about the format. Nothing of it is changed.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", display_name="image", tooltip="The product on the canvas, at the frame's size."
                ),
                io.Mask.Output(
                    "mask",
                    display_name="product_mask",
                    tooltip="1 = product, the same size. Where a node asks what it selects: product.",
                ),
                io.Mask.Output(
                    "region",
                    display_name="region",
                    tooltip="1 = background, 0 = product: for MEPA Apply or Region Builder.",
                ),
                AdCanvasType.Output(
                    "canvas", display_name="canvas", tooltip="For Strict-ID Composite and Ad Canvas nodes."
                ),
                io.Int.Output("width", display_name="width", tooltip="To sample at: for Empty Latent Image."),
                io.Int.Output("height", display_name="height", tooltip="To sample at: for Empty Latent Image."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Sizes, boxes, scale, and what the model samples badly in this format, as JSON.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        product: Tensor,
        product_mask: Tensor,
        product_mask_selects: str,
        format: str,  # noqa: A002  (the input's name)
        custom_width: int,
        custom_height: int,
        sampling_scale: str,
        position: str,
        scale_by: str,
        share: float,
        margin: float,
        safe_left: float,
        safe_top: float,
        safe_right: float,
        safe_bottom: float,
        x: float,
        y: float,
        region_rim: int,
        backdrop: float,
        model: Any = None,
    ) -> io.NodeOutput:
        """Place."""
        photo = within_range(image_to_core(product, "product"), "product")
        opacity = product_opacity(product_mask, product_mask_selects, photo, "product_mask")
        layout = Layout(position, scale_by, share, margin, (safe_left, safe_top, safe_right, safe_bottom), x, y)
        training = _training(model, sampling_scale)
        planned = ad_format(format, (custom_height, custom_width), sampling_scale, training)
        canvas = AdCanvas.plan(opacity, planned, layout)
        placed, placed_opacity = canvas.place(photo, backdrop)
        canvas = replace(canvas, shown=(placed, placed_opacity))
        region = background_of(fade(placed_opacity > SEEN_ABOVE, region_rim))
        height, width = canvas.format.sampling
        preview = canvas_preview(placed, placed_opacity, canvas.format.size, layout.safe_box(canvas.format.size))
        return io.NodeOutput(
            image_from_core(placed),
            placed_opacity,
            region,
            canvas,
            width,
            height,
            json.dumps(canvas.report()),
            ui=with_line(
                ui.PreviewImage(image_from_core(preview), cls=cls).as_dict(), _line(planned, model, sampling_scale)
            ),
        )


def _training(model: Any, sampling_scale: str) -> Training | None:
    """Of the connected model; ValueError where auto has nothing to aim at."""
    training = None if model is None else training_of(model)
    if training is None and model is not None and sampling_scale == AUTO:
        raise ValueError(
            f"sampling_scale auto does not know what size {family_of(model)} was trained on, expected a model of SDXL or SD1.5: "
            "choose a number, or disconnect model to aim at one megapixel"
        )
    return training


def _line(planned: AdFormat, model: Any, sampling_scale: str) -> str:
    """The size that is sampled, and what is wrong with it."""
    height, width = planned.sampling
    line = f"sampled at {width}x{height}"
    if planned.training is not None:
        line += f", {planned.trained_share:.2f} of what {planned.training.family} was trained on"
    elif model is not None:
        line += f"; what size {family_of(model)} was trained on is not known here"
    elif sampling_scale == AUTO:
        line += "; no model is connected, so auto aims at one megapixel"
    return "; ".join([line, *planned.advice()])


class PFVAdCanvasPlace(io.ComfyNode):
    """Another image of the same photo -> in the product's place."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVAdCanvasPlace",
            display_name="PFV Ad Canvas Place",
            category=CATEGORY,
            description="Places another image of the product photo, such as its depth map, on the canvas where the product "
            "stands, and nothing of it around the product.",
            inputs=[
                io.Image.Input("image", tooltip="The product photo's depth, normals or edges, the photo's size."),
                AdCanvasType.Input("canvas", tooltip="From PFV Ad Canvas."),
                _share_input(
                    "backdrop", 0.0, "Grey around the product. 0: black, which is far in a depth map. 1: white.", 1.0
                ),
            ],
            outputs=[
                io.Image.Output("placed", display_name="image", tooltip="At the frame's size, as the canvas's image.")
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, canvas: AdCanvas, backdrop: float) -> io.NodeOutput:
        """Place."""
        photo = within_range(depth_to_core(image, "image"), "image")
        placed = canvas.place(photo, backdrop)[0]
        preview = ui.PreviewImage(image_from_core(small_picture(placed)), cls=cls)
        return io.NodeOutput(image_from_core(placed), ui=preview)


class PFVAdCanvasFinish(io.ComfyNode):
    """Sampled image -> the ad's exact size."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVAdCanvasFinish",
            display_name="PFV Ad Canvas Finish",
            category=CATEGORY,
            description="Brings an image that was sampled for a canvas to the ad's exact size: cuts off what only the latent "
            "needed, after resampling it where it was sampled at another scale. Strict-ID Composite does the same when its "
            "canvas input is connected.",
            inputs=[
                io.Image.Input("image", tooltip="From VAE Decode, or of the canvas's frame size."),
                AdCanvasType.Input("canvas", tooltip="From PFV Ad Canvas."),
            ],
            outputs=[io.Image.Output("finished", display_name="image", tooltip="The ad's exact size.")],
        )

    @classmethod
    def execute(cls, image: Tensor, canvas: AdCanvas) -> io.NodeOutput:
        """Finish."""
        return io.NodeOutput(image_from_core(canvas.finish(within_range(image_to_core(image, "image"), "image"))))
