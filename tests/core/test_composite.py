"""composite: the product's own pixels over a generated image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.ad.composite import erode_mask, paste_back
from pfv_mepa.pfv_core.ad.opacity import core_of
from pfv_mepa.pfv_core.region.distance import fade
from pfv_mepa.pfv_core.region.nearest import grow

from . import reference
from .tolerances import HALF_DTYPES, assert_close
from .weights import image, ramp, seeded


def blob(height: int = 24, width: int = 31) -> Tensor:
    """A product that touches the left border and has a hole and a short spike."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[5:18, 0:20] = True
    mask[9, 7] = False
    mask[10:12, 20:22] = True
    return mask


def one_row(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)[None, None]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
def test_shapes(batch, channels):
    generated, product = (image(batch, channels, 24, 31, seed=seed) for seed in (1, 2))
    out, exact = paste_back(generated, product, blob().expand(batch, -1, -1))
    assert out.shape == generated.shape
    assert exact.shape == (batch, 24, 31)
    assert exact.dtype == torch.bool


def test_values_by_hand():
    generated, product = torch.zeros(1, 1, 1, 10), torch.ones(1, 1, 1, 10)
    mask = one_row(0, 1, 1, 1, 1, 1, 1, 1, 1, 0)
    hard, exact = paste_back(generated, product, mask, erode=2, feather=0)
    assert hard.flatten().tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
    assert exact.flatten().tolist() == [False] * 3 + [True] * 4 + [False] * 3
    soft, exact = paste_back(generated, product, mask, erode=2, feather=3)
    assert soft.flatten().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 1, 2 / 3, 1 / 3, 0])
    assert exact.flatten().tolist() == [False] * 3 + [True] * 4 + [False] * 3


@pytest.mark.parametrize(("erode", "feather"), [(0, 0), (0, 4), (1, 0), (2, 4), (2, 1), (3, 9)])
def test_it_is_the_reference_pixel_by_pixel(erode, feather):
    generated, product = (image(2, 3, 24, 31, seed=seed).double() for seed in (3, 4))
    masks = torch.stack([blob(), blob().flip(0)])
    masks[1, 12:14, 20:31] = True  # thin
    out, exact = paste_back(generated, product, masks, erode, feather)
    for item in range(2):
        expected, expected_exact = reference.paste_back(
            generated[item].numpy(), product[item].numpy(), masks[item].numpy(), erode, feather
        )
        assert np.array_equal(exact[item].numpy(), expected_exact)
        assert_close(out[item], expected, torch.float32)  # the opacity is a float32


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
def test_bits_of_the_product_inside_and_of_the_generated_image_outside(dtype):
    """Values of very different size, where a blend with opacity 1 or 0 would round."""
    generated, product = 1000 * image(1, 3, 24, 31, seed=5).to(dtype), 1e-3 * image(1, 3, 24, 31, seed=6).to(dtype)
    mask = blob()[None]
    out, exact = paste_back(generated, product, mask, 2, 4)
    inside, outside = exact[:, None].expand(-1, 3, -1, -1), ~mask[:, None].expand(-1, 3, -1, -1)
    assert torch.equal(out[inside], product[inside])
    assert torch.equal(out[outside], generated[outside])
    assert exact.any()


def test_nan_of_either_image_stays_where_it_is_shown():
    generated, product = image(1, 3, 24, 31, seed=7), image(1, 3, 24, 31, seed=8)
    mask = blob()[None]
    exact = paste_back(generated, product, mask)[1]
    generated = torch.where(exact[:, None], float("nan"), generated)
    product = torch.where(mask[:, None], product, float("nan"))
    assert torch.isfinite(paste_back(generated, product, mask)[0]).all()


def test_the_inputs_are_left_alone():
    generated, product, mask = image(1, 3, 24, 31, seed=9), image(1, 3, 24, 31, seed=10), blob()[None]
    kept = [tensor.clone() for tensor in (generated, product, mask)]
    paste_back(generated, product, mask)
    assert all(torch.equal(*pair) for pair in zip((generated, product, mask), kept, strict=True))


