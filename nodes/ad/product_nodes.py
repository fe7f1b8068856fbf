"""The product: its own pixels back in the ad."""

from __future__ import annotations

import json
from dataclasses import asdict

from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.ad.canvas import AdCanvas
from ...pfv_core.ad.composite import Rim, paste_back
from ...pfv_core.ad.exactness import Exactness, all_exact, measure_exactness, not_exact
from ...pfv_core.ad.opacity import SEEN_ABOVE
from ...pfv_core.ad.shadow import add_contact_shadow
from ...pfv_core.figures import times
from ...pfv_core.masks import SELECTED_ABOVE, Selects, mask_like, product_opacity, settled, within_range
from ...pfv_core.region.preview import exactness_preview
from ..convert import image_from_core, image_to_core
from ..feedback import with_line
from ..types import CATEGORY, AdCanvasType

MASK_SELECTS_TOOLTIP = (
    "What the mask selects. product: you painted the product, or the mask comes from PFV Cut Out or PFV Ad Canvas. background: "
    "the file is a cut-out with transparency, whose mask is 1 on the transparent part."
)


class StrictIDComposite(io.ComfyNode):
    """Generated image and product photo -> the ad with the photo's own product."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="StrictIDComposite",
            display_name="Strict-ID Composite",
            category=CATEGORY,
            description="Puts the product's own pixels back over the generated image: exact inside the eroded mask, blended "
            "at its rim, untouched outside. Counts what is exact in its report, and marks in its picture what is not.",
            inputs=[
                io.Image.Input("generated", tooltip="The generated image."),
                io.Image.Input("product", tooltip="The product photo, the same size."),
                io.Mask.Input("product_mask", tooltip="Where the product is. A soft mask is how opaque it is."),
                io.Combo.Input(
                    "product_mask_selects",
                    options=list(Selects),
                    default=Selects.BACKGROUND,
                    tooltip=MASK_SELECTS_TOOLTIP,
                ),
                io.Int.Input(
                    "erode",
                    default=2,
                    min=0,
                    max=256,
                    tooltip="Pixels taken off the mask's rim, which often carries the photo's old background. 0: none.",
                ),
                io.Int.Input(
                    "feather",
                    default=4,
                    min=0,
                    max=256,
                    tooltip="Pixels of the ramp from the eroded mask outwards that ends where the product is gone; see rim. "
                    "0: a hard edge.",
                ),
                io.Combo.Input(
                    "rim",
                    options=list(Rim),
                    default=Rim.WITHIN_MASK,
                    optional=True,
                    tooltip="within_mask: the fade ends at the mask itself, so it is as long as erode at most; what lies outside "
                    "is never touched. beyond_mask: it has its full length, over the surroundings too; there the product's edge "
                    "fades, not the photo's background.",
                ),
                io.Float.Input(
                    "shadow_strength",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="How dark an added contact shadow around the product's foot is. 0: none is added, the shadow of the "
                    "generated image stays. 1: black at its deepest.",
                ),
                io.Int.Input(
                    "shadow_size",
                    default=16,
                    min=0,
                    max=512,
                    optional=True,
                    tooltip="Pixels above the product's lowest row that count as its foot, and softness of the added shadow. "
                    "0: a tenth of the product's height.",
                ),
                AdCanvasType.Input(
                    "canvas",
                    optional=True,
                    tooltip="From PFV Ad Canvas: the generated image is brought to the ad's exact size first. Product and mask "
                    "are then the canvas's.",
                ),
                io.Mask.Input(
                    "generated_mask",
                    optional=True,
                    tooltip="The product as found in the generated image, 1 = product. Only for mask_iou in the report.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The ad."),
                io.Mask.Output(
                    "exact_mask",
                    display_name="exact_mask",
                    tooltip="1 where the ad is the photo's own pixels, bit for bit.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="JSON: for each ad the pixels checked and equal, those that are translucent, the largest difference, "
                    "and mask_iou.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        generated: Tensor,
        product: Tensor,
        product_mask: Tensor,
        product_mask_selects: str,
        erode: int,
        feather: int,
        rim: str = Rim.WITHIN_MASK,
        shadow_strength: float = 0.0,
        shadow_size: int = 16,
        canvas: AdCanvas | None = None,
        generated_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        """Composite every generated image with its product; one product serves a whole batch."""
        generated_image = within_range(image_to_core(generated, "generated"), "generated")
        product_image = within_range(image_to_core(product, "product"), "product")
        opacity = product_opacity(product_mask, product_mask_selects, product_image, "product_mask")
        drawn = None if generated_mask is None else mask_like(generated_mask, generated_image, "generated_mask")
        if canvas is not None:
            generated_image, product_image = canvas.finish(generated_image), canvas.finish(product_image)
            opacity = settled(canvas.finish(opacity[:, None])[:, 0])
            canvas.check_placed(product_image, opacity)
            drawn = None if drawn is None else canvas.finish(drawn[:, None])[:, 0]
        if product_image.shape[0] == 1:
            product_image = product_image.expand(generated_image.shape[0], -1, -1, -1)
            opacity = opacity.expand(generated_image.shape[0], -1, -1)
        if shadow_strength:
            generated_image = add_contact_shadow(generated_image, opacity > SEEN_ABOVE, shadow_strength, shadow_size)
        image, exact_mask = paste_back(generated_image, product_image, opacity, erode, feather, rim)
        found = None if drawn is None else (drawn > SELECTED_ABOVE).expand_as(opacity)
        placements = None if canvas is None else canvas.placements
        reports = measure_exactness(image, generated_image, product_image, opacity, exact_mask, found, placements)
        report = _report(reports)
        marked = not_exact(image, generated_image, product_image, opacity, exact_mask)
        preview = image_from_core(exactness_preview(image.clamp(0, 1), *marked))
        # The text stays: whoever runs this without a page reads the report in it.
        shown = ui.PreviewText(report).as_dict() | ui.PreviewImage(preview, cls=cls).as_dict()
        shown = with_line(shown, _line(reports) + _legend(*marked))
        return io.NodeOutput(image_from_core(image), exact_mask.float(), report, ui=shown)


def _report(reports: list[Exactness]) -> str:
    return json.dumps({"exact": all_exact(reports), "ads": [asdict(report) for report in reports]}, indent=2)


def _legend(blended: Tensor, translucent: Tensor, left_out: Tensor) -> str:
    """What the colours in the picture stand for; nothing where none is in it."""
    colours = {
        "orange: blended at the rim": blended,
        "blue: translucent": translucent,
        "magenta: the generated image": left_out,
    }
    seen = [name for name, marked in colours.items() if bool(marked.any())]
    return f"; in the picture {', '.join(seen)}" if seen else ""


def _line(reports: list[Exactness]) -> str:
    """The report in a line."""
    counts = ", ".join(f"{one.pixels_equal} of {one.pixels_checked}" for one in reports)
    scales = dict.fromkeys(times(one.scale) for one in reports if one.resized and one.scale is not None)
    resized = f", resized once by {', '.join(scales)}" if scales else ""
    line = f"{'exact' if all_exact(reports) else 'NOT exact'}: {counts} pixels are the photo's{resized}"
    if not any(one.pixels_checked for one in reports):
        line = "NOT exact: no opaque pixel is left to check"
    if any(one.translucent_pixels for one in reports):
        line += f"; translucent, so mixed with the ad: {', '.join(str(one.translucent_pixels) for one in reports)}"
    if any(one.pixels_left_out for one in reports):
        line += f"; of the product, but left to the generated image: {', '.join(str(one.pixels_left_out) for one in reports)}"
    if any(one.pixels_not_8_bit for one in reports):
        line += (
            f"; no 8-bit photo's: {', '.join(str(one.pixels_not_8_bit) for one in reports)}, which a saved file rounds. The "
            "product image was resized, blurred or edited, or its file is not 8-bit RGB: save it as 8-bit RGB PNG"
        )
    return line
