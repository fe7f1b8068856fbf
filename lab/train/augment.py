"""References that are not their target: what a product photo can have that the product has not (RefAdGen, Dual Augmentation),
and an appearance without its place, size and pose (Strictly-ID).

A model that is trained to paint from a reference cut out of its own target learns to copy pixels. Here the reference alone
is changed, never the target: a slightly other view, small bends, a shadow, sensor noise. Everything random comes from the
generator that is handed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

BENDS = 5  # knots of the bend along each side
STEEPEST_BEND = 10.0  # percent of the side; at 12.5 neighbouring knots could meet
STEEPEST_VIEW = 45.0  # degrees
CAMERA = 2.0  # distance of the camera, sides of the picture
EDGE = (0.02, 0.3)  # half width of a shadow's edge, sides of the picture


@dataclass(frozen=True)
class Degradation:
    """How far a reference is changed at most. Each amount is drawn evenly from 0 to its limit.

    Attributes:
        noise: standard deviation of Gaussian noise, of the range 0..1 of a pixel; 0 = none.
        shadow: share of the light that a soft shadow takes; 0 = none, 1 = black.
        warp: how far a smooth bend moves a pixel, percent of the side; 0 = none.
        view: how far the camera goes round the picture, degrees, about each axis; 0 = not at all.

    Raises:
        ValueError: a limit outside its range.
    """

    noise: float = 0.08
    shadow: float = 0.5
    warp: float = 2.0
    view: float = 10.0

    def __post_init__(self) -> None:
        for name, highest in (("noise", 1.0), ("shadow", 1.0), ("warp", STEEPEST_BEND), ("view", STEEPEST_VIEW)):
            if not 0.0 <= getattr(self, name) <= highest:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to {highest:g}")


def degrade(image: Tensor, keep_mask: Tensor, limits: Degradation, generator: Generator) -> tuple[Tensor, Tensor]:
    """Change a reference image and move what is hidden of it along.

    Args:
        image: (3, H, W) float, 0..1.
        keep_mask: (H, W) bool, True = the image encoder may see it.
        limits: how far.
        generator: everything random comes from it, the same numbers whatever the limits are.

    Returns:
        Image and mask of the same shapes. A pixel that takes any part of a hidden one is hidden, so that no value under the
        mask reaches a visible pixel. With all limits 0 both are what they were, to the bit.

    Raises:
        ValueError: shapes that do not fit.

    Paper: RefAdGen, "Dual Augmentation": Gaussian noise, shadow variations and minor geometric warps, and views near the
    photo's own. **Deviation**: the paper gives no amounts, and renders its views with 3D Gaussian Splatting; here a view is
    the picture as a plane seen from a camera that has moved a little, which shows no new side of the product. The paper
    stores five variants of each image; here each time a sample comes it is drawn anew.
    """
    if image.ndim != 3 or keep_mask.shape != image.shape[1:]:
        raise ValueError(
            f"image is {tuple(image.shape)}, keep_mask {tuple(keep_mask.shape)}: expected (3, H, W) and (H, W)"
        )
    amounts = torch.rand(4, generator=generator).tolist()
    noise, shadow, warp, view = (
        share * limit
        for share, limit in zip(amounts, (limits.noise, limits.shadow, limits.warp, limits.view), strict=True)
    )
    turns = torch.rand(2, generator=generator).mul(2).sub(1)
    knots = torch.rand(2, BENDS, BENDS, generator=generator).mul(2).sub(1)
    line = torch.rand(3, generator=generator)
    grains = torch.randn(image.shape, generator=generator)
    if warp > 0.0 or view > 0.0:
        image, keep_mask = _moved(
            image, keep_mask, _places(image.shape[1], image.shape[2], turns * view, knots * warp / 100)
        )
    if shadow > 0.0:
        image = image * (1.0 - shadow * _shadow(image.shape[1], image.shape[2], line))
    if noise > 0.0:
        image = (image + noise * grains).clamp(0.0, 1.0)
    return image, keep_mask


@dataclass(frozen=True)
class Displacement:
    """How far an appearance is taken from where it was.

    Attributes:
        turn: degrees at most, either way.
        flip: share of the samples that are mirrored, 0..1.
        area: share of the picture's area that a cut-out has at least, above 0; 1 = the whole.

    Raises:
        ValueError: an amount outside its range.
    """

    turn: float = 30.0
    flip: float = 0.5
    area: float = 0.25

    def __post_init__(self) -> None:
        for name, highest in (("turn", 180.0), ("flip", 1.0), ("area", 1.0)):
            if not 0.0 <= getattr(self, name) <= highest or (name == "area" and self.area == 0.0):
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 to {highest:g}")


def displace(image: Tensor, keep_mask: Tensor, limits: Displacement, generator: Generator) -> tuple[Tensor, Tensor]:
    """Turn, mirror and cut out a part of a picture at random, and move what is hidden of it along.

    Args:
        image: (3, H, W) float, 0..1.
        keep_mask: (H, W) bool, True = the image encoder may see it.
        limits: how far.
        generator: everything random comes from it, the same numbers whatever the limits are.

    Returns:
        Image and mask of the same shapes; see `degrade` for what is hidden, and past the picture's border.

    Paper: Strictly-ID, section 6.2: rotation within +-30 degrees, mirroring with probability 0.5, a crop of 0.25 to 1 of the
    area with the aspect kept. **Deviation**: the paper does not say what fills the corners that a rotation opens; here the
    picture goes on as it ends.
    """
    height, width = image.shape[1:]
    turn, mirrored, share, *place = torch.rand(5, generator=generator).tolist()
    side = math.sqrt(limits.area + share * (1.0 - limits.area))
    y, x = (
        (torch.arange(length) * 2 + 1) / length * side - side + (2 * at - 1) * (1 - side)
        for length, at in zip((height, width), place, strict=True)
    )
    y, x = torch.meshgrid(y * height, x * width, indexing="ij")  # in half pixels: a turn knows no sides
    if mirrored < limits.flip:
        x = -x
    angle = math.radians((2 * turn - 1) * limits.turn)
    turned = math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y
    return _moved(image, keep_mask, torch.stack([turned[0] / width, turned[1] / height], -1))


def _places(height: int, width: int, turns: Tensor, knots: Tensor) -> Tensor:
    """(H, W, 2) where each pixel is taken from, x and y in -1..1 over the picture."""
    y = (torch.arange(height) * 2 + 1) / height - 1
    x = (torch.arange(width) * 2 + 1) / width - 1
    y, x = torch.meshgrid(y, x, indexing="ij")
    x, y = _turned(x, y, math.radians(float(turns[0])))
    y, x = _turned(y, x, math.radians(float(turns[1])))
    bend = F.interpolate(knots[None], (height, width), mode="bilinear", align_corners=True)[0]
    return (torch.stack([x, y]) + 2 * bend).movedim(0, -1)


def _turned(along: Tensor, across: Tensor, angle: float) -> tuple[Tensor, Tensor]:
    """What a ray through a pixel meets on a plane that is turned by an angle (radians) about the axis `across`."""
    distance = 2 * CAMERA  # -1..1 is one side
    met = along / (math.cos(angle) - along * math.sin(angle) / distance)
    return met, across * (1 + met * math.sin(angle) / distance)


def _moved(image: Tensor, keep_mask: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Image and mask through one and the same bilinear resampling; past its border the picture goes on as it ends."""
    hidden = (~keep_mask).to(image)
    image = torch.where(keep_mask, image, 0.0)  # whatever is there: even NaN times a weight of 0 stays NaN
    both = torch.cat([image, hidden[None]])[None]
    moved = F.grid_sample(both, places[None].to(both), mode="bilinear", padding_mode="border", align_corners=False)[0]
    return moved[:-1].clamp(0.0, 1.0), moved[-1] == 0


def _shadow(height: int, width: int, line: Tensor) -> Tensor:
    """(H, W), 0..1, 1 = in the shadow: one side of a line, with a soft edge."""
    y = (torch.arange(height) + 0.5) / height - 0.5
    x = (torch.arange(width) + 0.5) / width - 0.5
    angle = 2 * math.pi * float(line[0])
    distance = math.cos(angle) * x[None] + math.sin(angle) * y[:, None] - (float(line[1]) - 0.5) / 2
    softness = EDGE[0] + (EDGE[1] - EDGE[0]) * float(line[2])
    return (0.5 - distance / (2 * softness)).clamp(0.0, 1.0)
