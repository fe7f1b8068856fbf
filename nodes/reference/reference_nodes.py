"""A picture -> its image prompt in one node, and several of them as one look."""

from __future__ import annotations

import json
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.adapter.combine import Combine
from ...pfv_core.adapter.model import CompressMethod
from ...pfv_core.found.reference import Hidden, Hide, asks_for_found, hidden_of
from ...pfv_core.reference.fit import Fit, fit_geometry
from ...pfv_core.reference.patch_mask import PatchMask, rebinarize
from ...pfv_core.reference.preview import patch_grid_preview
from ...pfv_core.reference.vit import HideMode
from ..convert import clamp_overshoot, image_from_core, image_to_core
from ..feedback import with_line
from ..host.adapter import HostAdapter, ImagePrompt
from ..host.combination import combined
from ..host.vit import encoder_spec
from ..types import CATEGORY, AdapterType, ImagePromptType
from .encoded import encode_reference

SHOWN = 16  # pictures of a batch; a preview is for looking at
NUM_PROMPTS = 4


class PFVReference(io.ComfyNode):
    """Picture -> image prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVReference",
            display_name="PFV Reference",
            category=CATEGORY,
            description="Makes an image prompt of a picture whose look is wanted, without the other product in it: what is "
            "painted is hidden, else what a connected model found, else what stands out. The same as PFV Mask Re-binarize, PFV "
            "Image Encode and PFV Token Compress one after another.",
            inputs=[
                io.ClipVision.Input(
                    "clip_vision", tooltip="The adapter's image encoder, from MEPA Load Adapter and Encoder."
                ),
                AdapterType.Input("adapter", tooltip="From MEPA Load Adapter and Encoder or MEPA Adapter Loader."),
                io.Image.Input(
                    "reference", tooltip="The picture whose look is wanted. A batch gives a prompt for each."
                ),
                io.Combo.Input(
                    "hide",
                    options=list(Hide),
                    default=Hide.AUTOMATIC,
                    tooltip="automatic: what is painted on mask, else what is connected to found, else what stands out from its "
                    "surroundings; the line on the node says which. nothing: the whole picture is used, whatever is painted.",
                ),
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
                    tooltip="Share of a patch that may be hidden before the whole patch is. 0: one hidden pixel hides its "
                    "patch. 1: no patch is hidden (hidden pixels still are).",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(HideMode),
                    default=HideMode.DROP,
                    tooltip="drop: hidden patches leave the sequence, which is faster. zero: they stay as empty tokens, as "
                    "the paper's equation 1 has it.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="1 = hidden: painted in the mask editor, or transparent in the file. It wins wherever it is above "
                    "0.1, and fainter paint alone is refused; 0 all over, or a file without transparency, paints nothing.",
                ),
                io.Mask.Input(
                    "found",
                    optional=True,
                    lazy=True,
                    tooltip="1 = hidden (above 0.1, soft edges too): from SAM3 Detect or another model that finds things. It is "
                    "not run where something is painted. Not connected: what stands out is hidden.",
                ),
            ],
            outputs=[
                ImagePromptType.Output("image_prompt", display_name="image_prompt", tooltip="For MEPA Apply."),
                io.Mask.Output(
                    "hidden_mask",
                    display_name="hidden_mask",
                    tooltip="1 = hidden: what was hidden, and whole patches with it. At the reference's size.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="JSON: for each picture who said what is hidden, and the share of its patches that is kept.",
                ),
            ],
        )

    @classmethod
    def check_lazy_status(cls, hide: str, mask: Tensor | None = None, **others: Any) -> list[str]:
        """A model that looks for the thing is run only where nothing is painted."""
        waiting = "found" in others and others["found"] is None
        return ["found"] if waiting and asks_for_found(hide, mask) else []

    @classmethod
    def execute(
        cls,
        clip_vision: Any,
        adapter: HostAdapter,
        reference: Tensor,
        hide: str,
        fit: str,
        threshold: float,
        mode: str,
        mask: Tensor | None = None,
        found: Tensor | None = None,
    ) -> io.NodeOutput:
        """Hide, encode, compress, and show it."""
        spec = encoder_spec(clip_vision)
        adapter.config.check_encoder(spec)
        image = image_to_core(reference, "reference")
        geometry = fit_geometry(image.shape[2], image.shape[3], spec.image_size, spec.patch_size, fit)
        hidden = hidden_of(image, hide, mask, found)
        patch_mask = rebinarize(~hidden.mask, geometry, threshold)
        tokens = encode_reference(clip_vision, clamp_overshoot(image), patch_mask, mode)
        prompt = adapter.image_prompt(tokens, CompressMethod.ADAPTER, 0, hidden.sources)
        pixels = patch_mask.hidden_pixels()
        shown = _shown(cls, image, pixels, patch_mask, hidden)
        return io.NodeOutput(prompt, pixels.float(), json.dumps(_report(prompt, hidden)), ui=shown)


def _shown(
    cls: type[io.ComfyNode], image: Tensor, pixels: Tensor, patch_mask: PatchMask, hidden: Hidden
) -> dict[str, Any]:
    """The patches of the first pictures, and who said what is hidden."""
    preview = patch_grid_preview(image[:SHOWN], pixels[:SHOWN], patch_mask.geometry)
    shown: dict[str, Any] = ui.PreviewImage(image_from_core(preview), cls=cls).as_dict()
    more = f" (the first {SHOWN} are shown)" if len(image) > SHOWN else ""
    return with_line(shown, hidden.line(tuple(patch_mask.kept_share.tolist())) + more)


def _report(prompt: ImagePrompt, hidden: Hidden) -> dict[str, Any]:
    pictures = zip(prompt.facts.references, hidden.sure, strict=True)
    return {
        "references": [{"source": fact.source, "sure": sure, "kept_share": fact.kept_share} for fact, sure in pictures],
        "encoder": prompt.facts.encoder,
        "adapter_kind": prompt.adapter.config.kind.value,
        "adapter_file": prompt.adapter.file,
    }


class PFVCombineReferences(io.ComfyNode):
    """Image prompts -> one image prompt."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        numbers = range(1, NUM_PROMPTS + 1)
        return io.Schema(
            node_id="PFVCombineReferences",
            display_name="PFV Combine References",
            category=CATEGORY,
            description="Several pictures as one look, in one region and with one strength, and a picture to move away from. For "
            "pictures with regions of their own use a MEPA Apply for each.",
            inputs=[
                ImagePromptType.Input("image_prompt_1", tooltip="From PFV Reference or PFV Token Compress."),
                io.Combo.Input(
                    "combine",
                    options=list(Combine),
                    default=Combine.CONCATENATE,
                    tooltip="concatenate: the tokens of all pictures, among which each place of the ad chooses. average: the "
                    "mean of their tokens, a look between them.",
                ),
                *(
                    io.Float.Input(
                        f"weight_{number}",
                        default=1.0,
                        min=0.0,
                        max=10.0,
                        step=0.05,
                        tooltip=f"How much image_prompt_{number} counts beside the others. Only ratios count: 2 beside 1 is "
                        "twice as much. 0: as if it was not connected. How strongly all of them count says MEPA Apply.",
                    )
                    for number in numbers
                ),
                *(
                    ImagePromptType.Input(
                        f"image_prompt_{number}", optional=True, tooltip="Another picture, made with the same adapter."
                    )
                    for number in numbers[1:]
                ),
                ImagePromptType.Input(
                    "negative",
                    optional=True,
                    tooltip="A picture to move away from, made with the same adapter: it stands where the sampler's negative "
                    "prompt does, so it counts with cfg above 1. Not connected: the encoder's answer to no picture.",
                ),
            ],
            outputs=[ImagePromptType.Output("image_prompt", display_name="image_prompt", tooltip="For MEPA Apply.")],
        )

    @classmethod
    def execute(
        cls,
        image_prompt_1: ImagePrompt,
        combine: str,
        weight_1: float,
        weight_2: float,
        weight_3: float,
        weight_4: float,
        image_prompt_2: ImagePrompt | None = None,
        image_prompt_3: ImagePrompt | None = None,
        image_prompt_4: ImagePrompt | None = None,
        negative: ImagePrompt | None = None,
    ) -> io.NodeOutput:
        """Combine."""
        inputs = (image_prompt_1, image_prompt_2, image_prompt_3, image_prompt_4)
        names = [f"image_prompt_{number}" for number in range(1, NUM_PROMPTS + 1)]
        prompts = {name: prompt for name, prompt in zip(names, inputs, strict=True) if prompt is not None}
        weights = dict(zip(names, (weight_1, weight_2, weight_3, weight_4), strict=True))
        prompt = combined(prompts, weights, combine, negative)
        used = sum(weights[name] > 0 for name in prompts)
        line = f"{Combine(combine).value}: {used} of {len(prompts)} connected, {prompt.positive.shape[1]} tokens"
        away = f"; away from a picture of {prompt.negative.shape[1]} tokens" if negative is not None else ""
        return io.NodeOutput(prompt, ui=with_line({}, line + away))
