"""A product photo -> where the product is."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.found.photo import check, cut_outs, is_painted
from ...pfv_core.found.preview import cut_out_preview
from ...pfv_core.found.within import Enclosed
from ...pfv_core.masks import Selects
from ..convert import clamp_overshoot, image_from_core, image_to_core
from ..feedback import with_line
from ..types import CATEGORY

SHOWN = 16  # photos of a batch; a preview is for looking at


class PFVCutOut(io.ComfyNode):
    """Photo -> product mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVCutOut",
            display_name="PFV Cut Out",
            category=CATEGORY,
            description="Says where the product is in its photo: what is painted or transparent, else what a connected model "
            "found, else what stands out from the ground that the photo's border shows. Refuses what it cannot tell.",
            inputs=[
                io.Image.Input("photo", tooltip="The product photo. Each photo of a batch is cut out by itself."),
                io.Combo.Input(
                    "mask_selects",
                    options=list(Selects),
                    default=Selects.BACKGROUND,
                    tooltip="What the mask selects. product: you painted the product. background: the file is a cut-out with "
                    "transparency, whose mask is 1 on the transparent part.",
                ),
                io.Boolean.Input(
                    "several_parts",
                    default=False,
                    tooltip="Off: a photo in which several separate things are found is refused. On: all of them are the "
                    "product. What is painted is taken as it is.",
                ),
                io.Boolean.Input(
                    "cut_off",
                    default=False,
                    tooltip="Off: a found product that touches the photo's border is refused, since a part of it is missing. On: "
                    "it is taken as it is. What is painted is taken as it is.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Painted in the mask editor, or the file's transparency; what 1 means says mask_selects. It wins "
                    "wherever it selects anything; 0 all over, as of a file without transparency, selects nothing.",
                ),
                io.Mask.Input(
                    "found",
                    optional=True,
                    lazy=True,
                    tooltip="1 = product, soft: from Remove Background or SAM3 Detect. Below 0.1 counts as 0 and above 0.9 as 1; "
                    "one that is nowhere above 0.5 is refused. The model is not run where something is painted. Not connected: "
                    "what stands out is the product.",
                ),
                io.Combo.Input(
                    "enclosed",
                    options=list(Enclosed),
                    default=Enclosed.REFUSE,
                    optional=True,
                    tooltip="What has the ground's colour within the outline that this node finds. refuse: up to a fifth is "
                    "holes, of a white or black ground's up to 3 %, more is refused. holes: all of it is, as in a ring or a "
                    "basket. product: all of it is the product, as a white screen on white.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "product_mask",
                    display_name="product_mask",
                    tooltip="1 = product, with a soft edge. Where a node asks what it selects: product.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="JSON: who said what the product is, how sure that is, its share of the photo, its separate parts. A "
                    "list of these for a batch.",
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, photo: Tensor, mask: Tensor | None = None, **others: Any) -> list[str]:
        """A model that cuts out is run only where nothing is painted."""
        waiting = "found" in others and others["found"] is None
        return ["found"] if waiting and not bool(is_painted(mask, photo.shape[0]).all()) else []

    @classmethod
    def execute(
        cls,
        photo: Tensor,
        mask_selects: str,
        several_parts: bool,
        cut_off: bool,
        mask: Tensor | None = None,
        found: Tensor | None = None,
        enclosed: str = Enclosed.REFUSE,
    ) -> io.NodeOutput:
        """Cut out, and show it."""
        image = image_to_core(photo, "photo")
        made = cut_outs(image, mask, mask_selects, found, enclosed)
        for index, one in enumerate(made):
            check(one, index, several_parts, cut_off)
        opacity = torch.stack([one.opacity for one in made])
        preview = cut_out_preview(clamp_overshoot(image[:SHOWN]).clamp(0, 1), opacity[:SHOWN])
        shown: dict[str, Any] = ui.PreviewImage(image_from_core(preview), cls=cls).as_dict()
        more = f" (the first {SHOWN} are shown)" if len(made) > SHOWN else ""
        reports = [one.report() for one in made]
        report = json.dumps(reports[0] if len(reports) == 1 else reports)
        return io.NodeOutput(opacity, report, ui=with_line(shown, "; ".join(one.line() for one in made[:SHOWN]) + more))
