"""The sizes ads are published in, and the sizes at which a U-Net can sample them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

Size = tuple[int, int]  # height, width

LATENT_SCALE = 8  # image pixels per latent pixel of the VAE
BEST_AREA = 1024 * 1024  # pixels, what SDXL was trained on
CUSTOM = "custom"
AUTO = "auto"

# Name -> width, height. Shapes come at a size near one megapixel whose sides are multiples of 8 and whose shape is exact
# (1.91:1 is 1.9101:1); the rest are named by the exact size they are delivered in.
FORMATS: dict[str, tuple[int, int]] = {
    "1:1": (1024, 1024),
    "4:5": (896, 1120),
    "9:16": (720, 1280),
    "16:9": (1280, 720),
    "1.91:1": (1360, 712),
    "1200x628": (1200, 628),
    "1080x1080": (1080, 1080),
    "1080x1350": (1080, 1350),
    "1080x1920": (1080, 1920),
    "160x600": (160, 600),  # from here on: Amazon's responsive display sizes
    "245x250": (245, 250),
    "300x250": (300, 250),
    "300x600": (300, 600),
    "320x50": (320, 50),
    "336x280": (336, 280),
    "350x420": (350, 420),
    "414x125": (414, 125),
    "650x130": (650, 130),
    "728x90": (728, 90),
    "970x250": (970, 250),
    "980x55": (980, 55),
}
SAMPLING_SCALES = tuple(Fraction(text) for text in ("1/2", "2/3", "3/4", "1", "3/2", "2", "3", "4", "6", "8"))


@dataclass(frozen=True)
class AdFormat:
    """An ad's exact size, and the frame and size in which it is sampled.

    Attributes:
        size: height and width of the finished ad, pixels.
        frame: the same grown at the bottom and the right, by the fewest pixels that make it sampleable.
        sampling: height and width of the sampled image, multiples of 8, the frame times `scale`.
        scale: sampled pixels per pixel of the ad.
    """

    size: Size
    frame: Size
    sampling: Size
    scale: Fraction


def ad_format(name: str, custom_size: Size, sampling_scale: str = "1") -> AdFormat:
    """The format of a name.

    Args:
        name: one of FORMATS, or "custom".
        custom_size: height and width in pixels, for "custom" alone.
        sampling_scale: sampled pixels per pixel of the ad: "1/2", "2/3", "3/4", "1", "3/2", "2", "3", "4", "6", "8", or
            "auto", the one of them whose sampled area is nearest to 1024x1024.

    Raises:
        ValueError: an unknown name or scale, a size that is not positive.
    """
    if name != CUSTOM and name not in FORMATS:
        raise ValueError(f"format is {name!r}, expected one of {[*FORMATS, CUSTOM]}")
    size = custom_size if name == CUSTOM else FORMATS[name][::-1]
    if min(size) < 1:
        raise ValueError(f"the canvas is {size[1]}x{size[0]} pixels (width x height), expected at least 1x1")
    scale = _scale(sampling_scale, size)
    frame = (_grown(size[0], scale), _grown(size[1], scale))
    return AdFormat(size, frame, (int(frame[0] * scale), int(frame[1] * scale)), scale)


def _scale(text: str, size: Size) -> Fraction:
    if text == AUTO:
        area = size[0] * size[1] / BEST_AREA
        return min(SAMPLING_SCALES, key=lambda scale: abs(math.log(area * scale**2)))
    for scale in SAMPLING_SCALES:
        if str(scale) == text:
            return scale
    raise ValueError(f"sampling_scale is {text!r}, expected one of {[AUTO, *map(str, SAMPLING_SCALES)]}")


def _grown(length: int, scale: Fraction) -> int:
    """The next length that the scale turns into a multiple of 8."""
    unit = LATENT_SCALE * scale.denominator
    step = unit // math.gcd(unit, scale.numerator)
    return -(-length // step) * step
