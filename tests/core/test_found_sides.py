"""Which sides something touches, and borders that show no ground."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pfv_mepa.pfv_core.found.ground import to_lab
from pfv_mepa.pfv_core.found.sides import borders_touched, is_without_ground, sides_touched, strange_stretches

from .found_pictures import RED, plain
from .weights import seeded

NONE = {"top": [], "bottom": [], "left": [], "right": []}


def stretches(picture):
    return {side: [round(length, 2) for length in found] for side, found in strange_stretches(to_lab(picture)).items()}


def test_borders_touched_by_a_speck_are_not():
    mask = torch.zeros(100, 200, dtype=torch.bool)
    mask[50:90, 50:150] = True
    mask[99, 100:104] = True
    assert borders_touched(mask.numpy()) == ()
    mask[99, 100:105] = True
    assert borders_touched(mask.numpy()) == ("bottom",)
    mask[20:40, 0] = True
    assert borders_touched(mask.numpy()) == ("bottom", "left")


def test_a_stretch_is_what_no_other_side_shows():
    picture = plain(100, 200)
    assert stretches(picture) == NONE
    picture[:, 60:, 50:90] = torch.tensor(RED).view(3, 1, 1)
    assert stretches(picture) == {**NONE, "bottom": [0.2]}
    assert sides_touched(strange_stretches(to_lab(picture))) == ("bottom",)
    assert stretches(picture.flip(1)) == {**NONE, "top": [0.2]}
    assert stretches(picture.mT) == {**NONE, "right": [0.2]}
    assert stretches(picture.mT.flip(2)) == {**NONE, "left": [0.2]}


def test_a_speck_at_the_border_is_no_stretch():
    picture = plain(100, 200)
    picture[:, 60:, 50:54] = torch.tensor(RED).view(3, 1, 1)
    assert stretches(picture) == NONE
    picture[:, 60:, 50:55] = torch.tensor(RED).view(3, 1, 1)
    assert len(stretches(picture)["bottom"]) == 1


def test_what_ends_inside_the_borders_strip_is_not_cut_off():
    picture = plain(100, 200)
    picture[:, 60:98, 50:90] = torch.tensor(RED).view(3, 1, 1)
    assert stretches(picture) == NONE


def test_two_sides_explain_each_other():
    """A table that goes from left to right, and stripes that go from top to bottom."""
    picture = plain(100, 200)
    picture[:, 60:] = torch.tensor(RED).view(3, 1, 1)
    assert stretches(picture) == NONE
    picture = plain(100, 200)
    picture[:, :, 50:90] = torch.tensor(RED).view(3, 1, 1)
    assert stretches(picture) == NONE


def test_several_stretches_of_a_side_are_a_pattern():
    picture = plain(100, 200)
    for left in (30, 90, 150):
        picture[:, :60, left : left + 20] = torch.tensor(RED).view(3, 1, 1)
    found = strange_stretches(to_lab(picture))
    assert [round(length, 2) for length in found["top"]] == [0.1, 0.1, 0.1]
    assert sides_touched(found) == ()


def test_a_border_of_many_things_is_no_ground():
    blots = F.interpolate(torch.rand(1, 3, 10, 10, generator=seeded(0)), size=100)[0]
    assert is_without_ground(strange_stretches(to_lab(blots)))
    assert not is_without_ground({**NONE, "top": [0.8], "left": [0.8]})
    assert is_without_ground({**NONE, "top": [0.8], "left": [0.5, 0.32]})
