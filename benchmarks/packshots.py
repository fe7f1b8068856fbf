"""Packshots with a truth: the products of demo scenes on plain ground, as a studio's photos have them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lab.demo.evaluation.pairs import any_scene, render
from pfv_core.ad.depth import fill_hidden
from pfv_core.ad.shadow import contact_shadow

GROUNDS = ("plain", "gradient", "vignette", "noisy")
COLOURED = 3  # every third ground has a colour, the others are white to light grey


@dataclass(frozen=True)
class Packshot:
    """One photo: (3, H, W), 0..1, in 8 bits; its product's coverage (H, W), 0..1; the kind of its ground."""

    image: Tensor
    product: Tensor
    ground: str


def packshot(seed: int, size: int) -> Packshot:
    """The photo of a seed, `size` pixels a side: with a contact shadow; all but the plain ones went through JPEG."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    drawn = render([any_scene(seed)], size)
    product, kind = drawn.product[0], GROUNDS[seed % len(GROUNDS)]
    coloured = seed // len(GROUNDS) % COLOURED == 0
    grey = uniform(0.75, 1.0)
    base = torch.tensor([uniform(0.3, 1.0) if coloured else grey for _ in range(3)]).view(3, 1, 1)
    axis = (torch.arange(size) + 0.5) / size
    down, across = axis[:, None], axis[None]
    shades = {
        "gradient": 1 - uniform(0.1, 0.4) * (down if uniform(0, 1) < 0.5 else 1 - down),
        "vignette": 1 - uniform(0.4, 1.2) * ((across - 0.5) ** 2 + (down - 0.5) ** 2),
    }
    shadow = contact_shadow(product[None] > 0.5, round(uniform(0.01, 0.06) * size))[0] * uniform(0.2, 0.7)
    ground = base * shades.get(kind, torch.ones(1)) * (1 - shadow)
    picture = ground + (_own_colours(drawn.image[0].movedim(-1, 0), product) - ground) * product
    if kind == "noisy":
        picture = picture + uniform(0.005, 0.03) * torch.randn(picture.shape, generator=generator)
    quality = None if kind == "plain" else round(uniform(60, 95))
    return Packshot(_as_file(picture, quality), product, kind)


def filled(shot: Packshot, margin: float) -> Packshot:
    """A square cut from a photo so that the product's longer side leaves this share of itself free at both ends, as shops ask
    for; less where the photo ends before."""
    rows, columns = (shot.product.gt(0.5).any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    spans = [(line[0], line[-1] + 1) for line in (rows, columns)]
    side = min(round((1 + 2 * margin) * max(end - start for start, end in spans)), *shot.product.shape)
    starts = [
        min(max((start + end - side) // 2, 0), length - side)
        for (start, end), length in zip(spans, shot.product.shape, strict=True)
    ]
    where = tuple(slice(start, start + side) for start in starts)
    return Packshot(shot.image[(slice(None), *where)].contiguous(), shot.product[where].contiguous(), shot.ground)


def _own_colours(image: Tensor, product: Tensor) -> Tensor:
    """(3, H, W) whose product goes on beyond its edge, so that nothing of its scene is mixed in there."""
    solid = (product == 1)[None, None]
    return fill_hidden(torch.where(solid, image[None], 0.0), solid)[0]


def _as_file(picture: Tensor, quality: int | None) -> Tensor:
    """As it comes back from an 8-bit file, a JPEG of some quality or one without loss."""
    pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    if quality is not None:
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "jpeg", quality=quality)
            pixels = np.asarray(Image.open(file))
    return torch.from_numpy(pixels.astype(np.float32) / 255).movedim(-1, 0)
