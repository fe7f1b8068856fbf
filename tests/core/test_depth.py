"""depth: the product's depth before what is visible of a reference's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.ad.depth import DepthFill, compose_depth, fill_along_rows, fill_hidden

from . import reference
from .weights import image, ramp, seeded

SIZE = (21, 34)


def masks(batch: int = 1) -> tuple[Tensor, Tensor]:
    """A product in the middle, and a reference whose hidden part is larger, off the middle and scattered."""
    product = torch.zeros(batch, *SIZE, dtype=torch.bool)
    product[:, 8:15, 10:20] = True
    visible = torch.rand(batch, *SIZE, generator=seeded(1)) > 0.05
    visible[:, 5:17, 14:30] = False
    return product, visible


def depths(batch: int = 1, channels: int = 3) -> tuple[Tensor, Tensor]:
    return image(batch, channels, *SIZE, seed=2), image(batch, channels, *SIZE, seed=3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("fill", list(DepthFill))
def test_shapes(batch, channels, fill):
    (foreground, background), (product, visible) = depths(batch, channels), masks(batch)
    out = compose_depth(foreground, product, background, visible, fill)
    assert out.shape == foreground.shape
    assert out.dtype == foreground.dtype


def test_values_by_hand():
    foreground, background = torch.full((1, 1, 1, 5), 0.9), ramp(1, 1, 1, 5, low=0.1, high=0.5)
    product, visible = (torch.tensor([[row]], dtype=torch.bool) for row in ([0, 1, 0, 0, 0], [1, 1, 1, 0, 1]))
    out = compose_depth(foreground, product, background, visible, "far")
    assert out.flatten().tolist() == pytest.approx([0.1, 0.9, 0.3, 0.0, 0.5])


def test_far_is_the_reference_pixel_by_pixel():
    (foreground, background), (product, visible) = depths(3), masks(3)
    out = compose_depth(foreground, product, background, visible, DepthFill.FAR)
    for item in range(3):
        arrays = (tensor[item].numpy() for tensor in (foreground, product, background, visible))
        expected = reference.compose_depth(*arrays, hidden=0.0)
        assert torch.equal(out[item], torch.from_numpy(expected))


def test_surroundings_keep_the_bits_of_product_and_visible_reference():
    (foreground, background), (product, visible) = depths(), masks()
    out = compose_depth(foreground, product, background, visible)
    own, seen = product[:, None].expand_as(out), (visible & ~product)[:, None].expand_as(out)
    assert torch.equal(out[own], foreground[own])
    assert torch.equal(out[seen], background[seen])
    hidden = out[~own & ~seen]
    assert (hidden >= background[seen].min()).all()
    assert (hidden <= background[seen].max()).all()


@pytest.mark.parametrize("fill", list(DepthFill))
def test_hidden_depth_has_no_influence(fill):
    (foreground, background), (product, visible) = depths(), masks()
    plain = compose_depth(foreground, product, background, visible, fill)
    for value in (0.0, 1.0, 1e30, float("inf"), float("nan")):
        other = torch.where(visible[:, None], background, value)
        other_foreground = torch.where(product[:, None], foreground, value)
        assert torch.equal(compose_depth(other_foreground, product, other, visible, fill), plain)
    changed = compose_depth(
        foreground, product, torch.where(visible[:, None], 1 - background, background), visible, fill
    )
    assert not torch.equal(changed, plain)


def test_the_reference_under_the_product_still_fills_from_there():
    """The product hides the reference's depth in the result, not from the fill."""
    (foreground, background), (product, visible) = depths(), masks()
    without = compose_depth(foreground, torch.zeros_like(product), background, visible)
    out = compose_depth(foreground, product, background, visible)
    outside = ~product[:, None].expand_as(out)
    assert torch.equal(out[outside], without[outside])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (8, 8), (21, 34), (33, 17)])
def test_one_visible_value_fills_everything(size):
    values, visible = torch.zeros(1, 2, *size), torch.zeros(1, 1, *size, dtype=torch.bool)
    visible[..., -1, 0] = True
    values[:, 0, -1, 0], values[:, 1, -1, 0] = 0.25, 0.75
    out = fill_hidden(values, visible)
    assert (out[:, 0] - 0.25).abs().max() < 1e-6
    assert (out[:, 1] - 0.75).abs().max() < 1e-6


def test_a_hidden_place_looks_like_its_own_side():
    values, visible = torch.zeros(1, 1, 32, 32), torch.ones(1, 1, 32, 32, dtype=torch.bool)
    values[..., 16:] = 1.0
    visible[..., 10:14, 4:8] = visible[..., 10:14, 24:28] = False
    out = fill_hidden(torch.where(visible, values, 0.0), visible)
    assert out[..., 10:14, 4:8].max() < 0.2
    assert out[..., 10:14, 24:28].min() > 0.8


def test_the_fill_is_smooth():
    """A slope with a hidden square: no step inside is larger than a few steps of the slope."""
    slope = torch.linspace(0, 1, 64).expand(1, 1, 64, 64)
    visible = torch.ones(1, 1, 64, 64, dtype=torch.bool)
    visible[..., 20:44, 20:44] = False
    out = fill_hidden(torch.where(visible, slope, 0.0), visible)
    assert out[..., 21:43, 21:43].diff(dim=-1).abs().max() < 0.1
    assert out[..., 21:43, 21:43].diff(dim=-2).abs().max() < 0.1


