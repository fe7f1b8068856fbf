"""Bytes of a picture as training takes them: upright, 8-bit sRGB, what is transparent white.

What cannot be brought there for certain is refused with words, one picture at a time: broken files, corrupt EXIF (which side
is up?), colours of an unknown space.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from pfv_core.ad.opacity import SEEN_ABOVE

from .colours import SPACES, to_srgb
from .data import DataError

VERSION = 2  # another one wherever the same file may come out with other pixels
FORMATS = ("JPEG", "PNG", "WEBP")  # no other decoder is ever run, whatever a file is called
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError),
    *(AttributeError, struct.error, Image.DecompressionBombError, ImageCms.PyCMSError, UserWarning),
)
"""What Pillow is seen to raise on broken files; of corrupt EXIF it warns."""
SRGB_GAMMA, GAMMA_TOLERANCE = 1 / 2.2, 0.02
ORIENTATION, CAMERA, COLOUR_SPACE, ADOBE_RGB = 0x0112, 0x8769, 0xA001, 2  # tags of EXIF, and a value
ICC_PART = b"ICC_PROFILE\0"  # how a JPEG's segment with a part of a colour profile begins
HDR_CHUNK = b"cICP"
PNG_BITS = 24  # where a PNG says how many bits a value has
DEEP = 16


@dataclass(frozen=True)
class Picture:
    """A decoded picture.

    Attributes:
        image: RGB, upright; a large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size.
        size: (width, height) of the whole, upright.
    """

    image: Image.Image
    size: tuple[int, int]


def picture(data: bytes, name: str, at_least: int) -> Picture:
    """Decode a training picture.

    Args:
        data: of the file: JPEG, PNG or WebP.
        name: for messages.
        at_least: pixels that the shortest side is needed at; a JPEG is decoded at the smallest scale that has them.

    Raises:
        DataError: it is broken, or what its values mean is not known.

    Colours of 16 bits lose their lower 8 in Pillow's decoder (less than one step of 8 bits); greys are rounded.
    """
    with _decoding(name), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        turned = opened.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        size = opened.size[::-1] if turned else opened.size
        if opened.format != "PNG":
            opened.draft(None, (at_least, at_least))
        profile = opened.info.get("icc_profile")
        if profile is None:
            _check_marks(opened, data)
        colours, alpha = _planes(opened, data)
        image = to_srgb(colours, profile)
        if alpha is not None:
            image = Image.composite(image, Image.new("RGB", image.size, "white"), alpha)
        return Picture(image, size)


def mask(data: bytes, name: str) -> Image.Image:
    """Decode a mask: L, upright; its values are numbers, so that no colour profile is applied.

    Raises:
        DataError: it is broken, or transparent somewhere, so that two things could be meant; not black, and yet nowhere light
            enough to select anything, as a mask of 0 and 1 is.
    """
    with _decoding(name), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        values, alpha = _planes(opened, data)
        if alpha is not None and alpha.getextrema() != (255, 255):
            raise ValueError("it has transparency, expected grey without: white = product")
        grey = values.convert("L")
        lightest = np.asarray(grey).max()
        if 0 < lightest <= SEEN_ABOVE * 255:
            raise ValueError(f"its lightest value is {lightest} of 255, expected white, 255, for what it selects")
        return grey


def opacity(data: bytes, name: str) -> Image.Image | None:
    """The alpha of a picture: L, upright; None where it is opaque all over.

    Raises:
        DataError: it is broken.
    """
    with _decoding(name), Image.open(io.BytesIO(data), formats=FORMATS) as opened:
        _, alpha = _planes(opened, data)
        return None if alpha is None or alpha.getextrema() == (255, 255) else alpha


@contextmanager
def _decoding(name: str) -> Iterator[None]:
    """What Pillow raises within, or warns of, is a DataError."""
    try:
        with warnings.catch_warnings():  # pictures are decoded in worker processes, which have no other threads
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # a large JPEG is decoded small
            yield
    except UnidentifiedImageError as error:
        raise _refusal(name, f"it is no {', '.join(FORMATS)}") from error
    except BROKEN as error:
        raise _refusal(name, str(error) or type(error).__name__) from error


def _refusal(name: str, why: str) -> DataError:
    return DataError(
        f"{name} cannot be read as an image ({why}): replace or remove it, or train with broken_images skip"
    )


def _check_marks(opened: Image.Image, data: bytes) -> None:
    """ValueError where a picture says, without a profile that can be read, that its values are not sRGB's."""
    parts = (content for _, content in getattr(opened, "applist", ()))
    if "icc_profile" in opened.info or any(content.startswith(ICC_PART) for content in parts):
        raise ValueError("its colour profile is damaged")
    gamma = opened.info.get("gamma")
    if gamma and "srgb" not in opened.info and abs(gamma - SRGB_GAMMA) > GAMMA_TOLERANCE:
        raise ValueError(f"its values have a gamma of {gamma:g}, expected sRGB's {SRGB_GAMMA:.4f}")
    if opened.format == "PNG" and HDR_CHUNK in data[: data.find(b"IDAT")]:
        raise ValueError("it names its colours by cICP, as wide-gamut and HDR pictures do, expected sRGB")
    if opened.getexif().get_ifd(CAMERA).get(COLOUR_SPACE) == ADOBE_RGB:
        raise ValueError("it is Adobe RGB without a colour profile, expected sRGB")
    if opened.mode == "CMYK" and "adobe" not in opened.info:
        raise ValueError("it is CMYK without Adobe's mark, so that it may hold ink or its absence")


def _planes(opened: Image.Image, data: bytes) -> tuple[Image.Image, Image.Image | None]:
    """L, RGB or CMYK of 8 bits, upright, and the alpha (L); None = opaque."""
    image = ImageOps.exif_transpose(opened)
    keyed = "transparency" in image.info and image.mode != "P"
    if keyed and opened.format == "PNG" and data[PNG_BITS] == DEEP:
        raise ValueError("it has 16 bits and one transparent colour: save it with 8 bits")
    if image.mode in ("I;16", "I;16B", "I"):  # the last one before Pillow 10.3
        return Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8)), None
    if image.mode in ("P", "PA") or keyed:
        image = image.convert("RGBA")
    if image.mode == "1":
        image = image.convert("L")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), image.getchannel("A")
    if image.mode not in SPACES:
        raise ValueError(f"it has {image.mode} values, expected grey, RGB or CMYK")
    return image, None
