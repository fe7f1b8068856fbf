"""Photographs for the demonstration: a product, and two references that show somebody else's product.

They are read from installed packages (extra `demo`); none is part of this repository. What is marked in each was drawn
by hand on the photograph. Sources and licences:

* coffee: scikit-image, `skimage.data.coffee`. Photograph by Rachel Michetti, courtesy of Pikolo Espresso Bar. CC0.
* rocket: scikit-image, `skimage.data.rocket`. Photograph by SpaceX of a Falcon 9 on its pad, in the public domain.
* flower: scikit-learn, `sklearn.datasets.load_sample_image("flower.jpg")`. Photograph by the Flickr user vultilion,
  CC BY 2.0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]  # x, y in pixels of the photograph as it is shipped
Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Photo:
    """One photograph at the working size.

    Attributes:
        name: a word for file names.
        image: RGB.
        marked: L, 255 inside what is marked (the product, or somebody else's), 0 outside.
        depth: L, near = bright; None where nothing is known.
        marked_as: what is marked, in words.
        depth_from: where the depth comes from, in words.
        credit: source and licence.
    """

    name: str
    image: Image.Image
    marked: Image.Image
    depth: Image.Image | None
    marked_as: str
    depth_from: str
    credit: str


def coffee(size: Size) -> Photo:
    """The product: a cup on its saucer. Its depth is a dome over the outline, nothing measured."""
    from skimage import data

    photograph = Image.fromarray(data.coffee())
    outline = ImageChops.lighter(_polygon(photograph.size, SAUCER_AND_SPOON), _polygon(photograph.size, CUP_RIM))
    marked = cut_and_resize_mask(outline, size)
    return Photo(
        "coffee",
        cut_and_resize(photograph, size),
        marked,
        dome(marked),
        marked_as="the cup with saucer and spoon",
        depth_from="a plain dome over the outline, not measured",
        credit="skimage.data.coffee, photograph by Rachel Michetti, CC0",
    )


def rocket(size: Size) -> Photo:
    """A reference: an evening sky over a launch pad, with another firm's rocket. Its depth is drawn, not measured."""
    from skimage import data

    photograph = Image.fromarray(data.rocket())
    outline = _polygon(photograph.size, ROCKET)
    return Photo(
        "rocket",
        cut_and_resize(photograph, size),
        cut_and_resize_mask(outline, size),
        cut_and_resize(_standing_on_the_ground(outline), size),
        marked_as="the rocket",
        depth_from="drawn (far sky, nearing ground, the rocket before both), not measured",
        credit="skimage.data.rocket, photograph by SpaceX, public domain",
    )


def flower(size: Size) -> Photo:
    """A reference: dark leaves, with a flower in front that is not to be followed."""
    from sklearn.datasets import load_sample_image

    photograph = Image.fromarray(load_sample_image("flower.jpg"))
    flowers = ImageChops.lighter(*(_polygon(photograph.size, ellipse(*shape)) for shape in FLOWERS))
    return Photo(
        "flower",
        cut_and_resize(photograph, size),
        cut_and_resize_mask(flowers, size),
        None,
        marked_as="both flowers",
        depth_from="none",
        credit='sklearn.datasets "flower.jpg", photograph by vultilion (Flickr), CC BY 2.0',
    )


def cut_and_resize(image: Image.Image, size: Size) -> Image.Image:
    """The largest centred cut of the wanted proportions, resampled (Lanczos) to `size`."""
    return image.crop(_centre_cut(image.size, size)).resize(size, Image.Resampling.LANCZOS)


def cut_and_resize_mask(mask: Image.Image, size: Size) -> Image.Image:
    """The same cut of a mask of 0 and 255, which stays one: a pixel is marked when half of its area is."""
    covered = mask.crop(_centre_cut(mask.size, size)).resize(size, Image.Resampling.BOX)
    return covered.point(lambda value: 255 * (value >= 128))


def _centre_cut(have: Size, want: Size) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of that cut, in whole pixels of the image as it is."""
    scale = min(have[0] / want[0], have[1] / want[1])
    width, height = round(want[0] * scale), round(want[1] * scale)
    left, top = (have[0] - width) // 2, (have[1] - height) // 2
    return left, top, left + width, top + height


def _standing_on_the_ground(marked: Image.Image) -> Image.Image:
    """A depth image: 0 above the horizon, from there to 120 at the bottom, 160 on the mask. Near = bright."""
    below_horizon = (np.arange(marked.height) / marked.height - HORIZON).clip(0) / (1 - HORIZON)
    ground = np.broadcast_to(np.round(120 * below_horizon)[:, None], (marked.height, marked.width))
    return Image.fromarray(np.where(np.asarray(marked) > 0, 160, ground).astype(np.uint8))


def dome(marked: Image.Image) -> Image.Image:
    """A rounded depth over a mask: 160 at its edge, 255 where the edge is farthest, 0 outside. Near = bright."""
    from scipy import ndimage

    inside = np.asarray(marked) > 0
    from_edge = ndimage.distance_transform_edt(inside)
    height = np.sqrt(1 - (1 - from_edge / from_edge.max()) ** 2)  # a quarter circle from the edge inwards
    return Image.fromarray(np.where(inside, np.round(160 + 95 * height), 0).astype(np.uint8))


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> list[Point]:
    """Outline of an ellipse, turned clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    steps = [2 * math.pi * step / 180 for step in range(180)]
    circle = [(radius_x * math.cos(step), radius_y * math.sin(step)) for step in steps]
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in circle]


def _polygon(size: Size, outline: Sequence[Point]) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon(list(outline), fill=255)
    return mask


CUP_RIM = ellipse(291, 113, 118, 94.5, degrees=6)
# fmt: off
SAUCER_AND_SPOON: list[Point] = [
    (177.5, 71.5), (155, 80), (127.5, 98.5), (104, 127.5), (86, 160), (77.5, 192.5), (77, 225), (82, 254),
    (92.5, 282.5), (106.5, 307.5), (126, 331), (150, 348.5), (172.5, 361), (200, 374.5), (230, 383), (265, 388),
    (300, 388), (331, 386.5), (361.5, 378), (392, 365), (421.5, 344), (445.5, 319), (463.5, 290), (475, 262),
    (479.5, 232.5), (478.5, 212.5), (473, 186), (462.5, 162.5), (447.5, 137.5), (432.5, 120), (417.5, 106), (425, 75),
    (424, 69), (410, 66), (397.5, 71), (399, 82.5), (390, 75),
]
ROCKET: list[Point] = [
    (321, 124), (330, 138), (337, 172), (339, 330), (352, 346), (360, 378), (360, 406), (386, 406), (386, 427),
    (264, 427), (264, 406), (286, 404), (286, 364), (300, 352), (305, 338), (305, 236), (307, 176), (312, 138),
]
# fmt: on
HORIZON = 0.86  # of the rocket photograph's height, from the top
FLOWERS = ((308, 221, 144, 144), (374, 432, 96, 66))
