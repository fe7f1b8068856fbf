"""Pairs of held-out scenes: what texts and references show, the images made of them, and what is measured in each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from pfv_core.adapter.model import Adapter
from pfv_core.reference.fit import Fit, fit_geometry
from pfv_core.reference.open_clip_vit import OPENAI_MEAN
from pfv_core.reference.patch_mask import PatchMask, rebinarize
from pfv_core.reference.vit import HideMode, ImageTokens, encode_image, encode_uncond

from ...diffusers.sample import ImagePrompt, sample_latents
from ...diffusers.vision import ClipVisionEncoder
from ...evaluation.metrics import (
    color_share,
    layout_likeness,
    leak_ratio,
    mean_color,
    palette_distance,
    region_correctness,
    two_tones,
)
from .. import stack
from ..captions import caption
from ..scenes import Rendered, Scene, render, sample_pair
from .conditions import Condition, View, Words
from .judge import Judge, load_judge

NOISE_SEED = 3_000_000_000  # beyond the scenes' seeds, below the 32 bits that torch reads of one
WALL_TOP, WALL_BOTTOM, WALL_LEFT, WALL_RIGHT = 0.11, 0.58, 0.14, 0.90  # no scene's product or table reaches beyond
UPPER = 0.28  # the upper part of the frame: mostly wall, but the product's top may be in it
BLUR_SIGMA = 10.0  # pixels


@dataclass(frozen=True)
class Models:
    """What makes and reads the images."""

    autoencoder: stack.UnshuffledAutoencoder
    text_encoder: CLIPTextModelWithProjection
    vision: ClipVisionEncoder
    unet: UNet2DConditionModel
    tokenizer: CLIPTokenizer
    judge: Judge


def load_models(weights: Path, judge: Path) -> Models:
    """Read what is needed of the demo stack, and the judge.

    Raises:
        FileNotFoundError: a file is missing.
    """
    names = ("autoencoder", "text_encoder", "vision_encoder", "unet")
    autoencoder, text_encoder, vision_encoder, unet = (stack.load_model(name, weights) for name in names)
    for convolutional in (autoencoder, unet):
        convolutional.to(memory_format=torch.channels_last)  # faster on a CPU
    return Models(
        autoencoder, text_encoder, ClipVisionEncoder(vision_encoder), unet, stack.tokenizer(), load_judge(judge)
    )


class Chunk:
    """Pairs of scenes and what all conditions make of them."""

    def __init__(self, models: Models, start: int, count: int) -> None:
        self.models = models
        self.start = start
        self.pairs = [sample_pair(seed) for seed in range(start, start + count)]
        self._tokens: dict[View, ImageTokens] = {}

    @property
    def wanted(self) -> list[Scene]:
        """A of each pair: what the texts speak of."""
        return [first for first, _ in self.pairs]

    @property
    def references(self) -> list[Scene]:
        """B of each pair: what the references show."""
        return [second for _, second in self.pairs]

    @cached_property
    def noise(self) -> Tensor:
        """(B, 4, h, w), of each pair its own."""
        shape = (4, stack.LATENT_SIZE, stack.LATENT_SIZE)
        seeds = range(NOISE_SEED + self.start, NOISE_SEED + self.start + len(self.pairs))
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    @cached_property
    def wanted_drawn(self) -> Rendered:
        """A as drawn."""
        return render(self.wanted, stack.IMAGE_SIZE)

    @cached_property
    def reference_drawn(self) -> Rendered:
        """B as drawn."""
        return render(self.references, stack.IMAGE_SIZE)

    @cached_property
    def oracle(self) -> Tensor:
        """(B, 3, H, W), B without its product."""
        return _channels_first(render(self.references, stack.IMAGE_SIZE, product=False).image)

    @cached_property
    def region(self) -> Tensor:
        """(B, H, W) float, 1 = the wall of A without the box around its product."""
        return wall_region(self.wanted)

    @cached_property
    def foreign(self) -> Tensor:
        """(B, 3) colour of B's product."""
        return torch.tensor([scene.product_rgb for scene in self.references])

    @cached_property
    def reference_share(self) -> Tensor:
        """(B,) share of B's pixels that have the colour of its product."""
        image = _channels_first(self.reference_drawn.image)
        return color_share(image, torch.ones_like(image[:, 0], dtype=torch.bool), self.foreign)

    @cached_property
    def wall_tones(self) -> tuple[Tensor, Tensor]:
        """(B, 2, 3) each: the tones of B's wall and of A's."""
        wall = sure_wall(len(self.pairs))
        return two_tones(self.oracle, wall), two_tones(_channels_first(self.wanted_drawn.image), wall)

    def tokens(self, view: View) -> ImageTokens:
        """The references as the image encoder sees them."""
        if view not in self._tokens:
            image, patch_mask, mode = self.shown(view)
            self._tokens[view] = encode_image(self.models.vision, image, patch_mask, mode, self._uncond)
        return self._tokens[view]

    def shown(self, view: View) -> tuple[Tensor, PatchMask, HideMode]:
        """(B, 3, H, W) references in a view, what of them is visible, and how the rest is hidden."""
        drawn = self.reference_drawn
        image, product = _channels_first(drawn.image), drawn.product > 0
        hidden = view in (View.DROPPED, View.ZEROED)
        keep_mask = ~product if hidden else torch.ones_like(product)
        fills = {
            View.BLURRED: lambda: _blurred(image),
            View.BLACKED: lambda: torch.zeros_like(image),
            View.GREYED: lambda: torch.tensor(OPENAI_MEAN).view(1, 3, 1, 1).expand_as(image),
        }
        if view is View.ORACLE:
            image = self.oracle
        elif view in fills:
            image = torch.where(product[:, None], fills[view](), image)
        spec = self.models.vision.spec
        geometry = fit_geometry(stack.IMAGE_SIZE, stack.IMAGE_SIZE, spec.image_size, spec.patch_size, Fit.CROP)
        return image, rebinarize(keep_mask, geometry), HideMode.ZERO if view is View.ZEROED else HideMode.DROP

    def captions(self, words: Words) -> list[str]:
        """The texts."""
        if words is Words.NOTHING:
            return [""] * len(self.pairs)
        return [caption(scene, wall=words is Words.EVERYTHING) for scene in self.wanted]

    @cached_property
    def _uncond(self) -> Tensor:
        return encode_uncond(self.models.vision)


