"""Colours of any profile to sRGB, with LittleCMS."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

SPACES = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # mode of Pillow -> colour space of a profile
SAME_WITHIN = 2  # 8-bit steps that a profile may move a colour and still be sRGB by another name


def to_srgb(colours: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture in sRGB. A profile that says the same as sRGB changes nothing.

    Args:
        colours: L, RGB or CMYK.
        profile: ICC, as it stood in the file; None = the values are sRGB's, or ink by the plain formula.

    Raises:
        ValueError: the profile is for pictures of another kind.
        ImageCms.PyCMSError: it is broken.
    """
    transform, mode = (None, colours.mode) if profile is None else _transform(colours.mode, profile)
    if transform is None:
        return colours.convert("RGB")
    found = ImageCms.applyTransform(colours.convert(mode), transform)
    assert found is not None  # None stands for a change in place
    return found


@lru_cache(maxsize=32)  # most pictures of a data set have one of a few profiles, and building a transform takes longer
def _transform(mode: str, content: bytes) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """What brings a profile's values to sRGB, None = they are, and the mode that it takes."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
    space = profile.profile.xcolor_space.strip()
    mode = "RGB" if (mode, space) == ("L", "RGB") else mode  # a grey is a colour like others
    if SPACES[mode] != space:
        raise ValueError(f"it is {SPACES[mode]}, its colour profile is for {space}")
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)
    return (None if mode != "CMYK" and _changes_nothing(transform, mode) else transform), mode


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Tried on every grey, and for RGB on 18 steps of each colour with all of the others."""
    greys = np.arange(256, dtype=np.uint8)[None]
    steps = np.linspace(0, 255, 18).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    probe = greys if mode == "L" else np.concatenate([colours, np.repeat(greys[..., None], 3, 2)], 1)
    found = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), transform), np.int16)
    return bool(np.abs(found - (probe[..., None] if mode == "L" else probe)).max() <= SAME_WITHIN)
