"""canvas: the pixels that a product has on it, and the ad's exact size."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.ad.canvas import AdCanvas
from pfv_mepa.pfv_core.ad.formats import FORMATS, AdFormat, ad_format
from pfv_mepa.pfv_core.ad.placement import Box, Layout, Placement, bounding_box

from .weights import image

SIZE = (200, 300)
PLAIN = Layout(margin=0.0)


def photo_mask(batch: int = 1) -> Tensor:
    """A product 20 wide and 40 high at column 30, row 10 of a 100x80 photo; every further one is 10 px lower."""
    mask = torch.zeros(batch, 80, 100, dtype=torch.bool)
    for index in range(batch):
        mask[index, 10 + 10 * index : 50 + 10 * index, 30:50] = True
    return mask


def custom(height: int, width: int, scale: str = "1") -> AdFormat:
    return ad_format("custom", (height, width), scale)


def test_a_product_at_its_own_size_keeps_its_bits():
    canvas = AdCanvas.plan(photo_mask(), custom(*SIZE), replace(PLAIN, scale_by="original", position="bottom_left"))
    photo = image(1, 3, 80, 100, seed=1) * 1.7  # no value that a rounding would keep
    placed, mask = canvas.place(photo, 0.25)
    assert tuple(placed.shape) == (1, 3, 200, 304)
    assert torch.equal(placed[0, :, 160:200, 0:20], photo[0, :, 10:50, 30:50])
    assert mask[0, 160:200, 0:20].all()
    assert mask.sum() == 800
    assert (placed[~mask[:, None].expand_as(placed)] == 0.25).all()


def test_the_photos_background_inside_the_products_box_does_not_come_along():
    mask = photo_mask()
    mask[0, 10:20, 30:40] = False  # a corner of the box
    canvas = AdCanvas.plan(mask, custom(*SIZE), replace(PLAIN, scale_by="original", position="bottom_left"))
    photo = torch.where(mask[:, None], image(1, 3, 80, 100, seed=1), float("nan"))
    placed, placed_mask = canvas.place(photo, 0.25)
    assert (placed[0, :, 160:170, 0:10] == 0.25).all()
    assert not placed_mask[0, 160:170, 0:10].any()
    assert torch.equal(placed[0, :, 170:200, 0:20], photo[0, :, 20:50, 30:50])


@pytest.mark.parametrize("share", [0.3, 0.61, 1.0])
def test_a_resized_product_is_8_bit_fills_its_box_and_knows_nothing_of_its_background(share):
    canvas = AdCanvas.plan(photo_mask(), custom(*SIZE), replace(PLAIN, share=share))
    photo = image(1, 3, 80, 100, seed=2)
    placed, mask = canvas.place(photo, 0.0)
    assert bounding_box(mask[0]) == canvas.placements[0].target
    steps = placed * 255
    assert (steps - steps.round()).abs().max() < 1e-4
    elsewhere = torch.where(photo_mask()[:, None], photo, float("nan"))
    assert torch.equal(canvas.place(elsewhere, 0.0)[0], placed)
    assert not torch.equal(canvas.place(1 - photo, 0.0)[0], placed)


def test_other_images_of_the_photo_land_on_the_product():
    """A ramp placed like the photo rises across the product's box, and channels do not matter."""
    canvas = AdCanvas.plan(photo_mask(), custom(*SIZE), replace(PLAIN, share=0.5))
    depth = torch.linspace(0, 1, 80)[None, None, :, None].expand(1, 1, 80, 100)
    placed, mask = canvas.place(depth, 0.0)
    column = placed[0, 0, 50:150, 150]
    assert column.diff().min() >= 0
    assert column[0].item() == pytest.approx(10 / 79, abs=0.01)
    assert column[-1].item() == pytest.approx(49 / 79, abs=0.01)
    assert (placed[~mask[:, None]] == 0).all()


