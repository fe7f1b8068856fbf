"""Colours of any profile to sRGB, with LittleCMS; a profile that says the same as sRGB changes nothing."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from .files import PictureError

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # mode of Pillow -> colour space of a profile
SAME_WITHIN = 2
"""8-bit steps that a profile may move a colour and still be sRGB. What is sold as sRGB differs by up to so much in its rounded
curves, and a photo's own values are worth more than that; the nearest other spaces move colours by 15 and more."""
FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE

Bytes = NDArray[np.uint8]


def to_srgb(colours: Image.Image, profile: bytes | None, name: str, said: list[str]) -> Image.Image:
    """A picture in sRGB.

    Args:
        colours: L, RGB or CMYK.
        profile: ICC, as it stood in the file.
        name: of the picture.
        said: gets what was converted, in words.

    Raises:
        PictureError: the profile is broken, or for pictures of another kind.
    """
    if profile is None:
        if colours.mode == "CMYK":
            said.append("CMYK without a profile, by the plain formula")
        return _as_rgb(colours)
    description, transform, mode = _transform(colours.mode, profile, name)
    if mode != "CMYK" and _changes_nothing(transform, mode):
        return _as_rgb(colours)
    said.append(f"{description} to sRGB")
    found = ImageCms.applyTransform(colours if mode == colours.mode else colours.convert(mode), transform)
    assert found is not None  # None stands for a change in place
    return found


def _as_rgb(colours: Image.Image) -> Image.Image:
    return colours if colours.mode == "RGB" else colours.convert("RGB")  # convert copies in any case


def _transform(mode: str, content: bytes, name: str) -> tuple[str, ImageCms.ImageCmsTransform, str]:
    """Description of a profile, what brings its values to sRGB, and the mode that it takes."""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        space = profile.profile.xcolor_space.strip()
        description = ImageCms.getProfileDescription(profile).strip() or "its colour profile"
        if mode == "L" and space == "RGB":
            mode = "RGB"  # a grey is a colour like others
        if SPACES[mode] != space:
            raise PictureError(
                f"{name} is {SPACES[mode]}, its colour profile {description!r} is for {space}: save it as sRGB, or without the "
                "profile"
            )
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return description, ImageCms.buildTransform(profile, srgb, mode, "RGB", intent, FLAGS), mode
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError(
            f"{name} has a colour profile that cannot be used ({error}): save it as sRGB, or without the profile"
        ) from error


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a profile is sRGB under any name, tried on colours from all over its space."""
    probe = _probe(mode)
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), transform), np.int16)
    return bool(np.abs(found - (probe[..., None] if mode == "L" else probe)).max() <= SAME_WITHIN)


def _probe(mode: str) -> Bytes:
    """A row of colours: every grey, and for RGB 18 steps of each colour with all of the others."""
    greys = np.arange(256, dtype=np.uint8)[None]
    if mode == "L":
        return greys
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    return np.concatenate([colours, np.repeat(greys[..., None], 3, 2)], 1)
