"""mirror_image: what polished ground shows of a product is left out of it; what only looks like that stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.found.mirror import mirror_image
from pfv_mepa.pfv_core.found.product import find_product
from pfv_mepa.pfv_core.found.shadow import log_light
from pfv_mepa.pfv_core.found.unsure import UnsureError

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


def standing_out(picture, ground):
    return ((picture - ground).abs().amax(0) > 0.02).numpy()


def found_in(picture, ground):
    return mirror_image(log_light(picture), standing_out(picture, ground))


def is_none(picture, ground):
    return not found_in(picture, ground).where.any()


def is_in_doubt(picture, ground):
    found = found_in(picture, ground)
    return bool(found.where.any()) and not found.certain


def is_left(picture, ground, opacity):
    """Whether what is left without the mirror image is the product, to the pixel."""
    found = found_in(picture, ground)
    left = standing_out(picture, ground) & ~found.where
    return found.certain and np.array_equal(left, opacity.numpy() > 0.5)


@pytest.mark.parametrize("ground", ["slate", "black"])
@pytest.mark.parametrize("strength", [0.25, 0.4])
def test_a_picture_turned_over_below_itself_to_its_end_is_found(ground, strength):
    ground = plain(*SIZE, GROUNDS[ground])
    picture, opacity = bottle(ground)
    shown = laid_over(picture, opacity, strength * torch.ones(SIZE))
    assert standing_out(shown, ground)[FOOT:].sum() > 1000
    assert is_left(shown, ground, opacity)


@pytest.mark.parametrize("ground", ["slate", "black"])
def test_what_ends_before_the_picture_does_is_not_cut_off(ground):
    """It may be the lower half of a thing whose halves are alike and that nearly fills its photo."""
    ground = plain(*SIZE, GROUNDS[ground])
    picture, opacity = bottle(ground)
    shown = laid_over(picture, opacity, 0.4 * torch.ones(SIZE))
    assert is_left(shown, ground, opacity)
    shown[:, -2:] = ground[:, -2:]
    assert not found_in(shown, ground).certain


@pytest.mark.parametrize("strength", [0.1, 0.3])
@pytest.mark.parametrize("ground", ["slate", "black"])
def test_what_polished_ground_adds_is_found(ground, strength):
    ground = plain(*SIZE, GROUNDS[ground])
    picture, opacity = bottle(ground)
    shown = polished(picture, opacity, strength)
    assert standing_out(shown, ground)[FOOT:].sum() > 1000
    assert is_left(shown, ground, opacity)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("reach", [36, 44])
def test_one_that_fades_may_be_clear_glass(ground, reach):
    ground = plain(*SIZE, GROUNDS[ground])
    picture, opacity = bottle(ground)
    assert is_in_doubt(laid_over(picture, opacity, fading(0.4, reach)), ground)


@pytest.mark.parametrize("ground", GROUNDS)
def test_one_that_ends_as_what_stands_does_may_be_its_other_half(ground):
    """An hourglass, a brooch: nothing tells the lower half from a mirror image."""
    ground = plain(*SIZE, GROUNDS[ground])
    low = box(50, 60, 92, 108), box(60, 80, 80, 120)
    opacity = torch.maximum(*low)
    picture = over(over(ground, low[1], RED), low[0], BLUE)
    below, its = turned_over(picture, opacity, 80)
    assert is_in_doubt(over(picture, its * 0.4, below), ground)


def test_a_round_foot_is_followed():
    ground = plain(*SIZE, SLATE)
    opacity = torch.maximum(box(40, FOOT - 6, 70, 130), ellipse(SIZE, ((FOOT - 6) / SIZE[0], 0.5), (6 / SIZE[0], 0.15)))
    picture = over(over(ground, opacity, RED), LABEL, WHITE)
    ends = [int(column.nonzero().max()) + 1 if column.any() else FOOT for column in opacity.T > 0.5]
    for column, end in enumerate(ends):
        rows = (2 * end - 1 - torch.arange(end, SIZE[0])).clamp(min=0)
        seen = opacity[rows, column] * 0.4
        picture[:, end:, column] += (picture[:, rows, column] - picture[:, end:, column]) * seen
    found = found_in(picture, ground)
    left = torch.from_numpy(standing_out(picture, ground) & ~found.where)
    assert found.certain
    assert agreement(left.float(), opacity) > 0.985  # along a level line it is 0.978


def test_without_a_mirror_image_nothing_is():
    for ground in GROUNDS.values():
        picture, _ = bottle(plain(*SIZE, ground))
        assert is_none(picture, plain(*SIZE, ground))


@pytest.mark.parametrize("height", [10, 25, 38])
@pytest.mark.parametrize("colour", [PINK, WHITE, BLUE, (0.6, 0.45, 0.45)])
def test_a_foot_of_another_colour_stays(height, colour):
    """In the mixture of product and ground too, straight or narrower."""
    ground = plain(*SIZE, SLATE)
    for inset in (0, 8):
        picture = over(over(ground, JAR, RED), box(FOOT, FOOT + height, 70 + inset, 130 - inset), colour)
        assert is_none(picture, ground)


@pytest.mark.parametrize("height", [15, 30])
def test_a_foot_with_a_label_turned_over_that_ends_before_it_does_stays(height):
    ground = plain(*SIZE, SLATE)
    picture, opacity = bottle(ground)
    strength = 0.4 * box(FOOT, FOOT + height, 0, SIZE[1])
    assert is_none(laid_over(picture, opacity, strength), ground)


def test_a_product_whose_halves_are_alike_stays():
    """An hourglass, the lower half as strong as the upper one."""
    ground = plain(*SIZE, SLATE)
    picture, opacity = bottle(ground)
    for strength in (1.0, 0.9):
        assert is_none(laid_over(picture, opacity, strength * torch.ones(SIZE)), ground)


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_matt_ball_in_light_from_above_stays(ground):
    """Lit by the cosine between its surface and the light."""
    ground = plain(*SIZE, GROUNDS[ground])
    down, across = torch.linspace(-1, 1, SIZE[0])[:, None] / 0.6, torch.linspace(-1, 1, SIZE[1])[None] / 0.45
    near = (1 - down**2 - across**2).clamp(min=0).sqrt()
    lit = (0.6 * near - 0.8 * down).clamp(min=0.02)
    ball = ellipse(SIZE, (0.5, 0.5), (0.3, 0.225))
    assert is_none(over(ground, ball, torch.tensor(RED).view(3, 1, 1) * lit), ground)


@pytest.mark.parametrize("ground", GROUNDS)
def test_what_shades_off_towards_its_foot_stays(ground):
    """A glass that is clear below, a shirt that is dipped."""
    ground = plain(*SIZE, GROUNDS[ground])
    strength = (1.5 - torch.arange(SIZE[0]) / 80).clamp(0.3, 1)[:, None].expand(SIZE)
    assert is_none(over(ground, box(20, 110, 75, 125) * strength, RED), ground)


@pytest.mark.parametrize("rows", [(30, 40), (34, 50)])
def test_a_pale_title_high_on_a_book_is_not_its_foot(rows):
    """Less stands above it than lies below."""
    ground = plain(*SIZE, WHITE)
    picture = over(over(ground, box(20, 120, 70, 130), (0.2, 0.1, 0.3)), box(*rows, 78, 122), (0.8, 0.75, 0.8))
    assert is_none(picture, ground)


@pytest.mark.parametrize(("ground", "strength"), [("slate", 0.25), ("black", 0.15)])
def test_what_is_mostly_something_else_stays(ground, strength):
    """Striped trousers below a jacket: what of them is like the jacket turned over is the less."""
    ground = plain(*SIZE, GROUNDS[ground])
    picture, opacity = bottle(ground)
    stripes = box(FOOT, SIZE[0], 80, 120) * ((torch.arange(SIZE[1]) // 8) % 2)
    assert is_none(
        over(laid_over(picture, opacity, strength * torch.ones(SIZE)), stripes * 0.5, (0.2, 0.6, 0.9)), ground
    )


@pytest.mark.parametrize("ground", ["slate", "black"])
@pytest.mark.parametrize(
    ("label", "said"), [((95, 99, 94, 106), "none"), ((85, 95, 90, 110), "in doubt"), ((80, 95, 88, 112), "certain")]
)
def test_the_less_there_is_to_be_turned_over_the_less_is_said(label, said, ground):
    """Of a plain jar whose lower part the picture cuts off: with a small label little tells its image from another foot."""
    ground = plain(*SIZE, GROUNDS[ground])
    picture = over(over(ground, JAR, RED), box(*label), (0.9, 0.85, 0.6))
    found = found_in(laid_over(picture, JAR, 0.4 * torch.ones(SIZE)), ground)
    assert said == ("none" if not found.where.any() else "certain" if found.certain else "in doubt")


@pytest.mark.parametrize("ground", GROUNDS)
def test_a_paler_one_of_the_same_below_it_is_another_product(ground):
    """Two macarons, a stack of tins: each alike above and below, so that moved down it is the next."""
    ground = plain(*SIZE, GROUNDS[ground])
    picture = ground
    for top, colour in ((25, RED), (65, (0.6, 0.35, 0.35))):
        picture = over(picture, box(top, top + 40, 70, 130), colour)
        picture = over(picture, box(top + 15, top + 25, 75, 125), WHITE if top == 25 else (0.7, 0.7, 0.7))
    assert is_none(picture, ground)


def test_what_grows_stronger_away_from_the_line_stays():
    """Sand that has run to the foot of a glass."""
    ground = plain(*SIZE, BLACK)
    picture = over(ground, box(20, 75, 80, 120), (0.5, 0.45, 0.3))
    strength = ((torch.arange(SIZE[0]) - 75) / 45).clamp(0.08, 1)[:, None].expand(SIZE)
    below, its = turned_over(picture, box(20, 75, 80, 120), 75)
    assert is_none(over(picture, its * strength, below), ground)


def test_a_can_on_another_is_none():
    ground = plain(*SIZE, SLATE)
    can, label = box(20, 70, 75, 125), box(30, 48, 82, 118)
    below = over(over(ground, box(70, 120, 75, 125), PINK), box(80, 98, 82, 118), (0.6, 0.55, 0.5))
    assert is_none(over(over(below, can, RED), label, (0.9, 0.85, 0.6)), ground)


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


def test_what_may_be_one_is_refused():
    ground = plain(*SIZE, WHITE)
    picture, opacity = bottle(ground)
    with pytest.raises(UnsureError, match="looks like the upper one turned over"):
        find_product(laid_over(picture, opacity, fading(0.4, 40)))


def test_the_whole_outline_turned_over_is_mirrored_where_a_part_of_it_does_not_stand_out():
    """A label that is nearly as bright as the ground it is mixed with."""
    picture, opacity = bottle(plain(*SIZE, SLATE))
    shown, (_, its) = laid_over(picture, opacity, fading(0.4, 1000)), turned_over(picture, opacity)
    label = turned_over(picture, box(74, 92, 90, 110))[1]
    mask = (torch.maximum(opacity, its) - label).numpy() > 0.5
    assert not mask[FOOT:][label[FOOT:].numpy() > 0].any()
    mirrored = mirror_image(log_light(shown), mask).where
    assert mirrored[FOOT:][its[FOOT:].numpy() > 0].all()
