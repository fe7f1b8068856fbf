"""Ramps that are cut with a part of a frame say where it lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from pfv_mepa.pfv_core.region.ramps import part_of, ramps

SIZE = 640, 1024
BOXES = [
    (0, 0, 640, 1024),
    (0, 0, 272, 272),
    (368, 752, 272, 272),
    (101, 333, 57, 211),
    (600, 3, 40, 8),
]


def cut(box, size=SIZE, to=None, bits=None):
    """The ramps of a frame, cut to a box, and perhaps resized and rounded to 8 bit on the way."""
    top, left, height, width = box
    parts = [ramp[:, top : top + height, left : left + width] for ramp in ramps(*size)]
    if to is not None:
        parts = [interpolate(part[None], to, mode="bicubic", align_corners=False)[0] for part in parts]
    return [part if bits is None else (part.clamp(0, 1) * 255).to(torch.uint8) / 255 for part in parts]


@pytest.mark.parametrize("box", [box for box in BOXES if min(box[2:]) >= 8])
@pytest.mark.parametrize("to", [None, (512, 512), (96, 64)])
def test_a_part_is_found_again(box, to):
    assert part_of(cut(box, to=to), SIZE) == box


@pytest.mark.parametrize("box", [box for box in BOXES if min(box[2:]) >= 40])
def test_masks_of_8_bits_say_it_to_a_fraction_of_their_steps(box):
    """A step of 8 bits is 4 pixels of this frame. Rounded down, a ramp loses half a step, and so does its opposite."""
    found = part_of(cut(box, to=(512, 512), bits=8), SIZE)
    assert max(abs(one - other) for one, other in zip(found, box, strict=True)) <= 1


def test_a_part_of_a_small_frame():
    assert part_of(cut((16, 8, 24, 16), size=(64, 48)), (64, 48)) == (16, 8, 24, 16)


def padded(parts):
    return [torch.cat([part, part[..., -1:].expand(-1, -1, 64)], 2) for part in parts]


def bent(part):
    return part + torch.linspace(0, 0.1, part.shape[1])[:, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda parts: [part.flip(1) for part in parts], "the ramp down rises by -"),
        (lambda parts: [part.flip(2) for part in parts], "the ramp to the right rises by -"),
        (lambda parts: [part.mT for part in parts], "the ramp down rises by"),
        (padded, "the ramp to the right rises by .* off its line"),
        (lambda parts: [*parts[:2], parts[2].square(), 1 - parts[2].square()], "the ramp to the right .* off its line"),
        (lambda parts: [*parts[:2], bent(parts[2]), 1 - bent(parts[2])], "the ramp to the right .* off its line"),
        (lambda parts: [torch.full_like(part, 0.5) for part in parts], "the ramp down rises by 0 a pixel"),
        (lambda parts: [part[:, :7] for part in parts], "the ramp down has 7 pixels, expected 8 or more"),
        (lambda parts: [parts[0] - 0.2, parts[1] + 0.2, *parts[2:]], "the ramp down goes from -0.04"),
        (lambda parts: [*parts[:2], parts[2] + 0.8, parts[3] - 0.8], "the ramp to the right goes from .* to 1.2"),
        (
            lambda parts: [torch.ones_like(part) for part in parts],
            "the ramp down and its opposite add up to 1 but for 1",
        ),
        (lambda parts: [part * 0.5 for part in parts], "down and its opposite add up to 1 but for 0.5"),
        (lambda parts: [part**1.02 for part in parts], "down and its opposite add up to 1 but for 0.014"),
        (lambda parts: [part * torch.nan for part in parts], "down and its opposite add up to 1 but for nan"),
        (lambda parts: [part[0] for part in parts], "expected all of one shape"),
        (lambda parts: [part.expand(2, -1, -1) for part in parts], "expected all of one shape"),
        (lambda parts: [*parts[:3], parts[3][..., 1:]], "expected all of one shape"),
    ],
)
def test_what_is_changed_otherwise_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        part_of(change(cut((100, 200, 256, 256))), SIZE)


def test_a_ramp_says_where_the_centres_of_pixels_are():
    down, up, right, left = ramps(4, 8)
    assert down.shape == up.shape == right.shape == left.shape == (1, 4, 8)
    assert torch.equal(down[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert right[0, 3].tolist()[::7] == [1 / 16, 15 / 16]
    assert torch.equal(up, down.flip(1))
    assert torch.equal(left, right.flip(2))


@pytest.mark.parametrize("left", [0, 1912, 952])
def test_a_tile_at_the_edge_is_as_wide_as_one_in_the_middle(left):
    _, found, height, width = part_of(cut((0, left, 136, 136), size=(256, 2048), to=(544, 544), bits=8), (256, 2048))
    assert (height, width) == (136, 136)
    assert abs(found - left) <= 1


@pytest.mark.parametrize(
    ("length", "scale", "tile", "off"), [(1024, 2, 544, 1), (2048, 4, 544, 1), (4096, 2, 1056, 1), (4096, 1, 128, 2)]
)
def test_masks_that_an_upscaler_resizes_cuts_and_resizes_in_8_bits(length, scale, tile, off):
    """As the most used one does: the whole mask to the size of the upscaled ad, then its tile to the tile's size."""
    canvas, rows = scale * length, 64
    for left in {0, canvas // 3, canvas // 2, canvas - tile}:
        parts = []
        for ramp in ramps(rows, length):
            mask = Image.fromarray((ramp[0] * 255).byte().numpy()).resize(
                (canvas, scale * rows), Image.Resampling.BICUBIC
            )
            part = mask.crop((left, 0, left + tile, scale * rows))
            part = part.resize((512, scale * rows), Image.Resampling.BICUBIC)
            parts.append(torch.from_numpy(np.array(part))[None] / 255)
        _, found, _, width = part_of(parts, (rows, length))
        assert abs(found - left / scale) <= off
        assert abs(found + width - (left + tile) / scale) <= off
