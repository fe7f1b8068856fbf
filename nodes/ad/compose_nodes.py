"""The product's depth in front of the reference's: the depth of the ad."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.ad.depth import DepthFill, compose_depth
from ...pfv_core.ad.depth_fit import DepthFit, check_shape, fit_depth, visible_at
from ...pfv_core.choices import parse_choice
from ...pfv_core.figures import percent
from ...pfv_core.masks import NO_MASK_SIZE, Selects, mask_to_core, visible_mask, within_range
from ...pfv_core.masks import product_mask as product_mask_to_core
from ...pfv_core.region.preview import small_picture
from ..convert import depth_to_core, image_from_core
from ..feedback import with_line
from ..types import CATEGORY
from .product_nodes import MASK_SELECTS_TOOLTIP


class PFVDepthCompose(io.ComfyNode):
    """Two depth maps -> the depth image for ControlNet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVDepthCompose",
            display_name="PFV Depth Compose",
            category=CATEGORY,
            description="Puts the product's depth in front of the reference's depth, without the reference's hidden part. "
            "Near is bright. Connect it to a depth ControlNet.",
            inputs=[
                io.Image.Input("foreground_depth", tooltip="Depth of the product where it stands in the ad. 1 = near."),
                io.Mask.Input("product_mask", tooltip="Where the product stands in the ad. Its size is the frame's."),
                io.Combo.Input(
                    "product_mask_selects",
                    options=list(Selects),
                    default=Selects.BACKGROUND,
                    tooltip=MASK_SELECTS_TOOLTIP,
                ),
                io.Image.Input("reference_depth", tooltip="Depth of the reference; another size wants fit. 1 = near."),
                io.Combo.Input(
                    "fill",
                    options=list(DepthFill),
                    default=DepthFill.SURROUNDINGS,
                    tooltip="What stands where the reference is hidden. surroundings: its visible depth, carried inwards "
                    "along rows. far: 0.",
                ),
                io.Mask.Input(
                    "hidden_mask",
                    optional=True,
                    tooltip="1 = hidden in the reference, as painted. Not connected: all of its depth is used.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(DepthFit),
                    default=DepthFit.SAME_SIZE,
                    optional=True,
                    tooltip="How depth of another size comes to the product mask's. same_size: it is refused. stretch: "
                    "distorted. crop: cut evenly to the frame's shape; a line of PFV Ground then lies elsewhere. "
                    "Hidden depth reaches nothing in either.",
                ),
            ],
            outputs=[io.Image.Output("depth", display_name="depth", tooltip="For a depth ControlNet.")],
        )

    @classmethod
    def execute(
        cls,
        foreground_depth: Tensor,
        product_mask: Tensor,
        product_mask_selects: str,
        reference_depth: Tensor,
        fill: str,
        hidden_mask: Tensor | None = None,
        fit: str = DepthFit.SAME_SIZE,
    ) -> io.NodeOutput:
        """Bring both to the frame, and compose."""
        way = parse_choice(DepthFit, fit, "fit")
        foreground = within_range(depth_to_core(foreground_depth, "foreground_depth"), "foreground_depth")
        own_size = foreground.shape[2], foreground.shape[3]
        if way is not DepthFit.SAME_SIZE:
            height, width = mask_to_core(product_mask, "product_mask").shape[1:]
            foreground, _ = fit_depth(foreground, _all_of(foreground), (height, width), way)
        product = product_mask_to_core(product_mask, product_mask_selects, foreground, "product_mask")
        check_shape(own_size, (product.shape[1], product.shape[2]))
        given = depth_to_core(reference_depth, "reference_depth")
        visible = _visible(hidden_mask, given, way)
        given = within_range(given.masked_fill(~visible[:, None], 0.5), "the visible reference_depth")
        height, width = foreground.shape[2:]
        reference, visible = fit_depth(given, visible, (height, width), way)
        foreground, product, reference, visible = _alike(foreground, product, reference, visible)
        depth = compose_depth(foreground, product, reference, visible, fill)
        shown = ui.PreviewImage(image_from_core(small_picture(depth)), cls=cls).as_dict()
        return io.NodeOutput(image_from_core(depth), ui=with_line(shown, _line(given, product, visible, way)))


def _alike(foreground: Tensor, product: Tensor, reference: Tensor, visible: Tensor) -> tuple[Tensor, ...]:
    """Products and references in a batch of one length: one serves all of the others.

    Raises:
        ValueError: two lengths of which none is 1.
    """
    counts = foreground.shape[0], reference.shape[0]
    if counts[0] != counts[1] and 1 not in counts:
        raise ValueError(
            f"foreground_depth holds {counts[0]} pictures, reference_depth {counts[1]}: give 1 of one of them, or as many of both"
        )
    return tuple(one.expand(max(counts), *one.shape[1:]) for one in (foreground, product, reference, visible))


def _all_of(depth: Tensor) -> Tensor:
    """(B, H, W) bool: nothing of it is hidden."""
    return depth.new_ones(()).bool().expand(depth.shape[0], *depth.shape[2:])


def _visible(hidden_mask: Tensor | None, reference: Tensor, fit: DepthFit) -> Tensor:
    """(B, H, W) bool of the reference's depth, True = visible.

    With a fit the mask may have the size of the reference, of which the depth is an estimator's: then it is brought to the
    depth's, hidden wherever it touches anything hidden.
    """
    like = reference
    if hidden_mask is not None and fit is not DepthFit.SAME_SIZE:
        size = tuple(mask_to_core(hidden_mask, "hidden_mask").shape[1:])
        if size != NO_MASK_SIZE or bool(hidden_mask.any()):
            like = reference.new_zeros(()).expand(reference.shape[0], 1, *size)
    # PFV Mask Re-binarize hands out an empty mask where its own is disconnected: nothing is hidden.
    visible = visible_mask(hidden_mask, like, "hidden_mask", empty=True).expand(reference.shape[0], -1, -1)
    height, width = reference.shape[2:]
    return visible_at(visible, (height, width))


def _line(given: Tensor, product: Tensor, visible: Tensor, fit: DepthFit) -> str:
    """How the reference's depth came to the frame, and how much of the frame is filled."""
    shares = (~visible & ~product).flatten(1).double().mean(1).tolist()
    filled = ", ".join(percent(share) for share in shares)
    height, width = visible.shape[1:]
    line = f"hidden in the reference, so filled: {filled} of the frame"
    if tuple(given.shape[2:]) == (height, width):
        return line
    return f"{line}; its depth was {given.shape[3]}x{given.shape[2]}, {fit.value} to {width}x{height}"
