"""The one door for pictures: whatever a file holds becomes 8-bit sRGB with alpha, upright, and what was lost on the way is said.

Nothing else here opens a picture of the user's. `picture_files` reads what a file says of itself, `picture_colours` converts
profiles. Pillow decodes; values of 16 bits, which it cuts to 8, are OpenCV's.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

from .colours import to_srgb
from .files import (
    Exif,
    PictureError,
    bits_of_avif,
    check_colours_of_boxes,
    check_colours_of_png,
    kind_of,
    png_chunks,
    read_exif,
)

__all__ = ["Decoded", "Header", "PictureError", "decoded_by", "encode_png", "header", "open_mask", "open_picture"]

VERSION = 1  # another one wherever the same file may come out with other pixels
MAX_BYTES = 256_000_000
MAX_PIXELS = 200_000_000
DECODERS = {  # called directly, since Image.open warns of large pictures, and a warning cannot be caught in threads
    "JPEG": ("PIL.JpegImagePlugin", "jpeg_factory"),
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIF": ("pillow_heif", "HeifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
}
LIBRARIES = ("jpg", "libjpeg_turbo", "libtiff", "webp", "avif", "littlecms2")
"""Within Pillow, which may be built with others."""
PACKAGES = (
    "pillow",
    "pillow-heif",
    *(f"opencv{kind}-python{end}" for kind in ("", "-contrib") for end in ("", "-headless")),
)
BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError),
    struct.error,
)
"""What Pillow's decoders are seen to raise on files that are broken."""
ICC_PART = b"ICC_PROFILE\0"  # how a JPEG's segment with a part of a colour profile begins
FRAMES = {"MPO": "pictures", "TIFF": "pages"}
WORDS = {"F": "32-bit floating-point", "I": "32-bit or signed", "LAB": "CIELAB"}  # of Pillow's modes
GREY, COLOUR = 0, 2  # colour types of a PNG that has no alpha of its own
WHITE_IS_ZERO, PREMULTIPLIED = 0, 1  # of a TIFF's Photometric and ExtraSamples
BITS, PHOTOMETRIC, ORIENTATION, EXTRA_SAMPLES = 258, 262, 274, 338  # tags of a TIFF

Bytes = NDArray[np.uint8]
Numbers = NDArray[Any]


@dataclass(frozen=True)
class Header:
    """What a picture's header says.

    Attributes:
        kind: JPEG, PNG, WEBP, AVIF, HEIF or TIFF.
        size: width and height, as shown.
    """

    kind: str
    size: tuple[int, int]


@dataclass(frozen=True)
class Decoded:
    """A picture as everything here sees it.

    Attributes:
        pixels: (H, W, 4) uint8, sRGB and alpha, colours not multiplied with it, upright; read-only.
        converted: what the file was and is not any more, in words.
        kind: JPEG, PNG, WEBP, AVIF, HEIF or TIFF.
    """

    pixels: Bytes
    converted: tuple[str, ...]
    kind: str

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]


def open_picture(content: bytes, name: str) -> Decoded:
    """Decode a picture.

    Args:
        content: of the file.
        name: for messages.

    Raises:
        PictureError: it is broken, too large, of another kind, or holds what cannot be brought to 8-bit sRGB for certain.
    """
    return _decoded(content, name, profiles=True)


def open_mask(content: bytes, name: str) -> Decoded:
    """`open_picture` for a mask, whose values are numbers and no colours: its colour profile is not applied.

    Raises:
        PictureError: what `open_picture` raises, colours aside.
    """
    return _decoded(content, name, profiles=False)


@cache
def decoded_by() -> tuple[str, ...]:
    """Whatever has a say in a picture's pixels, with its version: another one may decode the same file to other pixels."""
    found = [f"door {VERSION}", *(f"{name} {features.version(name)}" for name in LIBRARIES)]
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name} {importlib.metadata.version(name)}")
    return tuple(found)


def header(content: bytes, name: str) -> Header:
    """Kind and size of a picture, without decoding it: whether it is whole shows when it is opened.

    Raises:
        PictureError: it is too large, of another kind, or its header is broken.
    """
    kind = kind_of(content, name)
    with _reader(content, kind, name) as image:
        width, height = image.size
        turned = kind != "TIFF" and _exif(image, kind, []).orientation in (
            5,
            6,
            7,
            8,
        )  # Pillow turns a TIFF's size itself
        return Header(kind, (height, width) if turned else (width, height))


def encode_png(pixels: Bytes) -> bytes:
    """(H, W, 4) or (H, W, 3) uint8 as a PNG, quickly; one that is opaque everywhere has no alpha.

    ComfyUI's Load Image then gives out no mask, as for every picture without transparency.
    """
    if pixels.shape[2] == 4 and bool((pixels[..., 3] == 255).all()):
        pixels = pixels[..., :3]
    file = io.BytesIO()
    # Of a photo the runs of equal bytes alone give smaller files than the search for longer matches, in less time.
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return file.getvalue()


