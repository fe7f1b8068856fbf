"""cast_shadow: a hard shadow is left out of what is found; what only looks like one stays."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.pfv_core.found.product import find_product
from pfv_mepa.pfv_core.found.shadow import cast_shadow, log_light
from pfv_mepa.pfv_core.found.unsure import UnsureError

from .found_pictures import BLUE, RED, agreement, ellipse, over, plain

SIZE = (150, 200)
BLACK, GREY = (0.03, 0.03, 0.03), (0.45, 0.45, 0.45)
SKY = (0.32, 0.36, 0.42)  # of the light that a shadow leaves, as a share: more of blue
GROUNDS = {"white": (0.92, 0.92, 0.92), "linen": (0.75, 0.62, 0.5), "slate": (0.35, 0.37, 0.4)}


def box(top, bottom, left, right, size=SIZE):
    """(H, W) float, 1 inside; shares of the picture."""
    shown = torch.zeros(size)
    rows, columns = (
        (round(share * size[0]) for share in (top, bottom)),
        (round(share * size[1]) for share in (left, right)),
    )
    shown[slice(*rows), slice(*columns)] = 1
    return shown


def shaded(ground, covered, left=SKY):
    """A ground in whose light something stands: what is left of each colour, in linear light."""
    return ground * (1 - covered * (1 - torch.tensor(left).view(3, 1, 1) ** (1 / 2.2)))


BOTTLE = box(0.2, 0.85, 0.4, 0.55)
CAST = ellipse(SIZE, (0.78, 0.6), (0.05, 0.17)) * (1 - BOTTLE)


@pytest.mark.parametrize("ground", GROUNDS)
@pytest.mark.parametrize("colour", [RED, BLUE, BLACK])
def test_a_hard_shadow_is_left_out(ground, colour):
    picture = over(shaded(plain(*SIZE, GROUNDS[ground]), CAST), BOTTLE, colour)
    found = find_product(picture)
    assert agreement(found.opacity, BOTTLE) > 0.96
    assert agreement(((BOTTLE + CAST) > 0.5).float(), BOTTLE) < 0.85  # what it was taken with


def test_a_shadow_that_is_cut_off_touches_no_border_for_the_product():
    long = ellipse(SIZE, (0.78, 0.8), (0.05, 0.4)) * (1 - BOTTLE)
    found = find_product(over(shaded(plain(*SIZE, GROUNDS["linen"]), long), BOTTLE, RED))
    assert agreement(found.opacity, BOTTLE) > 0.96
    assert found.touches == ()


@pytest.mark.parametrize("share", [0.05, 0.45, 0.8])
def test_a_thing_that_reaches_out_low_keeps_its_foot_whatever_its_grey(share):
    """A shoe: its toe is where a shadow would be, of a shadow's colour."""
    shoe = torch.maximum(box(0.3, 0.85, 0.3, 0.5), box(0.68, 0.85, 0.5, 0.75))
    picture = over(plain(*SIZE), shoe, (share,) * 3)
    assert agreement(find_product(picture).opacity, shoe) > 0.96


def test_a_coloured_thing_beside_the_product_is_no_shadow():
    both = torch.maximum(BOTTLE, low := box(0.7, 0.85, 0.55, 0.75))
    picture = over(over(plain(*SIZE), BOTTLE, RED), low, BLUE)
    assert agreement(find_product(picture).opacity, both) > 0.96


@pytest.mark.parametrize(("top", "bottom"), [(0.2, 0.3), (0.4, 0.6), (0.75, 0.85)])
def test_a_grey_part_of_the_product_is_no_shadow(top, bottom):
    """A cap, a label, a foot."""
    picture = over(over(plain(*SIZE), BOTTLE, RED), box(top, bottom, 0.4, 0.55), GREY)
    assert agreement(find_product(picture).opacity, BOTTLE) > 0.96


def beside(cover):
    """A red bottle and something in shade: what of the two is taken for a shadow."""
    picture = over(shaded(plain(*SIZE), cover), BOTTLE, RED)
    mask = torch.maximum(BOTTLE, cover).numpy() > 0.5
    return torch.from_numpy(cast_shadow(log_light(picture), mask)).float()


def test_beside_a_product_that_looks_like_shade_itself_nothing_is_left_out():
    picture = over(over(shaded(plain(*SIZE), CAST), BOTTLE, RED), box(0.3, 0.6, 0.4, 0.55), GREY)
    mask = torch.maximum(BOTTLE, CAST).numpy() > 0.5
    assert not cast_shadow(log_light(picture), mask).any()


def test_what_is_in_shade_beside_the_product_is_its_shadow():
    assert agreement(beside(CAST), CAST) > 0.9


@pytest.mark.parametrize(
    "cover",
    [
        pytest.param(box(0.25, 0.4, 0.55, 0.8), id="high"),
        pytest.param(box(0.7, 0.8, 0.6, 0.8), id="not joined to it"),
        pytest.param(box(0.7, 0.85, 0.55, 0.8), id="a box on the same ground"),
        pytest.param(box(0.8, 0.86, 0.3, 0.65) * (1 - BOTTLE), id="a saucer"),
        pytest.param(box(0.8, 0.9, 0.55, 0.8), id="nearer to the viewer"),
    ],
)
def test_what_only_has_the_shade_s_colour_is_no_shadow(cover):
    assert not beside(cover).any()


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7])
def test_a_grey_base_wider_than_the_product_stays_whole(share):
    base = box(0.8, 0.86, 0.3, 0.65)
    picture = over(over(plain(*SIZE), base, (share,) * 3), box(0.2, 0.8, 0.4, 0.55), RED)
    assert agreement(find_product(picture).opacity, torch.maximum(base, box(0.2, 0.8, 0.4, 0.55))) > 0.96


def test_what_is_brighter_than_the_ground_is_no_shadow():
    lit = box(0.7, 0.85, 0.55, 0.8)
    picture = over(over(plain(*SIZE, GREY), lit, (0.9, 0.9, 0.9)), BOTTLE, RED)
    mask = torch.maximum(BOTTLE, lit).numpy() > 0.5
    assert not cast_shadow(log_light(picture), mask).any()


def test_the_shadow_of_a_product_as_white_as_its_ground_is_not_taken_for_it():
    picture = shaded(plain(*SIZE), CAST)
    with pytest.raises(UnsureError, match=r"may be the shadow of a product as bright as its ground. Paint the product"):
        find_product(picture)


@pytest.mark.parametrize(("height", "share"), [(0.3, 0.02), (0.6, 0.5)])
def test_what_is_darker_than_a_shadow_or_stands_up_is_no_shadow_alone(height, share):
    lying = ellipse(SIZE, (0.5, 0.5), (height / 2, 0.25))
    assert agreement(find_product(over(plain(*SIZE), lying, (share,) * 3)).opacity, lying) > 0.96


def test_nothing_has_no_shadow():
    picture = plain(*SIZE)
    assert not cast_shadow(log_light(picture), torch.zeros(SIZE).numpy() > 0).any()


def test_a_thing_all_in_the_shade_s_colour_is_found_whole_or_refused():
    """A grey bottle with a shadow of the same kind: which is which cannot be told."""
    picture = over(shaded(plain(*SIZE), CAST), BOTTLE, GREY)
    try:
        found = find_product(picture)
    except UnsureError:
        return
    assert float(found.opacity[BOTTLE == 1].min()) > 0.5
