"""shadow: a contact shadow darkens what is around the product's foot, and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.ad.shadow import add_contact_shadow, contact_shadow

from .weights import image


def box(height: int = 60, width: int = 80) -> Tensor:
    mask = torch.zeros(1, height, width, dtype=torch.bool)
    mask[:, 10:40, 30:50] = True
    return mask


def test_it_is_the_blurred_foot_of_the_definition():
    """Pixel by pixel: twice the Gaussian average of the lowest rows, at most 1."""
    size, mask = 8, box()
    foot = np.zeros((60, 80))
    foot[32:40, 30:50] = 1
    offsets = np.arange(-12, 13)
    kernel = np.exp(-0.5 * (offsets / 4) ** 2)
    kernel /= kernel.sum()
    expected = np.zeros((60, 80))
    for y in range(60):
        for x in range(80):
            window = np.pad(foot, 12)[y : y + 25, x : x + 25]
            expected[y, x] = min(1.0, 2 * float(kernel @ window @ kernel))
    assert np.abs(contact_shadow(mask, size)[0].numpy() - expected).max() < 1e-5


def test_it_is_deepest_at_the_foot_and_gone_at_the_top_and_far_away():
    shadow = contact_shadow(box(), 8)[0]
    below = shadow[40:, 40]
    assert below[0] > 0.6
    assert (below.diff() <= 0).all()
    assert (shadow[:20] == 0).all()
    assert (shadow[53:] == 0).all()
    assert (shadow[:, :17] == 0).all()
    assert torch.allclose(shadow, shadow.flip(1), atol=1e-6)  # as the product is


def test_it_darkens_by_its_strength_and_leaves_the_rest_bit_for_bit():
    picture, mask = image(2, 3, 60, 80, seed=1), box().repeat(2, 1, 1)
    shadow = contact_shadow(mask, 8)[:, None].expand(-1, 3, -1, -1)
    dark = add_contact_shadow(picture, mask, 0.5, 8)
    assert torch.equal(dark[shadow == 0], picture[shadow == 0])
    assert (dark[shadow > 0] < picture[shadow > 0]).all()
    torch.testing.assert_close(dark, picture * (1 - 0.5 * shadow))
    assert add_contact_shadow(picture, mask, 0.0, 8) is picture


def test_without_a_size_it_is_a_tenth_of_each_product_s_height():
    """In a banner too: around a small product there is no dark ring."""
    small = torch.zeros(1, 60, 80, dtype=torch.bool)
    small[:, 32:40, 30:50] = True
    masks = torch.cat([box(), small])  # 30 and 8 rows high
    found = contact_shadow(masks, 0)
    torch.testing.assert_close(found[:1], contact_shadow(box(), 3))
    torch.testing.assert_close(found[1:], contact_shadow(small, 1))
    assert (found[1, :32] == 0).all()


def test_every_product_stands_on_its_own_lowest_row():
    masks = torch.cat([box(), box().roll(10, 1)])
    together = contact_shadow(masks, 6)
    for item in range(2):
        torch.testing.assert_close(together[item : item + 1], contact_shadow(masks[item : item + 1], 6))
    assert together[1, 50, 40].item() == pytest.approx(together[0, 40, 40].item())


def test_a_product_at_the_lower_border_has_its_shadow_beside_it():
    mask = box().roll(20, 1)
    assert mask[0, -1].any()
    shadow = contact_shadow(mask, 8)[0]
    assert shadow[-1, 28] > 0.1
    assert shadow[-1, 5] == 0


@pytest.mark.parametrize(
    ("strength", "size", "message"),
    [
        (1.5, 8, "shadow_strength is 1.5, expected 0 to 1"),
        (-0.1, 8, "shadow_strength is -0.1, expected 0 to 1"),
        (float("nan"), 8, "shadow_strength is nan"),
        (0.5, -1, "shadow_size is -1 pixels, expected 1 or more, or 0"),
    ],
)
def test_values_out_of_range_are_refused(strength, size, message):
    with pytest.raises(ValueError, match=message):
        add_contact_shadow(image(1, 3, 60, 80, seed=2), box(), strength, size)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"image is \(1, 3, 60, 80\), product_mask \(2, 60, 80\): give both the same"):
        add_contact_shadow(image(1, 3, 60, 80, seed=3), box().repeat(2, 1, 1), 0.5, 8)
    with pytest.raises(ValueError, match="product_mask is empty"):
        contact_shadow(box() & False, 8)


@pytest.mark.parametrize("size", [1, 8, 90])
def test_a_blur_in_blocks_is_the_blur_of_the_whole(size):
    """A wide foot over several blocks, some of them short, against one matrix for the whole length."""
    mask = torch.zeros(1, 130, 401, dtype=torch.bool)
    mask[0, 20:100, 30:390] = True
    mask[0, 97:, 100:140] = True
    lowest = 129
    foot = mask & (torch.arange(130) > lowest - size)[None, :, None]
    radius, places = math.ceil(1.5 * size), [torch.arange(length, dtype=torch.float64) for length in (130, 401)]
    far = [(place[:, None] - place).abs() for place in places]
    total = torch.exp(-2 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / size) ** 2).sum()
    rows, columns = (torch.where(each <= radius, torch.exp(-2 * (each / size) ** 2) / total, 0.0) for each in far)
    expected = (2 * (rows @ foot[0].double() @ columns)).clamp_max(1)
    assert (contact_shadow(mask, size)[0] - expected).abs().max() < 1e-5