def _decoded(content: bytes, name: str, profiles: bool) -> Decoded:
    kind, said = kind_of(content, name), list[str]()
    with _reader(content, kind, name) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            said.append(f"the first of {frames} {FRAMES.get(image.format, 'frames')}")
            image.seek(0)
        exif = _exif(image, kind, said)
        profile = image.info.get("icc_profile") if profiles else None
        if profiles and profile is None:
            _check_colours(image, content, kind, exif, name)
        colours, alpha = _planes(image, content, kind, name, said)
        rgb = to_srgb(colours, profile, name, said)
    pixels = _turned(np.asarray(_with_alpha(rgb, alpha)), 1 if kind == "TIFF" else exif.orientation, said)
    pixels.setflags(write=False)
    return Decoded(pixels, tuple(said), kind)


@contextmanager
def _reader(content: bytes, kind: str, name: str) -> Iterator[Any]:
    """Pillow's picture, not decoded yet; what it raises within is a PictureError."""
    if len(content) > MAX_BYTES:
        raise PictureError(f"{name} has {len(content)} bytes, at most {MAX_BYTES} are read: save it smaller")
    module, factory = DECODERS[kind]
    try:
        with getattr(importlib.import_module(module), factory)(io.BytesIO(content)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureError(f"{name} is {width}x{height}, at most {MAX_PIXELS} pixels are read: save it smaller")
            yield image
    except ImportError as error:
        library = "the package pillow-heif" if kind == "HEIF" else "Pillow 11.3 or newer"
        raise PictureError(
            f"{name} is a {kind} file, which takes {library}: install it, or save the picture as PNG"
        ) from error
    except PictureError:
        raise
    except BROKEN as error:
        raise PictureError(f"{name} is a {kind} file that cannot be decoded ({error}): save it anew") from error


def _exif(image: Any, kind: str, said: list[str]) -> Exif:
    """A camera's marks; where they are broken the picture counts as upright, and that is said."""
    if kind == "TIFF":
        return Exif(image.tag_v2.get(ORIENTATION, 1))
    content = image.info.get("exif")
    try:
        return read_exif(content) if content else Exif()
    except ValueError:
        said.append("its EXIF is broken, so it is taken as upright")
        return Exif()


def _check_colours(image: Any, content: bytes, kind: str, exif: Exif, name: str) -> None:
    """Refuse what says, without a profile that Pillow could read, that its values are not sRGB's."""
    if any(part.startswith(ICC_PART) for _, part in getattr(image, "applist", [])):
        raise PictureError(
            f"{name} has a colour profile of which parts are missing: save it as sRGB, or without the profile"
        )
    if exif.adobe_rgb:
        raise PictureError(f"{name} says in its EXIF that it is Adobe RGB, and has no colour profile: save it as sRGB")
    if kind == "PNG":
        check_colours_of_png(png_chunks(content), name)
    if kind in ("AVIF", "HEIF"):
        check_colours_of_boxes(content, name)


def _planes(image: Any, content: bytes, kind: str, name: str, said: list[str]) -> tuple[Image.Image, Bytes | None]:
    """L, RGB or CMYK of 8 bits, and the alpha; None = opaque."""
    if kind == "PNG":
        return _planes_of_png(image, content, name, said)
    if kind == "TIFF":
        return _planes_of_tiff(image, content, name, said)
    if kind == "AVIF" and (bits := bits_of_avif(content)) > 8:
        said.append(f"{bits}-bit values rounded to 8")
    if image.mode == "CMYK" and "adobe" not in image.info:
        raise PictureError(
            f"{name} is a CMYK JPEG without Adobe's mark, so that it may hold ink or its absence: save it as RGB"
        )
    return _split(image, name)


def _planes_of_png(image: Any, content: bytes, name: str, said: list[str]) -> tuple[Image.Image, Bytes | None]:
    chunks = png_chunks(content)
    bits, colour_type = chunks[b"IHDR"][8:10]
    if bits < 16 and colour_type not in (GREY, COLOUR):
        return _split(image, name)
    image.load()
    values = np.asarray(image.convert("L") if image.mode == "1" else image)
    if bits == 16:
        said.append("16-bit values scaled to 8")
        values = values if colour_type == GREY else _deep(content, values, name)
    alpha = values[..., 3] if values.ndim == 3 and values.shape[2] == 4 and colour_type not in (GREY, COLOUR) else None
    if colour_type in (GREY, COLOUR) and b"tRNS" in chunks:
        alpha = _keyed(values, chunks[b"tRNS"], bits, name)
    return _eight_bits(values, bits), None if alpha is None else np.asarray(_scaled(alpha, max(bits, 8)))


def _planes_of_tiff(image: Any, content: bytes, name: str, said: list[str]) -> tuple[Image.Image, Bytes | None]:
    tags = image.tag_v2
    orientation, (bits, *_), extra = tags.get(ORIENTATION, 1), tags.get(BITS, (1,)), tags.get(EXTRA_SAMPLES, ())
    white_is_zero = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
    image.load()  # turns it upright
    if orientation != 1:
        said.append("turned upright")
    if extra[:1] == (PREMULTIPLIED,):
        said.append("colours multiplied with alpha, divided by it again")
    elif extra[:1] == (0,):
        said.append("a further channel of no meaning left out")
    if bits <= 8:
        return _split(image, name)
    if image.mode not in ("I;16", "I;16B", "RGB", "RGBA") or bits > 16:
        found = WORDS.get(image.mode, f"{bits}-bit {image.mode}")
        raise PictureError(f"{name} has {found} values, expected grey or RGB of 8 or 16 bits: save it so")
    if extra[:1] == (PREMULTIPLIED,):
        raise PictureError(f"{name} has 16-bit values multiplied with alpha: save it as PNG")
    said.append(f"{bits}-bit values scaled to 8")
    values = np.asarray(image)
    if image.mode.startswith("I"):
        return _eight_bits((2**bits - 1) - values.astype(np.uint16) if white_is_zero else values, bits), None
    values = _deep(content, values, name, orientation)
    return _eight_bits(values, bits), _scaled(values[..., 3], bits) if image.mode == "RGBA" else None


def _split(image: Any, name: str) -> tuple[Image.Image, Bytes | None]:
    """A picture of 8 bits, its alpha apart."""
    image.load()
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    if image.mode in ("1", "YCbCr", "RGBX"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode in ("LA", "RGBA"):
        return image.convert(image.mode[:-1]), np.asarray(image.getchannel("A"))
    if image.mode not in ("L", "RGB", "CMYK"):
        raise PictureError(
            f"{name} has {WORDS.get(image.mode, image.mode)} values, expected grey, RGB or CMYK of 8 or 16 bits: save it so"
        )
    return image, None


def _deep(content: bytes, cut: Bytes, name: str, orientation: int = 1) -> NDArray[np.uint16]:
    """(H, W, 3 or 4) of 16 bits, of a PNG or TIFF with colours or alpha; `cut` is what Pillow made of it.

    Raises:
        PictureError: OpenCV is not installed, or does not see the same picture.
    """
    try:
        import cv2
    except ImportError as error:
        raise PictureError(
            f"{name} has 16-bit values, which take opencv-python-headless: install it, or save the picture with 8 bits"
        ) from error
    found: Any = None
    with suppress(cv2.error):
        found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.ndim != 3 or found.dtype != np.uint16:
        raise PictureError(f"{name} cannot be decoded with 16 bits: save it with 8 bits")
    ordered = found[..., [2, 1, 0, 3][: found.shape[2]]][..., : cut.shape[2]]  # OpenCV's colours are BGR
    # Whether a TIFF comes upright is a matter of OpenCV's version; the upper bytes tell.
    for values in (ordered, _turned(ordered, orientation, [])):
        if np.array_equal(values >> 8, cut):
            return values
    raise PictureError(f"{name} is seen otherwise by two decoders: save it with 8 bits")


def _keyed(values: Numbers, key: bytes, bits: int, name: str) -> Bytes:
    """Alpha of a PNG of which one grey or colour is transparent."""
    channels = 1 if values.ndim == 2 else 3
    if len(key) != 2 * channels:
        raise PictureError(
            f"{name} has a transparent colour of {len(key)} bytes, expected {2 * channels}: save it anew"
        )
    step = 255 // (2**bits - 1) if bits < 8 else 1  # Pillow spreads the values of fewer bits over 0 to 255
    colour = np.frombuffer(key, ">u2").astype(np.int64) * step
    found = values == colour[0] if channels == 1 else (values[..., :3] == colour).all(-1)
    return np.where(found, 0, 2 ** max(bits, 8) - 1).astype(values.dtype)


def _eight_bits(values: Numbers, bits: int) -> Image.Image:
    """L or RGB of (H, W) or (H, W, 3 or more)."""
    return Image.fromarray(np.ascontiguousarray(_scaled(values if values.ndim == 2 else values[..., :3], max(bits, 8))))


def _scaled(values: Numbers, bits: int) -> Bytes:
    """Values of so many bits to the nearest of 8."""
    if bits == 8:
        return values.astype(np.uint8, copy=False)
    most = 2**bits - 1
    return ((values.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)


def _with_alpha(rgb: Image.Image, alpha: Bytes | None) -> Image.Image:
    if alpha is None:
        return rgb.convert("RGBA")
    rgb.putalpha(Image.fromarray(np.ascontiguousarray(alpha)))
    return rgb


def _turned(values: Numbers, orientation: int, said: list[str]) -> Numbers:
    """A picture made upright, by what a camera says of it."""
    if orientation == 1:
        return values
    if not 1 <= orientation <= 8:
        said.append(f"its orientation {orientation} means nothing, so it is taken as upright")
        return values
    said.append("turned upright")
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)