@pytest.mark.parametrize("pixels", [0, 1, 2, 5])
def test_erosion_takes_off_the_rim_and_the_images_border_is_no_rim(pixels):
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 6:, 4:] = True
    expected = torch.zeros(1, 20, 20, dtype=torch.bool)
    expected[0, 6 + pixels :, 4 + pixels :] = True
    assert torch.equal(erode_mask(mask, pixels), expected)


def test_batch_is_per_item():
    generated, product = (image(3, 3, 24, 31, seed=seed) for seed in (11, 12))
    masks = torch.stack([blob(), blob().flip(1), blob().flip(0)])
    together, exact = paste_back(generated, product, masks)
    for item in range(3):
        one = slice(item, item + 1)
        alone, alone_exact = paste_back(generated[one], product[one], masks[one])
        assert torch.equal(together[item], alone[0])
        assert torch.equal(exact[item], alone_exact[0])


def test_the_opacity_never_rises_with_the_distance_to_the_product():
    generated, product = torch.zeros(1, 1, 40, 40), torch.ones(1, 1, 40, 40)
    mask = torch.rand(1, 40, 40, generator=seeded(13)) > 0.02
    out, exact = paste_back(generated, product, mask, erode=2, feather=5)
    out = out[0, 0]
    assert ((out >= 0) & (out <= 1)).all()
    exact = torch.argwhere(exact[0])
    for y, x in torch.argwhere((out < 1) & mask[0]).tolist():
        distance = (exact - torch.tensor([y, x])).square().sum(1).min().item() ** 0.5
        assert out[y, x].item() == pytest.approx(max(0.0, 1 - distance / 3), abs=1e-6)


@pytest.mark.parametrize(
    ("erode", "feather", "ramp"),
    [
        (2, 4, [2 / 3, 1 / 3, 0]),  # not 0.8, 0.6, 0: the ramp ends where the mask does
        (4, 2, [2 / 3, 1 / 3, 0]),
        (3, 3, [3 / 4, 2 / 4, 1 / 4, 0]),
        (1, 4, [1 / 2, 0]),
        (0, 4, [0]),
        (4, 0, [0]),
    ],
)
def test_within_the_mask_the_ramp_falls_by_equal_steps_to_0(erode, feather, ramp):
    mask = torch.zeros(1, 1, 40, dtype=torch.bool)
    mask[..., :20] = True
    out, exact = paste_back(torch.zeros(1, 1, 1, 40), torch.ones(1, 1, 1, 40), mask, erode, feather)
    assert exact.sum() == 20 - erode
    assert out.flatten()[20 - erode :][: len(ramp)].tolist() == pytest.approx(ramp, abs=1e-6)
    assert (out.flatten()[20 - erode + len(ramp) - 1 :] == 0).all()


def test_erosion_is_round():
    """5 px off a corner that points into the mask take a quarter of a disk, not a square."""
    mask = torch.ones(1, 20, 20, dtype=torch.bool)
    mask[0, :10, :10] = False
    inside = erode_mask(mask, 5)[0]
    assert not inside[9 + 5, 3]
    assert inside[9 + 6, 3]
    assert not inside[9 + 3, 9 + 4]  # 5 px away
    assert inside[9 + 4, 9 + 4]  # 5.66 px away


# --- a thin part -----------------------------------------------------------------------------------------------------------


def bag(opacity: float = 1.0) -> tuple[Tensor, Tensor]:
    """A body of 20 x 50 pixels with a strap of 4; (1, 60, 70) its opacity, and where the strap is."""
    body, strap = torch.zeros(1, 60, 70), torch.zeros(1, 60, 70, dtype=torch.bool)
    body[:, 30:50, 10:60] = 1
    strap[:, 5:30, 24:28] = strap[:, 5:30, 42:46] = strap[:, 5:9, 24:46] = True
    return torch.where(strap, opacity, body), strap


@pytest.mark.parametrize("rim", ["within_mask", "beyond_mask"])
@pytest.mark.parametrize("feather", [0, 4])
@pytest.mark.parametrize("erode", [2, 3, 7])
def test_a_strap_thinner_than_the_rim_keeps_its_pixels_and_is_joined_to_the_body(erode, feather, rim):
    generated, product, (mask, strap) = torch.zeros(1, 3, 60, 70), image(1, 3, 60, 70, seed=23), bag()
    out, exact = paste_back(generated, product, mask, erode, feather, rim)
    corners = [
        [0, y, x] for y in (5, 6) for x in (24, 25, 44, 45)
    ]  # where it bends, it is thick enough for the erosion by 2
    assert all(place in corners for place in (strap & ~exact).nonzero().tolist())
    assert torch.equal(out[:, :, exact[0]], product[:, :, exact[0]])
    assert exact[0, 9 : 50 - erode, 25:27].all()
    assert not exact[0, 50 - erode :].any()
    assert not exact[0, :, 10 : 10 + erode].any()  # there the body has its rim


