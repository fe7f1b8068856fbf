"""mirror_image: what polished ground shows of a product is left out of it; what only looks like that stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.found.mirror import mirror_image
from pfv_mepa.pfv_core.found.product import find_product
from pfv_mepa.pfv_core.found.shadow import log_light

from .found_pictures import BLUE, RED, WHITE, agreement, ellipse, over, plain

SIZE = (150, 200)
FOOT = 105  # the first row below a product
SLATE, BLACK, PINK = (0.36, 0.38, 0.42), (0.04, 0.04, 0.04), (0.86, 0.51, 0.51)
GROUNDS = {"white": WHITE, "slate": SLATE, "black": BLACK}


def box(top, bottom, left, right):
    """(H, W) float, 1 inside; pixels."""
    shown = torch.zeros(SIZE)
    shown[top:bottom, left:right] = 1
    return shown


CAP, BODY, LABEL = box(30, 45, 90, 110), box(45, FOOT, 80, 120), box(62, 92, 86, 114)
JAR = box(60, FOOT, 70, 130)


def bottle(ground, colour=RED):
    """A capped bottle with a label on a ground: the picture, and its opacity."""
    picture = over(over(over(ground, BODY, colour), CAP, BLUE), LABEL, (0.9, 0.85, 0.6))
    return picture, torch.maximum(BODY, CAP)


def turned_over(picture, opacity, foot=FOOT):
    """What is above a row, below it."""
    rows = 2 * foot - 1 - torch.arange(foot, SIZE[0])
    rows = rows.clamp(min=0)
    below, its = torch.zeros_like(picture), torch.zeros_like(opacity)
    below[:, foot:], its[foot:] = picture[:, rows], opacity[rows]
    return below, its


def fading(begin, over_rows, foot=FOOT):
    """(H, W): a strength that falls to nothing within so many rows below a foot."""
    away = (torch.arange(SIZE[0]) - foot).clamp(min=0)
    return (begin * (1 - away / over_rows)).clamp(min=0)[:, None].expand(SIZE)


def laid_over(picture, opacity, strength):
    """A picture with its product turned over below it, as retouchers lay it."""
    below, its = turned_over(picture, opacity)
    return over(picture, its * strength, below)


def polished(picture, opacity, strength):
    """The same as polished ground does it: light that adds to the ground's own."""
    below, its = turned_over(picture, opacity)
    return (picture**2.2 + strength * its * below**2.2).clamp(max=1) ** (1 / 2.2)


def taken(picture, ground):
    """What stands out from a ground, and what of it is taken for a mirror image, each (H, W) bool."""
    mask = ((picture - ground).abs().amax(0) > 0.02).numpy()
    return mask, mirror_image(log_light(picture), mask)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("reach", [30, 60, 1000])
def test_a_picture_turned_over_below_itself_is_found(ground, reach):
    ground = plain(*SIZE, GROUNDS[ground])
    picture, opacity = bottle(ground)
    mask, mirrored = taken(laid_over(picture, opacity, fading(0.4, reach)), ground)
    assert np.array_equal(mask & ~mirrored, opacity.numpy() > 0.5)


@pytest.mark.parametrize("strength", [0.1, 0.3])
@pytest.mark.parametrize("ground", ["slate", "black"])
def test_what_polished_ground_adds_is_found(ground, strength):
    ground = plain(*SIZE, GROUNDS[ground])
    picture, opacity = bottle(ground)
    mask, mirrored = taken(polished(picture, opacity, strength), ground)
    assert mask[FOOT:].sum() > 1000
    assert np.array_equal(mask & ~mirrored, opacity.numpy() > 0.5)


def test_a_round_foot_is_followed():
    ground = plain(*SIZE, SLATE)
    opacity = torch.maximum(box(40, FOOT - 6, 70, 130), ellipse(SIZE, ((FOOT - 6) / SIZE[0], 0.5), (6 / SIZE[0], 0.15)))
    picture = over(over(ground, opacity, RED), LABEL, WHITE)
    ends = [int(column.nonzero().max()) + 1 if column.any() else FOOT for column in opacity.T > 0.5]
    for column, end in enumerate(ends):
        rows = (2 * end - 1 - torch.arange(end, SIZE[0])).clamp(min=0)
        seen = opacity[rows, column] * 0.4
        picture[:, end:, column] += (picture[:, rows, column] - picture[:, end:, column]) * seen
    mask, mirrored = taken(picture, ground)
    assert agreement(torch.from_numpy(mask & ~mirrored).float(), opacity) > 0.97


