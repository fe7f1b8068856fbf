"""Ramps that are cut with a part of a frame say where it lies."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import interpolate

from pfv_mepa.pfv_core.region.ramps import part_of, ramps

SIZE = 640, 1024
BOXES = [
    (0, 0, 640, 1024),
    (0, 0, 272, 272),
    (368, 752, 272, 272),
    (101, 333, 57, 211),
    (639, 1023, 1, 1),
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
    assert part_of(*cut(box, to=to), SIZE) == box


@pytest.mark.parametrize("box", [box for box in BOXES if min(box[2:]) >= 40])
def test_masks_of_8_bits_say_it_to_a_fraction_of_their_steps(box):
    """A step of 8 bits is 4 pixels of this frame; rounded down, a mask is half a step less than it was on average."""
    found = part_of(*cut(box, to=(512, 512), bits=8), SIZE)
    assert max(abs(one - other) for one, other in zip(found, box, strict=True)) <= 3


def test_a_part_of_a_small_frame():
    assert part_of(*cut((16, 8, 24, 16), size=(64, 48)), (64, 48)) == (16, 8, 24, 16)


def padded(parts):
    return [torch.cat([part, part[..., -1:].expand(-1, -1, 64)], 2) for part in parts]


@pytest.mark.parametrize(
    ("change", "axis"),
    [
        (lambda parts: [part.flip(1) for part in parts], "down"),
        (lambda parts: [part.flip(2) for part in parts], "across"),
        (lambda parts: [part.mT for part in parts], "down"),
        (padded, "across"),
        (lambda parts: [parts[0], parts[1].square(), parts[2]], "across"),
        (lambda parts: [torch.full_like(part, 0.5) for part in parts], "down"),
        (lambda parts: [torch.ones_like(part) for part in parts], "down and up"),
        (lambda parts: [part * 0.5 for part in parts], "down and up"),
        (lambda parts: [part**1.02 for part in parts], "down and up"),
        (lambda parts: [part * torch.nan for part in parts], "down and up"),
        (lambda parts: [part[0] for part in parts], "are"),
        (lambda parts: [part.expand(2, -1, -1) for part in parts], "are"),
        (lambda parts: [*parts[:2], parts[2][..., 1:]], "are"),
        (lambda parts: [part[:, :5] for part in parts], "down"),
        (lambda parts: [parts[0] - 0.2, parts[1], parts[2] + 0.2], "down"),
        (lambda parts: [parts[0], parts[1] + 0.8, parts[2]], "across"),
        (lambda parts: [parts[0], parts[1] + torch.linspace(0, 0.1, parts[1].shape[1])[:, None], parts[2]], "across"),
    ],
)
def test_what_is_changed_otherwise_is_refused(change, axis):
    with pytest.raises(ValueError, match=rf"the ramps? ?{axis} .*expected"):
        part_of(*change(cut((100, 200, 256, 256))), SIZE)


def test_a_ramp_says_where_the_centres_of_pixels_are():
    down, across, up = ramps(4, 8)
    assert down.shape == across.shape == up.shape == (1, 4, 8)
    assert torch.equal(up, down.flip(1))
    assert torch.equal(down[0, :, 0], torch.tensor([0.125, 0.375, 0.625, 0.875]))
    assert across[0, 3].tolist()[::7] == [1 / 16, 15 / 16]


@pytest.mark.parametrize("left", [0, 1912, 952])
def test_a_tile_at_the_edge_is_as_wide_as_one_in_the_middle(left):
    """Rounded down, the ramp of a tile at the first column begins below 0; its width is not to be lost with that."""
    _, found, height, width = part_of(*cut((0, left, 136, 136), size=(256, 2048), to=(544, 544), bits=8), (256, 2048))
    assert (height, width) == (136, 136)
    assert abs(found - left) <= 8
