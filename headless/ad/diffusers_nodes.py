"""What stands for ComfyUI's nodes where there is no ComfyUI: the functions of `pfv_core` that this pack's nodes call, and the
demo's models as diffusers and transformers have them. Pictures are (B, C, H, W), masks (B, H, W), both 0..1.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.demo.stack import encode_text, load_stack, new_scheduler, tokenize
from lab.diffusers.sample import ImagePrompt, Text, sample_latents
from lab.diffusers.vision import ClipVisionEncoder
from pfv_core.ad.canvas import AdCanvas
from pfv_core.ad.composite import paste_back
from pfv_core.ad.depth import compose_depth
from pfv_core.ad.depth_fit import DepthFit, fit_depth, visible_at
from pfv_core.ad.exactness import all_exact, measure_exactness
from pfv_core.ad.formats import Training, ad_format
from pfv_core.ad.opacity import SEEN_ABOVE
from pfv_core.ad.placement import Layout
from pfv_core.ad.shadow import add_contact_shadow
from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.attention.balance import PAPER_GAMMA
from pfv_core.attention.control import PromptControl
from pfv_core.figures import percent
from pfv_core.found.depth import plain_depth, standing_depth
from pfv_core.found.line import find_ground_line
from pfv_core.found.photo import check, cut_outs
from pfv_core.found.preview import cut_out_preview
from pfv_core.found.reference import hidden_of
from pfv_core.found.within import Enclosed
from pfv_core.masks import product_opacity, product_selection, region_selection, settled, visible_mask
from pfv_core.reference.fit import fit_geometry
from pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_core.reference.preview import patch_grid_preview
from pfv_core.reference.vit import ImageTokens, encode_image
from pfv_core.region.distance import fade
from pfv_core.region.distance import grow as grown
from pfv_core.region.preview import canvas_preview, region_preview
from pfv_core.region.regions import draw_region, share_frame
from pfv_demo.sizes import ADAPTER_FILE, IMAGE_SIZE

from .graph import Computed, Operation
from .pictures import Pictures, alpha, rgb

WEIGHTING = ("(", ")", "embedding:")  # of a prompt: what ComfyUI reads otherwise than as words
DEMO = Training("the demo", IMAGE_SIZE)
Model = tuple[ImagePrompt, ...]
"""The demo's model with image prompts."""


@dataclass(frozen=True)
class Conditioning:
    """A text, and the depth that a ControlNet sees beside it."""

    text: Text
    depth: Tensor | None = None
    strength: float = 0.0