def test_without_a_mirror_image_nothing_is():
    for ground in GROUNDS.values():
        picture, _ = bottle(plain(*SIZE, ground))
        assert not taken(picture, plain(*SIZE, ground))[1].any()


@pytest.mark.parametrize("height", [10, 25, 38])
@pytest.mark.parametrize("colour", [PINK, WHITE, BLUE, (0.6, 0.45, 0.45)])
def test_a_foot_of_another_colour_stays(height, colour):
    """In the mixture of product and ground too, straight or narrower."""
    ground = plain(*SIZE, SLATE)
    for inset in (0, 8):
        picture = over(over(ground, JAR, RED), box(FOOT, FOOT + height, 70 + inset, 130 - inset), colour)
        assert not taken(picture, ground)[1].any()


@pytest.mark.parametrize("height", [15, 30])
def test_a_foot_with_a_label_turned_over_that_ends_before_it_does_stays(height):
    ground = plain(*SIZE, SLATE)
    picture, opacity = bottle(ground)
    strength = 0.4 * box(FOOT, FOOT + height, 0, SIZE[1])
    assert not taken(laid_over(picture, opacity, strength), ground)[1].any()


def test_a_product_whose_halves_are_alike_stays():
    """An hourglass, the lower half as strong as the upper one."""
    ground = plain(*SIZE, SLATE)
    picture, opacity = bottle(ground)
    for strength in (1.0, 0.9):
        assert not taken(laid_over(picture, opacity, strength * torch.ones(SIZE)), ground)[1].any()


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_ball_in_light_from_above_stays(ground):
    ground = plain(*SIZE, GROUNDS[ground])
    ball = ellipse(SIZE, (0.5, 0.5), (0.3, 0.225))
    falling = torch.linspace(1.6, 0.0, SIZE[0]).clamp(0.02, 1)[None, :, None]
    picture = over(ground, ball, torch.tensor(RED).view(3, 1, 1) * falling)
    assert not taken(picture, ground)[1].any()


def test_a_can_on_another_is_none():
    ground = plain(*SIZE, SLATE)
    can, label = box(20, 70, 75, 125), box(30, 48, 82, 118)
    below = over(over(ground, box(70, 120, 75, 125), PINK), box(80, 98, 82, 118), (0.6, 0.55, 0.5))
    assert not taken(over(over(below, can, RED), label, (0.9, 0.85, 0.6)), ground)[1].any()


def test_what_stands_is_what_is_found_and_touches_nothing():
    ground = plain(*SIZE, SLATE)
    picture, opacity = bottle(ground)
    found = find_product(polished(picture, opacity, 0.3))
    assert agreement(found.opacity, opacity) > 0.97
    assert found.touches == ()
    assert not found.mirrored[: FOOT - 2].any()
    everywhere = torch.maximum(opacity, turned_over(picture, opacity)[1]) > 0.5
    assert found.seen[everywhere].float().mean() > 0.999  # what is hidden: no colour of it shows in the ground
    assert found.seen.sum() < 1.15 * everywhere.sum()


def test_the_whole_outline_turned_over_is_mirrored_where_a_part_of_it_does_not_stand_out():
    """A label that is nearly as bright as the ground it is mixed with."""
    picture, opacity = bottle(plain(*SIZE, SLATE))
    shown, (_, its) = laid_over(picture, opacity, fading(0.4, 1000)), turned_over(picture, opacity)
    label = turned_over(picture, box(74, 92, 90, 110))[1]
    mask = (torch.maximum(opacity, its) - label).numpy() > 0.5
    assert not mask[FOOT:][label[FOOT:].numpy() > 0].any()
    mirrored = mirror_image(log_light(shown), mask)
    assert mirrored[FOOT:][its[FOOT:].numpy() > 0].all()
