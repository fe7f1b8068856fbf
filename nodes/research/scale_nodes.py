"""The scale map: how large a subject is drawn beside the product."""

from __future__ import annotations

from enum import Enum

from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.choices import parse_choice
from ...pfv_core.masks import Selects, within_range
from ...pfv_core.masks import product_mask as product_mask_to_core
from ...pfv_core.region.preview import region_preview
from ...pfv_core.research.scale_map import scale_hint, scale_map, subject_height_by_ratio, subject_height_by_size
from ..ad.product_nodes import MASK_SELECTS_TOOLTIP
from ..convert import image_from_core, image_to_core
from ..types import RESEARCH_CATEGORY


class HeightFrom(str, Enum):
    """What gives the subject's height: real SIZES in cm, or its RATIO to the image's height."""

    SIZES = "sizes"
    RATIO = "ratio"


class PFVScaleMap(io.ComfyNode):
    """Product mask and sizes -> scale map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVScaleMap",
            display_name="PFV Scale Map",
            category=RESEARCH_CATEGORY,
            description="Research: for a ControlNet with four hint channels; the pack brings a small one for the demo's models, "
            "for SD1.5 and SDXL you train one. Marks the rows that the subject beside a product takes, such as the face above an "
            "earring, so that it comes in the right size (Strictly-ID).",
            inputs=[
                io.Image.Input("product", tooltip="The product on the canvas: image of PFV Ad Canvas, or a photo."),
                io.Mask.Input("product_mask", tooltip="Where the product is, the same size."),
                io.Combo.Input(
                    "product_mask_selects",
                    options=list(Selects),
                    default=Selects.BACKGROUND,
                    tooltip=MASK_SELECTS_TOOLTIP,
                ),
                io.Combo.Input(
                    "height_from",
                    options=list(HeightFrom),
                    default=HeightFrom.SIZES,
                    tooltip="sizes: product_cm and subject_cm. ratio: height_ratio.",
                ),
                io.Float.Input(
                    "product_cm",
                    default=4.0,
                    min=0.01,
                    max=10000.0,
                    step=0.01,
                    tooltip="For sizes: real height of the product as it stands in the picture, more than 0 cm.",
                ),
                io.Float.Input(
                    "subject_cm",
                    default=20.0,
                    min=0.01,
                    max=10000.0,
                    step=0.01,
                    tooltip="For sizes: real height of the subject, such as a face, more than 0 cm.",
                ),
                io.Float.Input(
                    "height_ratio",
                    default=0.5,
                    min=0.01,
                    max=4.0,
                    step=0.01,
                    tooltip="For ratio: subject's height as a share of the image's. 1: as high as the image. Near 0: a line.",
                ),
                io.Float.Input(
                    "center",
                    default=0.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    tooltip="Where on the product the middle of the subject lies. 0: at its upper edge, as in the paper. 1: at "
                    "its lower edge.",
                ),
            ],
            outputs=[
                io.Mask.Output("scale_map", display_name="scale_map", tooltip="1 in the subject's rows, 0 elsewhere."),
                io.Image.Output(
                    "hint",
                    display_name="hint",
                    tooltip="4 channels: the product on black, and the map. For a ControlNet with 4 hint channels.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        product: Tensor,
        product_mask: Tensor,
        product_mask_selects: str,
        height_from: str,
        product_cm: float,
        subject_cm: float,
        height_ratio: float,
        center: float,
    ) -> io.NodeOutput:
        """Map."""
        image = within_range(image_to_core(product, "product"), "product")
        mask = product_mask_to_core(product_mask, product_mask_selects, image, "product_mask")
        match parse_choice(HeightFrom, height_from, "height_from"):
            case HeightFrom.SIZES:
                heights = subject_height_by_size(mask, product_cm, subject_cm)
            case HeightFrom.RATIO:
                heights = subject_height_by_ratio(mask, height_ratio)
        rows = scale_map(mask, heights, center)
        preview = ui.PreviewImage(image_from_core(region_preview([rows], image)), cls=cls)
        return io.NodeOutput(rows, image_from_core(scale_hint(image, mask, rows)), ui=preview)
