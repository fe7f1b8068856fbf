"""Where the ground begins in a reference, plain depths of it and of a product that stands on it."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.choices import parse_choice
from ...pfv_core.figures import percent
from ...pfv_core.found.depth import hangs, plain_depth, standing_depth
from ...pfv_core.found.line import find_ground_line
from ...pfv_core.found.preview import ground_preview
from ...pfv_core.found.unsure import UnsureError
from ...pfv_core.masks import NO_MASK_SIZE, Selects, product_selection, visible_mask, within_range
from ...pfv_core.region.preview import small_picture
from ..convert import depth_to_core, image_from_core, image_to_core
from ..feedback import with_line
from ..types import CATEGORY
from .product_nodes import MASK_SELECTS_TOOLTIP

DEFAULT_LINE = 0.66


class GroundLineFrom(str, Enum):
    """AUTOMATIC: the line is looked for in the picture. AT: it is where the user says."""

    AUTOMATIC = "automatic"
    AT = "at"


class PFVGround(io.ComfyNode):
    """Picture -> where its ground begins, and its depth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVGround",
            display_name="PFV Ground",
            category=CATEGORY,
            description="Finds the line at which the ground (a table, a floor) begins in a reference, and gives its depth: the "
            "one that is connected, else a plain one of a wall above a ground that nears downwards.",
            inputs=[
                io.Image.Input("picture", tooltip="The reference. One picture, since there is one line."),
                io.Combo.Input(
                    "ground_line",
                    options=list(GroundLineFrom),
                    default=GroundLineFrom.AUTOMATIC,
                    tooltip="automatic: the row at which all colours change is looked for, and refused where it is not sure. at: "
                    "the height that at says.",
                ),
                io.Float.Input(
                    "at",
                    default=DEFAULT_LINE,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of the height from the top, for ground_line at alone. 0: all is ground. 1: there is none. "
                    "Where a region is made of the line: 0.01 and 0.99, since no region may be empty.",
                ),
                io.Mask.Input(
                    "hidden_mask",
                    optional=True,
                    tooltip="1 = hidden, so not looked at: from PFV Reference or PFV Mask Re-binarize. Not connected, or 0 all "
                    "over: all of the picture is looked at.",
                ),
                io.Image.Input(
                    "depth",
                    optional=True,
                    tooltip="Of the picture, near is bright: drawn, or from Depth Anything. It is handed on as it is. Not "
                    "connected: a plain depth by geometry.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "line",
                    display_name="line",
                    tooltip="Share of the height, from the top. 0: all is ground. 1: there is none.",
                ),
                io.Image.Output(
                    "depth_of_picture", display_name="depth", tooltip="Near is bright. For PFV Depth Compose."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="JSON: the line, how sure it is, whose the depth is."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        picture: Tensor,
        ground_line: str,
        at: float,
        hidden_mask: Tensor | None = None,
        depth: Tensor | None = None,
    ) -> io.NodeOutput:
        """Find, and show it."""
        image = image_to_core(picture, "picture")
        line, sure = _line(image, ground_line, at, hidden_mask)
        given = None if depth is None else within_range(depth_to_core(depth, "depth"), "depth")
        height, width = image.shape[2:]
        plain = plain_depth((height, width), line).expand(image.shape[0], 3, -1, -1)
        made = plain if given is None else given
        whose = "plain, by geometry" if given is None else "as connected"
        whose += _if_dark_below(made, line) if given is not None else ""
        said = (
            f"ground from {percent(line)} of the height, {'as set' if sure is None else f'found, sure to {sure:.2f}'}"
        )
        # What is hidden may be anything, NaN included.
        preview = ground_preview(image[:1].nan_to_num(0.5).clamp(0, 1), line, made[:1])
        shown: dict[str, Any] = ui.PreviewImage(image_from_core(preview), cls=cls).as_dict()
        report = {
            "line": round(line, 4),
            "source": "at" if sure is None else "found",
            "sure": None if sure is None else round(sure, 4),
            "depth": "plain" if given is None else "connected",
        }
        return io.NodeOutput(
            line, image_from_core(made), json.dumps(report), ui=with_line(shown, f"{said}; depth {whose}")
        )


class PFVProductDepth(io.ComfyNode):
    """Product mask and ground line -> the product's depth."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVProductDepth",
            display_name="PFV Product Depth",
            category=CATEGORY,
            description="The depth of the product where it stands in the ad, for PFV Depth Compose: the one that is connected, "
            "else as near as the ground under its foot.",
            inputs=[
                io.Mask.Input("product_mask", tooltip="Where the product stands in the ad. Its size is the frame's."),
                io.Combo.Input(
                    "product_mask_selects",
                    options=list(Selects),
                    default=Selects.BACKGROUND,
                    tooltip=MASK_SELECTS_TOOLTIP,
                ),
                io.Float.Input(
                    "line",
                    default=DEFAULT_LINE,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the ground begins, share of the height from the top; from PFV Ground. 0: all is ground. 1: "
                    "there is none.",
                ),
                io.Image.Input(
                    "depth",
                    optional=True,
                    tooltip="Of the product in the frame, near is bright, from PFV Ad Canvas Place. What lies around it "
                    "is not used. Not connected: flat, as near as the ground under its lowest row.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "depth_of_product", display_name="depth", tooltip="Near is bright; 0 around the product."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="JSON: whose the depth is, how near, and whether it stands.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, product_mask: Tensor, product_mask_selects: str, line: float, depth: Tensor | None = None
    ) -> io.NodeOutput:
        """Stand it on the ground, or take what is connected."""
        product = product_selection(product_mask, product_mask_selects, "product_mask")
        standing = torch.stack([standing_depth(one, line) for one in product])
        nearness = [round(float(one.max()), 4) for one in standing]
        above = [hangs(one, line) for one in product]
        made = standing[:, None].expand(-1, 3, -1, -1)
        if depth is not None:
            made = torch.where(product[:, None], _of_frame(depth, product), 0.0)
        report = {
            "source": "plain" if depth is None else "connected",
            "nearness": nearness if depth is None else None,
            "hangs": above,
        }
        shown: dict[str, Any] = ui.PreviewImage(image_from_core(small_picture(made)), cls=cls).as_dict()
        said = (
            "as connected" if depth is not None else f"flat, as near as {', '.join(f'{one:.2f}' for one in nearness)}"
        )
        line_said = said + (f"; {_HANGS}" if any(above) else "")
        return io.NodeOutput(image_from_core(made), json.dumps(report), ui=with_line(shown, line_said))


_HANGS = "its foot is above the ground line, so it hangs before the wall: place it lower, or set the line higher"


def _if_dark_below(depth: Tensor, line: float) -> str:
    """What there is to say of a depth whose ground is farther than what lies above it; nothing where it nears."""
    edge = min(max(round(line * depth.shape[2]), 1), depth.shape[2] - 1)
    above, below = (float(part.mean()) for part in (depth[:, :, :edge], depth[:, :, edge:]))
    return (
        ""
        if below > above
        else f", but no brighter below the line ({below:.2f}) than above it ({above:.2f}): near must be bright"
    )


def _line(image: Tensor, ground_line: str, at: float, hidden_mask: Tensor | None) -> tuple[float, float | None]:
    """The line, and how sure it is; None where it is the user's."""
    if parse_choice(GroundLineFrom, ground_line, "ground_line") is GroundLineFrom.AT:
        if not 0 <= at <= 1:
            raise ValueError(f"at is {at:g}, expected a share of the height from 0 (top) to 1 (bottom)")
        return at, None
    if image.shape[0] > 1:
        raise ValueError(
            f"picture holds {image.shape[0]} pictures, and the ground begins elsewhere in each: give one, or set ground_line "
            "to at"
        )
    if hidden_mask is not None and tuple(hidden_mask.shape[-2:]) == NO_MASK_SIZE and not bool(hidden_mask.any()):
        hidden_mask = None  # ComfyUI's mask of a file without alpha
    visible = visible_mask(hidden_mask, image, "hidden_mask", empty=True)[0]
    looked_at = image[0].masked_fill(~visible, 0.5)
    try:
        found = find_ground_line(within_range(looked_at, "the visible picture"), visible)
    except UnsureError as error:
        raise ValueError(f"picture: {error}") from error
    return found.share, found.sure


def _of_frame(depth: Tensor, product: Tensor) -> Tensor:
    """A depth picture (B, 3, H, W) of the product mask's size, for each of its masks."""
    made = depth_to_core(depth, "depth")
    if made.shape[2:] != product.shape[1:] or made.shape[0] not in (1, product.shape[0]):
        raise ValueError(
            f"depth is {made.shape[0]} of {made.shape[3]}x{made.shape[2]}, product_mask {product.shape[0]} of "
            f"{product.shape[2]}x{product.shape[1]} (width x height): give both the same size, through PFV Ad Canvas Place"
        )
    seen = made.expand(product.shape[0], -1, -1, -1).masked_fill(~product[:, None], 0.5)
    return within_range(seen, "the product's depth")
