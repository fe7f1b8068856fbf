"""A product or a reference, with its mask in the alpha channel: what ComfyUI's LoadImage reads."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP")  # no other decoder is ever run on a file that came from elsewhere
EXTENSIONS = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}
MAX_BYTES = 256_000_000
REMEMBERED = 1024  # hashes of files that many rows share

White = Literal["opaque", "transparent"]
Found = TypeVar("Found")
_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
_ORIENTATION = 0x0112


class PictureError(ValueError):
    """A file that is no picture of a known kind, or a mask that does not fit its picture."""


@dataclass(frozen=True)
class Picture:
    """A picture of the catalogue.

    Attributes:
        file: the picture.
        text: its path as it stands in the catalogue.
        sha256: of the file.
        size: width and height, as shown (after the camera's orientation mark).
        mask: a second file that marks a part with white; None = the file's own alpha counts.
        mask_sha256: of that file.
        white: what the marked part becomes: `opaque` for a product, `transparent` for what is hidden of a reference.
    """

    file: Path
    text: str
    sha256: str
    size: tuple[int, int]
    mask: Path | None = None
    mask_sha256: str | None = None
    white: White = "opaque"

    @property
    def identity(self) -> dict[str, str | None]:
        """What makes two pictures one."""
        return {"picture": self.sha256, "mask": self.mask_sha256, "white": self.white if self.mask else None}

    @property
    def upload_name(self) -> str:
        """A name by content: equal pictures share a file on the server, different ones never do."""
        digest = hashlib.sha256(repr(sorted(self.identity.items())).encode()).hexdigest()[:40]
        return f"{digest}.{'png' if self.mask else self.file.suffix.lower().lstrip('.') or 'png'}"

    def content(self) -> bytes:
        """The bytes to upload: the file itself, or a PNG with the mask as alpha.

        Raises:
            PictureError: a file cannot be read any more, the mask has another size, or marks nothing or everything.
        """
        if self.mask is None:
            return _read(self.file)
        with opened(self.file) as image, opened(self.mask) as mask:
            joined = _joined(image.convert("RGB"), mask.convert("L"), self)
        buffer = io.BytesIO()
        joined.save(buffer, "PNG")
        return buffer.getvalue()

    def product(self) -> tuple[Image.Image, Image.Image]:
        """RGB and alpha as LoadImage will see them."""
        with opened(io.BytesIO(self.content())) as image:
            return image.convert("RGB"), image.convert("RGBA").getchannel("A")


def read_picture(file: Path, text: str, mask: Path | None = None, white: White = "opaque") -> Picture:
    """Describe a picture without decoding it.

    Raises:
        PictureError: it is no PNG, JPEG or WebP, or too large.
    """
    sha256, size = _described(file)
    mask_sha256, mask_size = _described(mask) if mask else (None, size)
    if mask_size != size:
        raise PictureError(
            f"the mask of {text!r} is {mask_size}, the picture {size} (width, height): give both one size"
        )
    return Picture(file, text, sha256, size, mask, mask_sha256, white)


def opened(source: Path | io.BytesIO) -> Image.Image:
    """A decoded picture, upright.

    Raises:
        PictureError: it cannot be decoded.
    """
    return _guarded(source, lambda image: ImageOps.exif_transpose(_with_alpha(image)))


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise PictureError(f"{file.name} cannot be read any more: {error}") from error


def _described(file: Path) -> tuple[str, tuple[int, int]]:
    status = file.stat()
    return _described_once(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=REMEMBERED)
def _described_once(file: Path, changed: int, length: int) -> tuple[str, tuple[int, int]]:
    """Hash and size; `changed` and `length` make another entry of a file that was written anew."""
    del changed
    if length > MAX_BYTES:
        raise PictureError(f"{file.name} has {length} bytes, at most {MAX_BYTES} are taken")
    size = _guarded(file, _upright_size)
    with file.open("rb") as content:
        digest = hashlib.sha256()
        while block := content.read(1 << 20):
            digest.update(block)
    return digest.hexdigest(), size


def _guarded(source: Path | io.BytesIO, read: Callable[[Image.Image], Found]) -> Found:
    name = source.name if isinstance(source, Path) else "the picture"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source, formats=FORMATS) as image:
                return read(image)
    except (UnidentifiedImageError, Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PictureError(f"{name} cannot be read as {', '.join(FORMATS)}: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise PictureError(f"{name} cannot be decoded: {error}") from error


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    swapped = image.getexif().get(_ORIENTATION) in _SWAPPING_ORIENTATIONS
    return (height, width) if swapped else (width, height)


def _with_alpha(image: Image.Image) -> Image.Image:
    image.load()
    return image.convert("RGBA") if "transparency" in image.info else image


def _joined(image: Image.Image, mask: Image.Image, picture: Picture) -> Image.Image:
    if mask.getextrema() in ((0, 0), (255, 255)):
        raise PictureError(f"the mask of {picture.text!r} marks nothing or everything: white is what counts")
    image.putalpha(mask if picture.white == "opaque" else ImageChops.invert(mask))
    return image
