"""How an image of any size lands on the square input of an image encoder, and which pixels each patch sees."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..choices import parse_choice

MOST_CROPPED = 64  # times the short side


class Fit(str, Enum):
    """CROP fills the input and cuts the long side, PAD shows the whole image with padding, STRETCH distorts it."""

    CROP = "crop"
    PAD = "pad"
    STRETCH = "stretch"


@dataclass(frozen=True)
class Axis:
    """One axis of a fit: `length` source pixels become `scaled` input pixels that start at `offset`.

    `offset` is negative where the input crops the scaled image, and a multiple of the patch size where it pads, so
    that at most one patch on each axis holds both image and padding.
    """

    length: int
    scaled: int
    offset: int

    def cells(self, input_size: int, patch_size: int) -> list[tuple[int, int]]:
        """Half-open source ranges of the patches along this axis; an empty range is padding.

        Ranges never overlap while a patch covers at least one source pixel. A smaller image is enlarged: then a patch
        takes the one pixel it lies in, and neighbours may share it.
        """
        ranges = []
        for start in range(0, input_size, patch_size):
            low = max(start - self.offset, 0)
            high = min(start + patch_size - self.offset, self.scaled)
            if low >= high:
                ranges.append((0, 0))
                continue
            first = low * self.length // self.scaled
            last = high * self.length // self.scaled
            ranges.append((first, max(last, first + 1)))
        return ranges


@dataclass(frozen=True)
class FitGeometry:
    """Where an image of `height` x `width` pixels lands on an `input_size` square of `patch_size` patches."""

    fit: Fit
    input_size: int
    patch_size: int
    rows: Axis
    columns: Axis

    @property
    def height(self) -> int:
        """Source height in pixels."""
        return self.rows.length

    @property
    def width(self) -> int:
        """Source width in pixels."""
        return self.columns.length

    @property
    def grid_size(self) -> int:
        """Patches along each side of the input."""
        return self.input_size // self.patch_size

    @property
    def row_cells(self) -> list[tuple[int, int]]:
        """Source rows of each patch row, half open; empty = padding."""
        return self.rows.cells(self.input_size, self.patch_size)

    @property
    def column_cells(self) -> list[tuple[int, int]]:
        """Source columns of each patch column, half open; empty = padding."""
        return self.columns.cells(self.input_size, self.patch_size)


def fit_geometry(height: int, width: int, input_size: int, patch_size: int, fit: Fit | str) -> FitGeometry:
    """Plan how an image is fitted to an encoder.

    Args:
        height, width: source pixels, at least 1.
        input_size: side of the encoder's square input in pixels, a multiple of patch_size.
        patch_size: side of a patch in pixels.
        fit: crop, pad or stretch. All three agree on an image that already has the input's size.

    Raises:
        ValueError: a size that is not positive, an input that is not whole patches, an unknown fit; to crop, sides of more than
            64 to 1, which would be scaled as a whole first.

    Paper: "process reference image as the [5]" (section 3.2), CLIP's resize of the short side and centre crop.
    **Deviation**: pad and stretch are added, because a centre crop loses the ends of a wide or tall reference.
    """
    if height < 1 or width < 1:
        raise ValueError(f"image is {height}x{width} pixels, expected at least 1x1")
    if patch_size < 1 or input_size % patch_size:
        raise ValueError(f"encoder input of {input_size} px is not a whole number of {patch_size} px patches")
    fit = parse_choice(Fit, fit, "fit")
    if fit is Fit.STRETCH:
        return FitGeometry(fit, input_size, patch_size, Axis(height, input_size, 0), Axis(width, input_size, 0))
    if fit is Fit.CROP and max(height, width) > MOST_CROPPED * min(height, width):
        raise ValueError(
            f"image is {height}x{width} pixels, of which fit crop would show less than a part in {MOST_CROPPED}: use fit pad, or "
            "cut out what is to be seen"
        )
    side = min(height, width) if fit is Fit.CROP else max(height, width)
    place = _crop_axis if fit is Fit.CROP else _pad_axis
    scale = input_size / side
    rows, columns = (place(length, scale, input_size, patch_size) for length in (height, width))
    return FitGeometry(fit, input_size, patch_size, rows, columns)


def _crop_axis(length: int, scale: float, input_size: int, patch_size: int) -> Axis:
    scaled = round(scale * length)
    return Axis(length, scaled, -((scaled - input_size) // 2))


def _pad_axis(length: int, scale: float, input_size: int, patch_size: int) -> Axis:
    scaled = max(1, round(scale * length))
    return Axis(length, scaled, (input_size - scaled) // 2 // patch_size * patch_size)