def filled_along_rows(values: Tensor, visible: Tensor) -> Tensor:
    """fill_along_rows of (H, W) values and mask, with what is hidden set to 0 first."""
    return fill_along_rows(torch.where(visible, values, 0.0)[None, None], visible[None, None])[0, 0]


def test_a_level_table_goes_on_behind_what_hid_it():
    """A far wall, and a table that comes nearer from its edge on: the edge stays where it is, and stays sharp."""
    row = torch.cat([torch.full((10,), 0.1), torch.linspace(0.4, 0.9, 14)])
    depth = row[:, None].expand(24, 31)
    visible = torch.ones(24, 31, dtype=torch.bool)
    visible[4:18, 9:22] = visible[6:20, 25:] = visible[2:12, :3] = False
    assert torch.equal(filled_along_rows(depth, visible), depth)
    product, background = torch.zeros(1, 24, 31, dtype=torch.bool), depth[None, None]
    assert torch.equal(compose_depth(background, product, background, visible[None]), background)


def test_a_wall_that_recedes_is_filled_as_it_is():
    slope = torch.linspace(0.2, 0.8, 31).expand(24, 31)
    visible = torch.ones(24, 31, dtype=torch.bool)
    visible[4:18, 9:22] = False
    torch.testing.assert_close(filled_along_rows(slope, visible), slope)


def test_rows_seen_on_one_side_keep_its_value_and_rows_seen_nowhere_take_that_of_their_neighbours():
    depth = torch.linspace(0.0, 1.0, 9)[:, None].expand(9, 12)
    visible = torch.ones(9, 12, dtype=torch.bool)
    visible[1, 5:] = visible[3, :8] = visible[5:7] = False
    out = filled_along_rows(depth, visible)
    assert torch.equal(out[[1, 3]], depth[[1, 3]])
    nowhere = out[5:7]
    assert nowhere.min() > depth[3, 0]
    assert nowhere.max() < depth[8, 0]


def test_every_channel_and_item_is_filled_by_its_own():
    values, visible = image(2, 3, 8, 9, seed=4), torch.ones(2, 1, 8, 9, dtype=torch.bool)
    visible[0, :, 2:5, 3:6] = visible[1, :, 4:, 6:] = False
    out = fill_along_rows(torch.where(visible, values, 0.0), visible)
    for item in range(2):
        for channel in range(3):
            assert torch.equal(out[item, channel], filled_along_rows(values[item, channel], visible[item, 0]))
    assert out[0, :, 3, 4] == pytest.approx((values[0, :, 3, 2] + values[0, :, 3, 6]) / 2)


def test_batch_is_per_item():
    (foreground, background), (product, visible) = depths(3), masks(3)
    together = compose_depth(foreground, product, background, visible)
    for item in range(3):
        one = slice(item, item + 1)
        alone = compose_depth(foreground[one], product[one], background[one], visible[one])
        assert torch.equal(together[item], alone[0])


def test_all_visible_is_the_plain_composite():
    (foreground, background), (product, _) = depths(), masks()
    out = compose_depth(foreground, product, background, torch.ones_like(product))
    assert torch.equal(out, torch.where(product[:, None], foreground, background))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtypes(dtype):
    (foreground, background), (product, visible) = depths(), masks()
    out = compose_depth(foreground.to(dtype), product, background.to(dtype), visible)
    assert out.dtype == dtype
    assert (out.float() - compose_depth(foreground, product, background, visible)).abs().max() < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reference_depth": (1, 3, 21, 30)},
            r"foreground_depth is \(1, 3, 21, 34\), reference_depth \(1, 3, 21, 30\)",
        ),
        ({"product_mask": (2, 21, 34)}, r"product_mask \(2, 21, 34\), visible_mask \(1, 21, 34\): give all the same"),
        ({"visible_mask": (1, 20, 34)}, r"visible_mask \(1, 20, 34\): give all the same batch and size"),
    ],
)
def test_shapes_that_differ_are_refused_with_their_numbers(changes, message):
    shapes = {"foreground_depth": (1, 3, *SIZE), "reference_depth": (1, 3, *SIZE)}
    shapes |= {"product_mask": (1, *SIZE), "visible_mask": (1, *SIZE)} | changes
    tensors = {name: torch.ones(shape) if "depth" in name else torch.ones(shape) > 0 for name, shape in shapes.items()}
    with pytest.raises(ValueError, match=message):
        compose_depth(**tensors)


def test_nothing_to_fill_from_is_refused_and_far_needs_nothing():
    (foreground, background), (product, visible) = depths(2), masks(2)
    visible[1] = False
    with pytest.raises(ValueError, match=r"no depth of the reference is visible.*: use fill far"):
        compose_depth(foreground, product, background, visible)
    out = compose_depth(foreground, product, background, visible, "far")
    assert out[1][~product[1].expand(3, -1, -1)].abs().max() == 0.0


def test_an_unknown_fill_is_refused_with_the_choices():
    (foreground, background), (product, visible) = depths(), masks()
    with pytest.raises(ValueError, match=r"fill is 'nearest', expected one of \['surroundings', 'far'\]"):
        compose_depth(foreground, product, background, visible, "nearest")
