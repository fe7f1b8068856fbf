"""The sizes ads are published in, and the sizes at which a U-Net can sample them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

Size = tuple[int, int]  # height, width

LATENT_SCALE = 8  # image pixels per latent pixel of the VAE
WIDEST = 4  # long side by short side: SDXL was trained on shapes from 1:4 to 4:1, the older models on squares alone
FAR_OFF = 1.5  # times the trained area, or part of it: as far as auto's own choice may lie from it
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
SAMPLING_SCALES = tuple(
    Fraction(text) for text in ("1/8", "1/6", "1/4", "1/3", "1/2", "2/3", "3/4", "1", "3/2", "2", "3", "4", "6", "8")
)
SCALES_FOR_A_MEGAPIXEL = tuple(scale for scale in SAMPLING_SCALES if scale >= Fraction(1, 2))


@dataclass(frozen=True)
class Training:
    """The size of the pictures that a family of models was trained on: `side` x `side` pixels, or that area in other shapes."""

    family: str
    side: int

    @property
    def area(self) -> int:
        """Pixels."""
        return self.side**2


A_MEGAPIXEL = Training("SDXL", 1024)
"""What auto aims at where nobody says which model is sampled."""


@dataclass(frozen=True)
class AdFormat:
    """An ad's exact size, and the frame and size in which it is sampled.

    Attributes:
        size: height and width of the finished ad, pixels.
        frame: the same grown at the bottom and the right, by the fewest pixels that make it sampleable.
        sampling: height and width of the sampled image, multiples of 8, the frame times `scale`.
        scale: sampled pixels per pixel of the ad.
        training: of the model that is sampled; None where it is not known.
    """

    size: Size
    frame: Size
    sampling: Size
    scale: Fraction
    training: Training | None = None

    @property
    def trained_share(self) -> float:
        """Sampled area by the trained one, without what only the latent needs; by SDXL's where the model is not known."""
        return _share(self.size, self.scale, self.training or A_MEGAPIXEL)

    def advice(self) -> list[str]:
        """What a model samples badly in this format and what to do, a sentence each; nothing where all is well."""
        return [sentence for sentence in (self._on_shape(), self._on_area()) if sentence]

    def _on_shape(self) -> str:
        height, width = self.size
        if max(self.size) <= WIDEST * min(self.size):
            return ""
        least = -(-max(self.size) // (WIDEST * LATENT_SCALE)) * LATENT_SCALE
        wide, high = max(width, least), max(height, least)
        return (
            f"the sides are {max(self.size) / min(self.size):.1f}:1, beyond the {WIDEST}:1 that even SDXL was trained on, so "
            f"things repeat along the ad: make a custom canvas of {wide}x{high} and cut {width}x{height} out of the finished ad"
        )

    def _on_area(self) -> str:
        share = self.trained_share
        if 1 / FAR_OFF <= share <= FAR_OFF:
            return ""
        training = self.training or A_MEGAPIXEL
        nearest = _nearest_scale(self.size, training, SAMPLING_SCALES)
        way = f"choose sampling_scale {nearest}" if nearest != self.scale else "choose a format nearer to it"
        said = "things come twice" if share > 1 else "it comes coarse"
        unknown = "" if self.training else " (no model is connected: as if it were an SDXL)"
        return (
            f"the sampled area is {share:.3g} times the {training.side}x{training.side} that {training.family} was trained "
            f"on{unknown}, so {said}: {way}"
        )


def ad_format(name: str, custom_size: Size, sampling_scale: str = "1", training: Training | None = None) -> AdFormat:
    """The format of a name.

    Args:
        name: one of FORMATS, or "custom".
        custom_size: height and width in pixels, for "custom" alone.
        sampling_scale: sampled pixels per pixel of the ad, one of SAMPLING_SCALES as text; or "auto", the one of them whose
            sampled area is nearest to the trained one.
        training: of the model that is sampled. None: not known; auto then takes the scale from 1/2 to 8 whose area is
            nearest to 1024x1024, as it always did.

    Raises:
        ValueError: an unknown name or scale, a size that is not positive.
    """
    if name != CUSTOM and name not in FORMATS:
        raise ValueError(f"format is {name!r}, expected one of {[*FORMATS, CUSTOM]}")
    size = custom_size if name == CUSTOM else FORMATS[name][::-1]
    if min(size) < 1:
        raise ValueError(f"the canvas is {size[1]}x{size[0]} pixels (width x height), expected at least 1x1")
    scale = _scale(sampling_scale, size, training)
    frame = (_grown(size[0], scale), _grown(size[1], scale))
    return AdFormat(size, frame, (int(frame[0] * scale), int(frame[1] * scale)), scale, training)


def _scale(text: str, size: Size, training: Training | None) -> Fraction:
    if text == AUTO:
        return _nearest_scale(size, training or A_MEGAPIXEL, SAMPLING_SCALES if training else SCALES_FOR_A_MEGAPIXEL)
    for scale in SAMPLING_SCALES:
        if str(scale) == text:
            return scale
    raise ValueError(f"sampling_scale is {text!r}, expected one of {[AUTO, *map(str, SAMPLING_SCALES)]}")


def _nearest_scale(size: Size, training: Training, scales: tuple[Fraction, ...]) -> Fraction:
    return min(scales, key=lambda scale: abs(math.log(_share(size, scale, training))))


def _share(size: Size, scale: Fraction, training: Training) -> float:
    return float(size[0] * size[1] * scale**2 / training.area)


def _grown(length: int, scale: Fraction) -> int:
    """The next length that the scale turns into a multiple of 8."""
    unit = LATENT_SCALE * scale.denominator
    step = unit // math.gcd(unit, scale.numerator)
    return -(-length // step) * step
