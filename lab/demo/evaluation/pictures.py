"""The picture of each pair under a condition, and what is measured in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pfv_core.adapter.model import Adapter

from ...diffusers.sample import ImagePrompt, sample_latents
from ...evaluation.metrics import (
    color_share,
    layout_likeness,
    mean_color,
    palette_distance,
    region_correctness,
    sharpness,
)
from ...evaluation.rim import halo, ring_psnr
from .. import stack
from .chunk import Chunk, channels_first, common_wall, upper_part
from .conditions import Condition
from .models import Models


@torch.no_grad()
def make_images(
    models: Models,
    chunk: Chunk,
    condition: Condition,
    adapter: Adapter | None,
    steps: int,
    on_samples: Callable[[int], object] = lambda _number: None,
) -> Tensor:
    """(B, 3, H, W) in 0..1, in the running autocast's precision up to the last step.

    Args:
        on_samples: called after each step with the number of samples that the U-Net saw.
    """
    if condition.given is not None:
        return chunk.given(condition).float()
    calls = len(chunk.pairs) * (2 if condition.guidance_scale != 1.0 else 1)

    def on_step(_done: int, _all: int) -> None:
        on_samples(calls)

    latents = sample_latents(
        models.unet,
        stack.new_scheduler(),
        chunk.noise,
        text=models.encode_text(chunk.captions(condition.words)),
        negative_text=models.encode_text([""]),
        guidance_scale=condition.guidance_scale,
        steps=steps,
        image_size=(stack.IMAGE_SIZE, stack.IMAGE_SIZE),
        image_prompts=_prompts(chunk, condition, adapter),
        controlnet=models.controlnet if condition.depth is not None else None,
        depth=chunk.depth(condition.depth) if condition.depth is not None else None,
        on_step=on_step,
    )
    return models.autoencoder.decode(latents).float().clamp(0, 1)


def _prompts(chunk: Chunk, condition: Condition, adapter: Adapter | None) -> list[ImagePrompt]:
    if condition.view is None or adapter is None:
        return []
    positive, negative = adapter.image_prompt(chunk.tokens(condition.view))
    region = chunk.region(condition.area)
    return [ImagePrompt(adapter, positive, negative, condition.control, region, condition.weights)]


def measure(models: Models, chunk: Chunk, image: Tensor, ad: bool = False) -> dict[str, Any]:
    """What is stored of each image: the judge's reading, and what the metrics say of it.

    Args:
        image: (B, 3, H, W) as made; of an ad the judge reads it so, what surrounds the product is measured once that is pasted.
        ad: what is wanted is A's product in B's surroundings.
    """
    wall, upper = common_wall(len(image)), upper_part(len(image))
    values = {
        "foreign_rgb": chunk.foreign,
        "wall_rgb": mean_color(image, wall),
        "upper_rgb": mean_color(image, upper),
        "foreign_share": color_share(image, torch.ones_like(wall), chunk.foreign),
        "palette": palette_distance(image, wall, chunk.oracle, wall),
        "palette_other": palette_distance(image, wall, chunk.oracle.roll(1, 0), wall),
        "region": region_correctness(image, wall, *chunk.wall_tones),
        "layout": layout_likeness(image, wall, chunk.oracle),
        "wall_sharpness": sharpness(image, wall, chunk.oracle),
        **_finish(chunk, image, ad),
    }
    rounded = {name: np.round(value.numpy(), 6).tolist() for name, value in values.items()}
    return {"judge": {name: read.tolist() for name, read in models.judge.read(image).items()}, **rounded}


def _finish(chunk: Chunk, image: Tensor, ad: bool) -> dict[str, Tensor]:
    """How sharp the finished picture is; of an ad how sharp and how clean the product's surroundings are."""
    drawn = chunk.truth(ad)
    truth = channels_first(drawn.image)
    finished = chunk.pasted(image) if ad else image
    made = drawn.product == 0 if ad else torch.ones_like(drawn.product, dtype=torch.bool)
    values = {"sharpness": sharpness(finished, made, truth)}
    if ad:
        share, strength = halo(finished, truth, drawn.product)
        values |= {"halo": share, "halo_strength": strength, "ring_psnr": ring_psnr(finished, truth, drawn.product)}
    return values