def test_a_strap_of_glass_is_mixed_by_its_own_opacity():
    generated, product, (mask, strap) = torch.zeros(1, 3, 60, 70), torch.ones(1, 3, 60, 70), bag(0.5)
    out, exact = paste_back(generated, product, mask)
    strap[:, :9] = False
    assert (out[:, :, strap[0]] == 0.5).all()
    assert not exact[strap].any()


@pytest.mark.parametrize("gap", range(1, 13))
def test_the_string_between_two_beads_stays(gap):
    y, x = np.mgrid[:20, :60]
    mask = np.hypot(y - 9, x - 10) < 5
    mask |= np.hypot(y - 9, x - 19 - gap) < 5
    mask[9:11, 10 : 19 + gap] = True
    out, _ = paste_back(torch.zeros(1, 1, 20, 60), torch.ones(1, 1, 20, 60), torch.from_numpy(mask)[None])
    assert (out[0, 0, 9:11, 10 : 19 + gap] > 0.3).all()  # of the rim between two that touch a third is left


@pytest.mark.parametrize("width", [2, 3, 4, 5, 6])
def test_no_gap_is_in_a_slanted_strap(width):
    """Its steps make it thick enough for the erosion here and there: neither there nor between is it torn."""
    y, x = np.mgrid[:90, :90]
    for angle in np.linspace(0, np.pi / 2, 10):
        along, across = x * np.sin(angle) + y * np.cos(angle), x * np.cos(angle) - y * np.sin(angle)
        mask = (abs(across) < width / 2) & (along < 80)
        mask[:20, :20] = True
        out = paste_back(torch.zeros(1, 1, 90, 90), torch.ones(1, 1, 90, 90), torch.from_numpy(mask)[None])[0][0, 0]
        middle = (abs(across) < 0.5) & (along > 30) & (along < 75)
        assert (out[middle] > 0.6).all()


