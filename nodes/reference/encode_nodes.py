"""From a reference with a painted mask to its visible tokens."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.figures import percent
from ...pfv_core.masks import visible_mask
from ...pfv_core.reference.fit import Fit, fit_geometry
from ...pfv_core.reference.patch_mask import PatchMask, rebinarize
from ...pfv_core.reference.preview import patch_grid_preview
from ...pfv_core.reference.vit import HideMode
from ..convert import clamp_overshoot, image_from_core, image_to_core
from ..feedback import with_line
from ..host.vit import clip_vision_output, encoder_spec
from ..types import CATEGORY, ImageTokensType, PatchMaskType
from .encoded import encode_reference


class PFVMaskRebinarize(io.ComfyNode):
    """Painted mask -> patch mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVMaskRebinarize",
            display_name="PFV Mask Re-binarize",
            category=CATEGORY,
            description="Turns the painted part of a reference into hidden patches of the image encoder. What is hidden "
            "has no influence on the image prompt at all. The preview shows the patch grid; tinted patches are hidden.",
            inputs=[
                io.ClipVision.Input(
                    "clip_vision", tooltip="The encoder that will encode the reference: the patches are its."
                ),
                io.Image.Input("reference", tooltip="The picture whose look is wanted."),
                io.Combo.Input(
                    "fit",
                    options=list(Fit),
                    default=Fit.PAD,
                    tooltip="pad: the whole picture is seen, undistorted. crop: the centre square, as CLIP does it. "
                    "stretch: the whole picture, distorted to a square.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Share of a patch that may be painted before the whole patch is hidden. 0: one painted pixel "
                    "hides its patch. 1: no patch is hidden (painted pixels still are).",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="1 = hidden. Paint over the other firm's product. Not connected: nothing is hidden.",
                ),
            ],
            outputs=[
                PatchMaskType.Output("patch_mask", display_name="patch_mask", tooltip="For PFV Image Encode."),
                io.Mask.Output(
                    "hidden_mask",
                    display_name="hidden_mask",
                    tooltip="1 = hidden: what is painted, and whole patches with it. At the reference's size.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, clip_vision: Any, reference: Tensor, fit: str, threshold: float, mask: Tensor | None = None
    ) -> io.NodeOutput:
        """Re-binarize and preview."""
        spec = encoder_spec(clip_vision)
        image = image_to_core(reference, "reference")
        geometry = fit_geometry(image.shape[2], image.shape[3], spec.image_size, spec.patch_size, fit)
        patch_mask = rebinarize(visible_mask(mask, image, "mask"), geometry, threshold)
        hidden = patch_mask.hidden_pixels()
        preview = image_from_core(patch_grid_preview(image, hidden, geometry))
        shown: dict[str, Any] = ui.PreviewImage(preview, cls=cls).as_dict()
        shown["kept_share"] = [round(share, 4) for share in patch_mask.kept_share.tolist()]
        line = f"kept: {', '.join(percent(share) for share in patch_mask.kept_share.tolist())}"
        return io.NodeOutput(patch_mask, hidden.float(), ui=with_line(shown, line))


class PFVImageEncode(io.ComfyNode):
    """Reference and patch mask -> visible tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVImageEncode",
            display_name="PFV Image Encode",
            category=CATEGORY,
            description="Encodes the visible patches of a reference. Hidden pixels change no bit of the result.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="CLIP-ViT-H-14 for the *_vit-h adapters."),
                io.Image.Input("reference", tooltip="The same picture the patch mask was made for."),
                PatchMaskType.Input("patch_mask", tooltip="From PFV Mask Re-binarize."),
                io.Combo.Input(
                    "mode",
                    options=list(HideMode),
                    default=HideMode.DROP,
                    tooltip="drop: hidden patches leave the sequence, which is faster. zero: they stay as empty tokens, as "
                    "the paper's equation 1 has it.",
                ),
            ],
            outputs=[
                ImageTokensType.Output("image_tokens", display_name="image_tokens", tooltip="For PFV Token Compress."),
                io.ClipVisionOutput.Output(
                    "clip_vision_output",
                    display_name="clip_vision_output",
                    tooltip="The same tokens for any node that takes CLIP vision.",
                ),
            ],
        )

    @classmethod
    def execute(cls, clip_vision: Any, reference: Tensor, patch_mask: PatchMask, mode: str) -> io.NodeOutput:
        """Encode."""
        image = clamp_overshoot(image_to_core(reference, "reference"))
        tokens = encode_reference(clip_vision, image, patch_mask, mode)
        return io.NodeOutput(tokens, clip_vision_output(tokens))