def test_each_product_of_a_batch_has_its_own_place_and_one_depth_serves_all():
    masks = photo_mask(2)
    masks[1, :, 40:] = False
    canvas = AdCanvas.plan(masks, custom(*SIZE), replace(PLAIN, share=1.0, position="left"))
    photo = image(2, 3, 80, 100, seed=3)
    together, mask = canvas.place(photo, 0.5)
    for index in range(2):
        one = slice(index, index + 1)
        alone, alone_mask = AdCanvas.plan(masks[one], canvas.format, replace(PLAIN, share=1.0, position="left")).place(
            photo[one], 0.5
        )
        assert torch.equal(together[one], alone)
        assert torch.equal(mask[one], alone_mask)
    assert not torch.equal(mask[0], mask[1])
    assert canvas.place(photo[:1], 0.5)[0].shape[0] == 2


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_takes_a_product(name):
    canvas = AdCanvas.plan(photo_mask(), ad_format(name, (1, 1)), Layout(share=0.9))
    placed, mask = canvas.place(image(1, 3, 80, 100, seed=4), 0.0)
    assert tuple(placed.shape[2:]) == canvas.format.frame
    height, width = canvas.format.size
    assert not mask[:, height:].any()
    assert not mask[:, :, width:].any()
    assert canvas.report()["size"] == [width, height]


def test_finish_cuts_off_what_only_the_latent_needed():
    canvas = AdCanvas.plan(photo_mask(), custom(157, 301), PLAIN)
    sampled = image(2, 3, 160, 304, seed=5)
    assert torch.equal(canvas.finish(sampled), sampled[:, :, :157, :301])


@pytest.mark.parametrize(("scale", "sampled"), [("2", (320, 608)), ("1/2", (80, 152)), ("3/2", (240, 456))])
def test_finish_brings_another_scale_to_the_ads_size_without_a_shift(scale, sampled):
    canvas = AdCanvas.plan(photo_mask(), custom(157, 301, scale), PLAIN)
    assert canvas.format.sampling == sampled
    across = ((torch.arange(sampled[1]) + 0.5) / sampled[1]).expand(1, 3, *sampled)
    finished = canvas.finish(across)
    assert tuple(finished.shape) == (1, 3, 157, 301)
    expected = (torch.arange(301) + 0.5) / canvas.format.frame[1]
    assert (finished[0, 0, 80] - expected)[8:-8].abs().max() < 1e-4
    frame_sized = image(1, 3, *canvas.format.frame, seed=6)
    assert torch.equal(canvas.finish(frame_sized), frame_sized[:, :, :157, :301])


def test_report():
    canvas = AdCanvas.plan(photo_mask(), custom(157, 301, "2"), replace(PLAIN, scale_by="height", share=80 / 157))
    assert canvas.report() == {
        "size": [301, 157],
        "frame": [304, 160],
        "sampling": [608, 320],
        "sampling_scale": "2",
        "training": None,
        "trained_share": 0.1803,
        "advice": canvas.format.advice(),
        "products": [{"photo_box": [30, 10, 20, 40], "box": [130, 38, 40, 80], "scale": 2.0, "resized": True}],
    }


def test_an_original_larger_than_the_canvas_is_refused():
    with pytest.raises(ValueError, match="the product would be 20x40 pixels on a canvas of 30x32"):
        AdCanvas.plan(photo_mask(), custom(32, 30), replace(PLAIN, scale_by="original"))


def test_an_empty_cut_out_is_refused_by_its_number():
    masks = photo_mask(2)
    masks[1] = False
    with pytest.raises(ValueError, match="product 1: the cut-out is empty: its mask selects no product"):
        AdCanvas.plan(masks, custom(*SIZE), PLAIN)


def test_images_that_are_not_the_photos_are_refused():
    canvas = AdCanvas.plan(photo_mask(2), custom(*SIZE), PLAIN)
    with pytest.raises(ValueError, match=r"image is 90x80, the product photo was 100x80 \(width x height\)"):
        canvas.place(image(1, 3, 80, 90, seed=7), 0.0)
    with pytest.raises(ValueError, match="image is a batch of 3 for 2 products: give 1, or one each"):
        canvas.place(image(3, 3, 80, 100, seed=7), 0.0)
    with pytest.raises(ValueError, match="image is 300x200, the canvas is sampled at 304x200 and its frame is 304x200"):
        canvas.finish(image(1, 3, 200, 300, seed=7))


