"""A file that marks a part of a picture with white: what it marks, or why it says nothing certain."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pfv_core.ad.opacity import SEEN_ABOVE

from .door import Decoded, PictureError, open_mask

FULL, FULL_FROM = 255, 254  # an editor's paint may be one step short, and nodes take it as full
MARKED_FROM = 128

Bytes = NDArray[np.uint8]


def read_mask(content: bytes, name: str, size: tuple[int, int], picture: str) -> tuple[Bytes, tuple[str, ...]]:
    """What a mask marks: (H, W), 255 = in full, soft values kept; and what was converted, in words.

    Args:
        content: of the mask's file.
        name: of it, for messages.
        size: width and height of the picture that it belongs to.
        picture: name of that, for messages.

    Raises:
        PictureError: it is not read, has another size, marks nothing or everything, or its brightness and its transparency
            say two things.
    """
    mask = open_mask(content, name)
    if mask.size != size:
        raise PictureError(
            f"the mask {name} is {mask.size[0]}x{mask.size[1]}, its picture {picture} {size[0]}x{size[1]}: give both one size"
        )
    marked, said = _white_of(mask, name)
    seen = int(np.count_nonzero(marked > SEEN_ABOVE * FULL))
    if seen == 0 or int(marked.min()) >= FULL_FROM:
        raise PictureError(
            f"the mask {name} of {picture} marks {seen} of {marked.size} pixels, {'nothing' if seen == 0 else 'everything'}: "
            "what counts is white in it, all else black"
        )
    return marked, (*mask.converted, *said)


def _white_of(mask: Decoded, name: str) -> tuple[Bytes, tuple[str, ...]]:
    """A mask's brightness; of one with transparency its alpha, where what is seen of it is bright."""
    brightness = np.asarray(Image.fromarray(np.ascontiguousarray(mask.pixels[..., :3])).convert("L"))
    alpha = mask.pixels[..., 3]
    if bool((alpha == FULL).all()):
        return brightness, ()
    solid = alpha >= MARKED_FROM
    bright = solid & (brightness >= MARKED_FROM)
    if not np.array_equal(solid, bright):
        raise PictureError(
            f"the mask {name} has transparency: {int(solid.sum())} of its pixels are opaque, {int(bright.sum())} of them "
            "bright. Save it without transparency, white where it counts, or leave the mask out and give the cut-out itself"
        )
    return alpha, ("its transparency counts, not its brightness",)