def wall_region(scenes: Sequence[Scene]) -> Tensor:
    """(B, H, W) float: 1 above the horizon, 0 below it and in the box around the product."""
    product = render(scenes, stack.IMAGE_SIZE).product > 0
    wall = render(scenes, stack.IMAGE_SIZE, product=False).wall > 0.5
    box = product.any(2)[:, :, None] & product.any(1)[:, None, :]
    return (wall & ~box).float()


def sure_wall(count: int) -> Tensor:
    """(B, H, W) bool: the part of the frame that is wall in every scene there can be."""
    axis = (torch.arange(stack.IMAGE_SIZE) + 0.5) / stack.IMAGE_SIZE
    y, x = axis[:, None], axis[None]
    mask = (y < WALL_TOP) | ((y < WALL_BOTTOM) & ((x < WALL_LEFT) | (x > WALL_RIGHT)))
    return mask.expand(count, -1, -1)


def upper_part(count: int) -> Tensor:
    """(B, H, W) bool: the upper 28 % of the frame."""
    axis = (torch.arange(stack.IMAGE_SIZE) + 0.5) / stack.IMAGE_SIZE
    return (axis[:, None] < UPPER).expand(count, stack.IMAGE_SIZE, stack.IMAGE_SIZE)


@torch.no_grad()
def make_images(
    models: Models, chunk: Chunk, condition: Condition, adapter: Adapter | None, steps: int, bar: Any = None
) -> Tensor:
    """(B, 3, H, W) in 0..1."""
    if not condition.sampled:
        latents = models.autoencoder.encode(_channels_first(chunk.wanted_drawn.image))
        return models.autoencoder.decode(latents).clamp(0, 1)
    prompts = []
    if condition.view is not None and adapter is not None:
        positive, negative = adapter.image_prompt(chunk.tokens(condition.view))
        region = chunk.region if condition.in_region else None
        prompts.append(ImagePrompt(adapter, positive, negative, condition.control, region, condition.weights))
    calls = len(chunk.pairs) * (2 if condition.guidance_scale != 1.0 else 1)
    latents = sample_latents(
        models.unet,
        stack.new_scheduler(),
        chunk.noise,
        text=_encoded(models, chunk.captions(condition.words)),
        negative_text=_encoded(models, [""]),
        guidance_scale=condition.guidance_scale,
        steps=steps,
        image_size=(stack.IMAGE_SIZE, stack.IMAGE_SIZE),
        image_prompts=prompts,
        on_step=lambda _done, _all: bar.update(calls) if bar is not None else None,
    )
    return models.autoencoder.decode(latents).clamp(0, 1)


def _encoded(models: Models, captions: list[str]) -> tuple[Tensor, Tensor]:
    return stack.encode_text(models.text_encoder, stack.tokenize(captions, models.tokenizer))


def measure(models: Models, chunk: Chunk, image: Tensor) -> dict[str, Any]:
    """What is stored of each image: the judge's reading, and what `metrics` says of it."""
    wall, upper = sure_wall(len(image)), upper_part(len(image))
    share = color_share(image, torch.ones_like(wall), chunk.foreign)
    values = {
        "wall_rgb": mean_color(image, wall),
        "upper_rgb": mean_color(image, upper),
        "foreign_share": share,
        "leak_ratio": leak_ratio(share, chunk.reference_share),
        "palette": palette_distance(image, wall, chunk.oracle, wall),
        "palette_other": palette_distance(image, wall, chunk.oracle.roll(1, 0), wall),
        "region": region_correctness(image, wall, *chunk.wall_tones),
        "layout": layout_likeness(image, wall, chunk.oracle),
    }
    rounded = {name: np.round(value.numpy(), 6).tolist() for name, value in values.items()}
    return {"judge": {name: read.tolist() for name, read in models.judge.read(image).items()}, **rounded}


def _channels_first(image: Tensor) -> Tensor:
    """(B, H, W, 3) -> (B, 3, H, W)."""
    return image.permute(0, 3, 1, 2).contiguous()


def _blurred(image: Tensor) -> Tensor:
    """Gaussian blur, the rim repeated."""
    radius = round(2.5 * BLUR_SIGMA)
    kernel = torch.exp(-((torch.arange(-radius, radius + 1) / BLUR_SIGMA) ** 2) / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