def test_a_product_that_vanishes_is_refused():
    mask = torch.zeros(1, 400, 400, dtype=torch.bool)
    mask[0].fill_diagonal_(True)
    with pytest.raises(ValueError, match="product 0 is thinner than a pixel at 10x10 pixels: raise share"):
        AdCanvas.plan(mask, custom(100, 100), replace(PLAIN, share=0.1)).place(image(1, 3, 400, 400, seed=8), 0.0)


def test_a_product_that_touches_the_photos_border_keeps_all_of_itself():
    mask = torch.zeros(1, 80, 100, dtype=torch.bool)
    mask[0, 40:, 60:] = True
    canvas = AdCanvas.plan(mask, custom(*SIZE), replace(PLAIN, share=0.5, position="bottom_right"))
    assert canvas.placements == (Placement(Box(40, 60, 40, 40), Box(100, 200, 100, 100)),)
    _placed, placed_mask = canvas.place(image(1, 3, 80, 100, seed=9), 0.0)
    assert placed_mask[0, 100:200, 200:300].all()
    assert placed_mask.sum() == 10000


def test_a_translucent_product_keeps_its_opacity_and_its_colours():
    opacity = photo_mask().float()
    opacity[0, 20:30, 35:45] = 0.4
    layout = replace(PLAIN, scale_by="original", position="bottom_left")
    canvas = AdCanvas.plan(opacity, custom(*SIZE), layout)
    photo = image(1, 3, 80, 100, seed=10)
    placed, placed_opacity = canvas.place(photo, 0.25)
    assert torch.equal(placed_opacity[0, 160:200, 0:20], opacity[0, 10:50, 30:50])
    assert torch.equal(placed[0, :, 160:200, 0:20], photo[0, :, 10:50, 30:50])
    assert placed_opacity.sum() == opacity.sum()
    resized = AdCanvas.plan(opacity, custom(*SIZE), replace(PLAIN, share=1.0)).place(photo, 0.25)[1]
    assert bounding_box(resized[0] > 0) == Box(0, 100, 200, 100)
    assert resized[0, 75, 150].item() == pytest.approx(0.4)
    assert resized[0, 5, 105] == 1


def test_the_haze_of_an_automatic_cut_out_is_no_part_of_the_products_box():
    hazy = torch.where(photo_mask(), 1.0, 0.05)
    plain, other = (AdCanvas.plan(mask, custom(*SIZE), PLAIN) for mask in (photo_mask(), hazy))
    assert other.placements == plain.placements


def test_what_was_not_placed_here_is_refused():
    canvas = AdCanvas.plan(photo_mask(), custom(*SIZE), replace(PLAIN, share=0.5))
    shown = canvas.place(image(1, 3, 80, 100, seed=11), 0.0)
    placed, mask = (part[..., : SIZE[0], : SIZE[1]] for part in shown)
    canvas = replace(canvas, shown=shown)
    canvas.check_placed(placed, mask)
    canvas.check_placed(placed, mask & (torch.arange(SIZE[1]) % 2 > 0))  # less than the product
    canvas.check_placed(placed + 1 / 255, mask)
    elsewhere = mask.clone()
    elsewhere[0, 0, 0] = True
    with pytest.raises(ValueError, match="product_mask selects 1 pixels where the canvas has not placed product 0"):
        canvas.check_placed(placed, elsewhere)
    tinted = placed.clone()
    tinted[:, 0] += 0.2
    with pytest.raises(ValueError, match="are not what the canvas placed there"):
        canvas.check_placed(tinted, mask)
    with pytest.raises(
        ValueError, match=f"{int(mask.sum())} pixels of product 0 in columns .* are not what the canvas"
    ):
        canvas.check_placed(placed + 3 / 255, mask)


@pytest.mark.parametrize("backdrop", [-0.1, 1.1, float("nan")])
def test_a_backdrop_that_is_no_grey_is_refused(backdrop):
    with pytest.raises(ValueError, match="expected a grey from 0"):
        AdCanvas.plan(photo_mask(), custom(*SIZE), PLAIN).place(image(1, 3, 80, 100, seed=7), backdrop)
