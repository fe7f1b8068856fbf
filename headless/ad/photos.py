"""Photographs for the demonstration: a product, and references that show something that is not to be followed.

They are read from installed packages (extra `demo`); none is part of this repository. What is marked in each was drawn
by hand on the photograph. Sources and licences:

* coffee: scikit-image, `skimage.data.coffee`. Photograph by Rachel Michetti, courtesy of Pikolo Espresso Bar. CC0.
* rocket: scikit-image, `skimage.data.rocket`. Photograph by SpaceX of a Falcon 9 on its pad, in the public domain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageDraw

Point = tuple[float, float]  # x, y in pixels of the photograph


@dataclass(frozen=True)
class Photo:
    """One photograph, as large as it is shipped.

    Attributes:
        image: RGB.
        marked: L, 255 inside what is marked (the product, or somebody else's), 0 outside.
        marked_as: what is marked, in words.
        credit: source and licence.
    """

    image: Image.Image
    marked: Image.Image
    marked_as: str
    credit: str

    def __str__(self) -> str:
        return f"marked: {self.marked_as}; {self.credit}"


def coffee() -> Photo:
    """The product: a cup on its saucer, 600x400 pixels."""
    from skimage import data

    photograph = Image.fromarray(data.coffee())
    marked = ImageChops.lighter(_polygon(photograph.size, SAUCER_AND_SPOON), _polygon(photograph.size, CUP_RIM))
    credit = "skimage.data.coffee, photograph by Rachel Michetti, CC0"
    return Photo(photograph, marked, "the cup with saucer and spoon", credit)


def rocket() -> Photo:
    """A reference: an evening sky over a launch pad, with another firm's rocket, 640x427 pixels."""
    from skimage import data

    photograph = Image.fromarray(data.rocket())
    credit = "skimage.data.rocket, photograph by SpaceX, public domain"
    return Photo(photograph, _polygon(photograph.size, ROCKET), "the rocket", credit)


def ellipse(x: float, y: float, radius_x: float, radius_y: float, degrees: float = 0) -> list[Point]:
    """Outline of an ellipse, turned clockwise."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    steps = [2 * math.pi * step / 180 for step in range(180)]
    circle = [(radius_x * math.cos(step), radius_y * math.sin(step)) for step in steps]
    return [(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in circle]


def _polygon(size: tuple[int, int], outline: Sequence[Point]) -> Image.Image:
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