@pytest.mark.parametrize("step", [3, 4, 5, 8])
@pytest.mark.parametrize("erode", [2, 4, 8, 16, 32])
def test_the_rim_of_a_mask_that_was_enlarged_in_steps_is_a_rim(step, erode):
    rows, columns = np.mgrid[:320, :320]
    disc = np.hypot(rows - 160, columns - 160) < 130
    stepped = disc[step // 2 :: step, step // 2 :: step].repeat(step, 0).repeat(step, 1)[None]
    taken_off = stepped & ~grow(stepped, -erode)
    assert (core_of(stepped, erode) & taken_off).sum() < 0.02 * taken_off.sum()


def test_a_corner_is_a_rim_however_it_is_turned():
    """What erosion leaves of a product without a thin part is all that stays."""
    y, x = np.mgrid[:120, :120] - 60
    for sides in (4, 5, 6, 60):
        for turn in np.linspace(0, 1, 7):
            angles = 2 * np.pi * (np.arange(sides) + turn) / sides
            mask = torch.from_numpy(np.all([np.cos(a) * x + np.sin(a) * y < 25 for a in angles], 0))[None]
            for erode in (1, 2, 9):
                exact = paste_back(*(torch.zeros(1, 1, 120, 120),) * 2, mask, erode)[1]
                assert torch.equal(exact, erode_mask(mask, erode))


# --- a soft mask ---------------------------------------------------------------------------------------------------------


def glass() -> Tensor:
    """An opaque frame around a translucent body, and a smoothed edge at its right: one row."""
    return torch.tensor([0, 0, 1, 1, 0.4, 0.4, 0.4, 1, 1, 0.6, 0])[None, None]


def test_a_translucent_part_is_mixed_by_its_own_opacity():
    generated, product = torch.full((1, 1, 1, 11), 0.5), torch.ones(1, 1, 1, 11)
    out, exact = paste_back(generated, product, glass(), erode=0, feather=0)
    assert out.flatten().tolist() == pytest.approx([0.5, 0.5, 1, 1, 0.7, 0.7, 0.7, 1, 1, 0.8, 0.5])
    assert torch.equal(exact, glass() == 1)


def test_a_translucent_part_is_no_rim():
    generated, product = torch.zeros(1, 1, 1, 11), torch.ones(1, 1, 1, 11)
    out, exact = paste_back(generated, product, glass(), erode=1, feather=0)
    assert out.flatten().tolist() == pytest.approx([0, 0, 0, 1, 0.4, 0.4, 0.4, 1, 1, 0, 0])
    assert exact.flatten().nonzero().flatten().tolist() == [3, 7, 8]
    out, _ = paste_back(generated, product, glass(), erode=1, feather=1)
    assert out.flatten().tolist() == pytest.approx([0, 0, 0.5, 1, 0.4, 0.4, 0.4, 1, 1, 0.3, 0])


def test_beyond_the_mask_a_translucent_edge_is_carried_outwards():
    generated, product = torch.zeros(1, 1, 1, 12), torch.ones(1, 1, 1, 12)
    mask = torch.tensor([0, 0, 0, 0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0, 0, 0])[None, None]
    out, exact = paste_back(generated, product, mask, 0, 1, "beyond_mask")
    assert out.flatten().tolist() == pytest.approx([0, 0, 0.2, *[0.4] * 6, 0.2, 0, 0])
    assert not exact.any()


def test_a_hard_mask_and_its_opacity_are_one():
    generated, product, mask = image(1, 3, 24, 31, seed=21), image(1, 3, 24, 31, seed=22), blob()[None]
    for rim in ("within_mask", "beyond_mask"):
        for one, other in zip(
            paste_back(generated, product, mask, 2, 4, rim),
            paste_back(generated, product, mask.float(), 2, 4, rim),
            strict=True,
        ):
            assert torch.equal(one, other)


def test_the_haze_of_an_automatic_cut_out_neither_hides_the_rim_nor_is_lost_where_nothing_is_eroded():
    generated, product, mask = torch.zeros(1, 1, 24, 31), torch.ones(1, 1, 24, 31), blob()[None]
    hazy = torch.where(mask, 1.0, 0.05)
    assert torch.equal(paste_back(generated, product, hazy, 2, 0)[1], erode_mask(mask, 2))
    assert (paste_back(generated, product, hazy, 0, 0)[0][0, 0][~mask[0]] == 0.05).all()


def test_a_mask_that_is_soft_everywhere_is_a_product():
    generated, product = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    out, exact = paste_back(generated, product, torch.full((1, 4, 4), 0.6), 0, 0)
    assert (out == 0.6).all()
    assert not exact.any()
    with pytest.raises(ValueError, match="product_mask is empty or covers the whole image"):
        paste_back(generated, product, torch.full((1, 4, 4), 0.1), 0, 0)


@pytest.mark.parametrize(
    ("generated", "mask", "erode", "feather", "message"),
    [
        (
            (1, 3, 8, 9),
            (1, 8, 8),
            2,
            4,
            r"generated is \(1, 3, 8, 9\), product \(1, 3, 8, 8\), product_mask \(1, 8, 8\)",
        ),
        ((1, 3, 8, 8), (2, 8, 8), 2, 4, r"product_mask \(2, 8, 8\): give all the same batch and size"),
        ((1, 3, 8, 8), (1, 8, 8), -1, 4, "erode is -1 and feather 4 pixels, expected 0 or more"),
        ((1, 3, 8, 8), (1, 8, 8), 2, -3, "erode is 2 and feather -3 pixels, expected 0 or more"),
    ],
)
def test_shapes_and_sizes_that_do_not_fit_are_refused_with_their_numbers(generated, mask, erode, feather, message):
    with pytest.raises(ValueError, match=message):
        paste_back(ramp(*generated), ramp(1, 3, 8, 8), torch.ones(mask, dtype=torch.bool), erode, feather)


def test_a_mask_that_selects_nothing_or_everything_or_erodes_away_is_refused():
    pixels = ramp(2, 3, 8, 8)
    mask = torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[0, 2:6, 2:6] = True
    with pytest.raises(ValueError, match="product_mask is empty or covers the whole image"):
        paste_back(pixels, pixels, mask)
    with pytest.raises(ValueError, match="product_mask is empty or covers the whole image"):
        paste_back(pixels, pixels, torch.ones_like(mask))
    mask[1, 3:5, 3:7] = True
    with pytest.raises(ValueError, match="nothing of product 1 is left after eroding its mask by 1 px: erode less"):
        paste_back(pixels, pixels, mask, erode=1)


def test_ramp_weights_are_blended_the_right_way_round():
    product, generated = ramp(1, 1, 1, 6, low=10.0, high=20.0), ramp(1, 1, 1, 6, low=0.0, high=5.0)
    out = paste_back(generated, product, one_row(1, 1, 1, 1, 0, 0), erode=1, feather=1)[0]
    expected = [10.0, 12.0, 14.0, 0.5 * 16.0 + 0.5 * 3.0, 4.0, 5.0]
    assert out.flatten().tolist() == pytest.approx(expected)


# --- a rim beyond the mask ---------------------------------------------------------------------------------------------


def beyond(generated: Tensor, product: Tensor, mask: Tensor, erode: int = 0, feather: int = 4) -> tuple[Tensor, Tensor]:
    return paste_back(generated, product, mask, erode, feather, "beyond_mask")


def test_beyond_the_mask_the_products_edge_fades_by_hand():
    generated, product = torch.zeros(1, 1, 1, 9), torch.full((1, 1, 1, 9), 0.1)
    product[..., 3:6] = 0.8
    image_, exact = beyond(generated, product, one_row(0, 0, 0, 1, 1, 1, 0, 0, 0), feather=1)
    assert image_.flatten().tolist() == pytest.approx([0, 0, 0.4, 0.8, 0.8, 0.8, 0.4, 0, 0])
    assert exact.flatten().tolist() == [False] * 3 + [True] * 3 + [False] * 3


@pytest.mark.parametrize(("erode", "feather"), [(0, 3), (2, 4), (1, 0)])
def test_beyond_the_mask_is_exact_inside_and_untouched_past_the_fade(erode, feather):
    generated, product, mask = image(1, 3, 24, 31, seed=14), image(1, 3, 24, 31, seed=15), blob()[None]
    out, exact = beyond(generated, product, mask, erode, feather)
    assert torch.equal(exact, erode_mask(mask, erode))
    inside = exact[:, None].expand_as(out)
    assert torch.equal(out[inside], product[inside])
    reached = (fade(exact, feather) > 0)[:, None].expand_as(out)
    assert torch.equal(out[~reached], generated[~reached])
    changed = (out != generated).any(1)
    assert changed[reached[:, 0] & ~mask].all() or feather <= erode


def test_beyond_the_mask_nothing_of_the_photos_background_is_seen():
    generated, product, mask = image(1, 3, 24, 31, seed=16), image(1, 3, 24, 31, seed=17), blob()[None]
    plain = beyond(generated, product, mask)[0]
    for value in (0.0, 1e30, float("nan")):
        assert torch.equal(beyond(generated, torch.where(mask[:, None], product, value), mask)[0], plain)


def test_the_default_rim_is_the_one_within_the_mask():
    generated, product, mask = image(1, 3, 24, 31, seed=18), image(1, 3, 24, 31, seed=19), blob()[None]
    default = paste_back(generated, product, mask, 2, 4)[0]
    assert torch.equal(default, paste_back(generated, product, mask, 2, 4, "within_mask")[0])
    assert not torch.equal(default, beyond(generated, product, mask, 2, 4)[0])
    with pytest.raises(ValueError, match="rim is 'outside', expected one of"):
        paste_back(generated, product, mask, 2, 4, "outside")


def test_a_generated_shadow_under_the_product_stays_bit_for_bit():
    generated, product, mask = torch.full((1, 3, 24, 31), 0.8), image(1, 3, 24, 31, seed=20), blob()[None]
    generated[:, :, 18:21, 0:20] = torch.linspace(0.1, 0.7, 3)[:, None]
    out = paste_back(generated, product, mask, 2, 4)[0]
    assert torch.equal(out[:, :, 18:], generated[:, :, 18:])