class DemoNodes:
    """The demo's models, and what the nodes do with them.

    Args:
        weights: folder of the demo's files.

    Raises:
        FileNotFoundError: one is missing.
    """

    def __init__(self, weights: Path) -> None:
        self._models = load_stack(weights)
        self._encoder = ClipVisionEncoder(self._models.vision_encoder)
        self._adapter = load_adapter(weights / ADAPTER_FILE).float()

    def operations(self, pictures: Pictures) -> dict[str, Operation]:
        """By class of node; `pictures` are what LoadImage finds."""

        def load(image: str) -> Computed:
            return Computed((rgb(pictures[image]), 1 - alpha(pictures[image])))

        whole = {"start_percent": 0.0, "end_percent": 1.0}
        return {
            "LoadImage": Operation(load, {"upload": "image"}),
            "PFVDemoModels": Operation(lambda: Computed(((), None, None, None, None, None))),
            "PFVMaskRebinarize": Operation(self._rebinarize),
            "PFVImageEncode": Operation(self._encode),
            "PFVTokenCompress": Operation(self._compress),
            "MEPAApply": Operation(self._apply, {**whole, "branches": None, "weights": None}),
            "MEPARegionShape": Operation(region_shape),
            "MEPARegionFromMask": Operation(region_from_mask),
            "MEPARegionBuilder": Operation(build_regions),
            "PFVAdCanvas": Operation(canvas),
            "PFVCutOut": Operation(cut_out),
            "PFVReference": Operation(self._reference),
            "PFVGround": Operation(ground),
            "PFVProductDepth": Operation(product_depth),
            "PFVDepthCompose": Operation(depth_of_the_ad),
            "CLIPTextEncode": Operation(self._text),
            "ControlNetApplyAdvanced": Operation(control, whole),
            "EmptyLatentImage": Operation(empty_latent, {"batch_size": 1}),
            "KSampler": Operation(self._sample, {"sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}),
            "VAEDecode": Operation(self._decode),
            "StrictIDComposite": Operation(composite, {"generated_mask": None}),
            "GetImageSize": Operation(lambda image: Computed((image.shape[3], image.shape[2], len(image)))),
            "ImageScale": Operation(scale_image),
            "MaskToImage": Operation(lambda mask: Computed((mask[:, None].expand(-1, 3, -1, -1),))),
            "ImageToMask": Operation(lambda image: Computed((image[:, 0],)), {"channel": "red"}),
            "SaveImage": Operation(lambda images, filename_prefix: Computed((images,))),
        }

    def _patch_mask(self, reference: Tensor, mask: Tensor | None, fit: str, threshold: float) -> PatchMask:
        spec, (height, width) = self._encoder.spec, reference.shape[2:]
        visible = visible_mask(mask, reference, "mask", empty=True)
        return rebinarize(visible, fit_geometry(height, width, spec.image_size, spec.patch_size, fit), threshold)

    def _rebinarize(
        self, clip_vision: Any, reference: Tensor, fit: str, threshold: float, mask: Tensor | None = None
    ) -> Computed:
        patch_mask = self._patch_mask(reference, mask, fit, threshold)
        hidden = patch_mask.hidden_pixels()
        return Computed((patch_mask, hidden.float()), patch_grid_preview(reference, hidden, patch_mask.geometry))

    def _reference(
        self,
        clip_vision: Any,
        adapter: Any,
        reference: Tensor,
        hide: str,
        fit: str,
        threshold: float,
        mode: str,
        mask: Tensor | None = None,
    ) -> Computed:
        hidden = hidden_of(reference, hide, mask, None)
        patch_mask = self._patch_mask(reference, hidden.mask.float(), fit, threshold)
        tokens = encode_image(self._encoder, reference, patch_mask, mode)
        pixels = patch_mask.hidden_pixels()
        shown = patch_grid_preview(reference, pixels, patch_mask.geometry)
        said = hidden.line((float(patch_mask.kept_share[0]),))
        return Computed((self._adapter.image_prompt(tokens), pixels.float()), shown, said)

    def _encode(self, clip_vision: Any, reference: Tensor, patch_mask: PatchMask, mode: str) -> Computed:
        return Computed((encode_image(self._encoder, reference, patch_mask, mode),))

    def _compress(self, image_tokens: ImageTokens, adapter: Any, method: str, num_tokens: int) -> Computed:
        return Computed((self._adapter.image_prompt(image_tokens, method, num_tokens),))

    def _apply(
        self,
        model: Model,
        image_prompt: tuple[Tensor, Tensor],
        strength: float,
        text_share: float,
        gate: str,
        region: Tensor | None = None,
        std_norm: bool = False,
        time_weighting: bool = False,
        gamma: int = PAPER_GAMMA,
    ) -> Computed:
        control = PromptControl(strength, text_share, gate, std_norm, float(gamma) if time_weighting else None)
        return Computed(((*model, ImagePrompt(self._adapter, *image_prompt, control, region)),))

    def _text(self, clip: Any, text: str) -> Computed:
        if found := next((mark for mark in WEIGHTING if mark in text), ""):
            raise ValueError(
                f"the prompt {text!r} holds {found!r}, with which ComfyUI weights words or names an embedding; that is computed "
                "in ComfyUI only: install ComfyUI, or write it without"
            )
        return Computed(
            (Conditioning(encode_text(self._models.text_encoder, tokenize([text], self._models.tokenizer))),)
        )

    def _sample(
        self,
        model: Model,
        positive: Conditioning,
        negative: Conditioning,
        latent_image: Tensor,
        seed: int,
        steps: int,
        cfg: float,
    ) -> Computed:
        size = 8 * latent_image.shape[2], 8 * latent_image.shape[3]
        if positive.depth is not negative.depth or positive.strength != negative.strength:
            raise ValueError(
                "positive and negative come from two Apply ControlNet; that is computed in ComfyUI only: install ComfyUI, or "
                "take both from one"
            )
        if positive.depth is None or tuple(positive.depth.shape[2:]) != size:
            raise ValueError(
                f"the sampler needs a depth of {size[1]}x{size[0]} pixels (width x height) in both prompts; what else it "
                "can do is computed in ComfyUI only: install ComfyUI, or leave Apply ControlNet and sampling_scale as shipped"
            )
        noise = torch.randn(latent_image.shape, generator=torch.manual_seed(seed))
        latents = sample_latents(
            self._models.unet,
            new_scheduler(),
            noise,
            text=positive.text,
            negative_text=negative.text,
            guidance_scale=cfg,
            steps=steps,
            image_size=size,
            image_prompts=model,
            controlnet=self._models.controlnet,
            depth=positive.depth,
            control_strength=positive.strength,
            on_step=_say_step,
        )
        return Computed((latents,))

    def _decode(self, samples: Tensor, vae: Any) -> Computed:
        return Computed((self._models.autoencoder.decode(samples).clamp(0, 1),))


def cut_out(
    photo: Tensor,
    mask_selects: str,
    several_parts: bool,
    cut_off: bool,
    mask: Tensor | None = None,
    enclosed: str = Enclosed.REFUSE,
) -> Computed:
    """PFV Cut Out, of one photo."""
    (made,) = cut_outs(photo, mask, mask_selects, None, enclosed)
    check(made, 0, several_parts, cut_off)
    opacity = made.opacity[None]
    return Computed((opacity,), cut_out_preview(photo, opacity), made.line())


def ground(
    picture: Tensor, ground_line: str, at: float, hidden_mask: Tensor | None = None, depth: Tensor | None = None
) -> Computed:
    """PFV Ground, of one picture."""
    visible = visible_mask(hidden_mask, picture, "hidden_mask", empty=True)[0]
    line, said = (at, "set") if ground_line == "at" else (None, "")
    if line is None:
        found = find_ground_line(picture[0], visible)
        line, said = found.share, f"found, sure to {found.sure:.2f}"
    if depth is None:
        depth = plain_depth((picture.shape[2], picture.shape[3]), line).expand(1, 3, -1, -1)
    return Computed((line, depth), depth, f"the ground begins at {percent(line)} of the height: {said}")


def product_depth(
    product_mask: Tensor, product_mask_selects: str, line: float, depth: Tensor | None = None
) -> Computed:
    """PFV Product Depth, of one product."""
    if depth is None:
        product = product_selection(product_mask, product_mask_selects, "product_mask")[0]
        depth = standing_depth(product, line).expand(1, 3, -1, -1)
    return Computed((depth,), depth)


def canvas(
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
    model: Model | None = None,
) -> Computed:
    """PFV Ad Canvas."""
    layout = Layout(position, scale_by, share, margin, (safe_left, safe_top, safe_right, safe_bottom), x, y)
    opacity = product_opacity(product_mask, product_mask_selects, product, "product_mask")
    planned_format = ad_format(format, (custom_height, custom_width), sampling_scale, None if model is None else DEMO)
    planned = AdCanvas.plan(opacity, planned_format, layout)
    placed, placed_opacity = planned.place(product, backdrop)
    planned = replace(planned, shown=(placed, placed_opacity))
    region = 1 - fade(placed_opacity > SEEN_ABOVE, region_rim)
    height, width = planned.format.sampling
    shown = canvas_preview(placed, placed_opacity, planned.format.size, layout.safe_box(planned.format.size))
    return Computed((placed, placed_opacity, region, planned, width, height, json.dumps(planned.report())), shown)


def region_shape(
    width: int, height: int, shape: str, x1: float, y1: float, x2: float, y2: float, softness: float
) -> Computed:
    """MEPA Region Shape."""
    return Computed((draw_region(shape, (height, width), (x1, y1), (x2, y2), softness),))


def region_from_mask(mask: Tensor, mask_selects: str, grow: int, softness: int, around: bool) -> Computed:
    """MEPA Region From Mask."""
    region = fade(grown(region_selection(mask, mask_selects, "mask"), grow), softness)
    return Computed((1 - region if around else region,))


def build_regions(
    region_1: Tensor,
    sharing: str,
    region_2: Tensor | None = None,
    region_3: Tensor | None = None,
    region_4: Tensor | None = None,
    image: Tensor | None = None,
) -> Computed:
    """MEPA Region Builder."""
    inputs = {"region_1": region_1, "region_2": region_2, "region_3": region_3, "region_4": region_4}
    given = {name: region for name, region in inputs.items() if region is not None}
    regions, rest = share_frame(list(given.values()), sharing)
    shared = dict(zip(given, regions, strict=True))
    shown = region_preview(regions, image)
    return Computed((*(shared.get(name, rest * 0) for name in inputs), rest, shown), shown)


def depth_of_the_ad(
    foreground_depth: Tensor,
    product_mask: Tensor,
    product_mask_selects: str,
    reference_depth: Tensor,
    fill: str,
    hidden_mask: Tensor | None = None,
    fit: str = DepthFit.SAME_SIZE,
) -> Computed:
    """PFV Depth Compose."""
    product = product_selection(product_mask, product_mask_selects, "product_mask")
    size = product.shape[1], product.shape[2]
    whole = torch.ones_like(foreground_depth[:, 0]).bool()
    foreground, _ = fit_depth(foreground_depth, whole, size, fit)
    like = reference_depth
    if hidden_mask is not None and fit != DepthFit.SAME_SIZE:  # the mask is of the reference, the depth an estimator's
        like = reference_depth.new_zeros(()).expand(len(reference_depth), 1, *hidden_mask.shape[1:])
    visible = visible_mask(hidden_mask, like, "hidden_mask", empty=True)
    if fit != DepthFit.SAME_SIZE:
        visible = visible_at(visible, (reference_depth.shape[2], reference_depth.shape[3]))
    reference, visible = fit_depth(reference_depth, visible, size, fit)
    depth = compose_depth(foreground, product, reference, visible, fill)
    return Computed((depth,), depth)


def control(
    positive: Conditioning, negative: Conditioning, control_net: Any, image: Tensor, strength: float
) -> Computed:
    """Apply ControlNet."""
    if positive.depth is not None or negative.depth is not None:
        raise ValueError(
            "Apply ControlNet follows another one; two are computed in ComfyUI only: install ComfyUI, or leave one of them out"
        )
    return Computed(tuple(replace(text, depth=image, strength=strength) for text in (positive, negative)))


def empty_latent(width: int, height: int) -> Computed:
    """Empty Latent Image, of one image."""
    return Computed((torch.zeros(1, 4, height // 8, width // 8),))


def scale_image(image: Tensor, upscale_method: str, width: int, height: int, crop: str) -> Computed:
    """Upscale Image, where it has nothing to do."""
    if tuple(image.shape[2:]) != (height, width):
        raise ValueError(
            f"an image of {image.shape[3]}x{image.shape[2]} is to become {width}x{height} ({upscale_method}, crop {crop}), "
            "which is computed in ComfyUI only: install ComfyUI, or give it that size"
        )
    return Computed((image,))


def composite(
    generated: Tensor,
    product: Tensor,
    product_mask: Tensor,
    product_mask_selects: str,
    erode: int,
    feather: int,
    rim: str,
    shadow_strength: float = 0.0,
    shadow_size: int = 16,
    canvas: AdCanvas | None = None,
) -> Computed:
    """Strict-ID Composite."""
    opacity = product_opacity(product_mask, product_mask_selects, product, "product_mask")
    if canvas is not None:
        generated, product = canvas.finish(generated), canvas.finish(product)
        opacity = settled(canvas.finish(opacity[:, None])[:, 0])
        canvas.check_placed(product, opacity)
    if shadow_strength:
        generated = add_contact_shadow(generated, opacity > SEEN_ABOVE, shadow_strength, shadow_size)
    image, exact = paste_back(generated, product, opacity, erode, feather, rim)
    reports = measure_exactness(
        image, generated, product, opacity, exact, placements=None if canvas is None else canvas.placements
    )
    text = json.dumps({"exact": all_exact(reports), "ads": [asdict(report) for report in reports]}, indent=2)
    return Computed((image, exact.float(), text), image, text)


def _say_step(done: int, steps: int) -> None:
    if done == steps or done % 5 == 0:
        print(f"sampling: {done} of {steps}", flush=True)
