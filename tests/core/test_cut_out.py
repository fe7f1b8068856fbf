"""cut_out: resampling without fringe."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pfv_mepa.pfv_core.ad.cut_out import resize_cut_out, resize_image

from . import reference
from .tolerances import assert_close
from .weights import image, ramp


def disk(height: int = 40, width: int = 30) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((y - height / 2 + 0.5) / height) ** 2 + ((x - width / 2 + 0.5) / width) ** 2 < 0.24


SIZES = [(20, 15), (13, 22), (40, 30), (61, 47), (80, 60), (40, 1), (1, 30), (7, 30)]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_not_kept_has_no_influence(size):
    keep, picture = disk(), image(3, 40, 30, seed=1)
    plain = resize_cut_out(picture, keep, size)
    for value in (0.0, 1.0, 1e30, float("nan")):
        other = resize_cut_out(torch.where(keep, picture, value), keep, size)
        assert torch.equal(other[0], plain[0])
        assert torch.equal(other[1], plain[1])
    inverted = resize_cut_out(torch.where(keep, 1 - picture, picture), keep, size)
    assert not torch.equal(inverted[0], plain[0])


@pytest.mark.parametrize("size", SIZES)
def test_a_product_of_one_colour_has_no_fringe(size):
    """Neither the black that stands for what is cut away nor an overshoot comes into the rim."""
    colours, kept = resize_cut_out(torch.full((3, 40, 30), 0.75), disk(), size)
    assert kept.any()
    assert (colours[:, kept] - 0.75).abs().max() < 1e-6
    assert (colours[:, ~kept] == 0).all()


@pytest.mark.parametrize("size", [(20, 15), (27, 41), (61, 47)])
def test_it_is_the_mask_weighted_resize_of_the_reference(size):
    keep, picture = disk(), image(3, 40, 30, seed=2).double()
    colours, kept = resize_cut_out(picture, keep, size)
    rows, columns = (
        {kernel: reference.resize_weights(length, out, kernel) for kernel in ("bilinear", "bicubic")}
        for length, out in zip((40, 30), size, strict=True)
    )
    expected = reference.visible_pixels(picture.numpy(), keep.numpy(), rows, columns).clip(0, 1)
    share = rows["bilinear"] @ keep.numpy().astype(float) @ columns["bilinear"].T
    assert np.array_equal(kept.numpy(), share > 0.5)
    assert_close(colours[:, kept], expected[:, share > 0.5], torch.float32)


def test_all_kept_is_the_antialiased_resize():
    picture = ramp(3, 40, 30, low=0.0, high=1.0)
    colours, kept = resize_cut_out(picture, torch.ones(40, 30, dtype=torch.bool), (20, 15))
    assert kept.all()
    assert torch.equal(colours, resize_image(picture[None], (20, 15))[0])


@pytest.mark.parametrize("size", [(20, 15), (80, 60), (40, 1)])
def test_a_whole_image_is_resized_within_its_range(size):
    picture = (image(2, 3, 40, 30, seed=3) > 0.5).float()
    out = resize_image(picture, size)
    assert tuple(out.shape) == (2, 3, *size)
    assert out.min() >= 0
    assert out.max() <= 1
    assert out.mean().item() == pytest.approx(0.5, abs=0.03)


def test_the_same_size_is_the_same_tensor():
    picture = image(1, 3, 8, 9, seed=4)
    assert resize_image(picture, (8, 9)) is picture


def test_an_opacity_comes_along_and_weighs_the_colours():
    """Half of a 2x enlargement's source is translucent: its colour is its own, its opacity too."""
    opacity, picture = torch.ones(8, 8), torch.full((3, 8, 8), 0.2)
    opacity[:, 4:], picture[:, :, 4:] = 0.4, 0.8
    colours, resized = resize_cut_out(picture, opacity, (16, 16))
    assert resized.dtype == torch.float32
    assert (resized[:, :7] == 1).all()
    assert (colours[:, :, :7] - 0.2).abs().max() < 1e-6
    assert (resized[:, 10:] - 0.4).abs().max() < 1e-6
    assert (colours[:, :, 10:] - 0.8).abs().max() < 1e-6
    edge = resized[0, 7].item()  # 3/4 of the opaque neighbour, 1/4 of the other
    assert edge == pytest.approx(0.75 + 0.25 * 0.4, abs=1 / 255)
    assert colours[0, 0, 7].item() == pytest.approx((0.75 * 0.2 + 0.25 * 0.4 * 0.8) / (0.75 + 0.25 * 0.4), abs=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_of_an_opacity_what_is_0_has_no_influence(size):
    opacity, picture = disk() * 0.7, image(3, 40, 30, seed=5)
    plain = resize_cut_out(picture, opacity, size)
    other = resize_cut_out(torch.where(opacity > 0, picture, float("nan")), opacity, size)
    assert torch.equal(other[0], plain[0])
    assert torch.equal(other[1], plain[1])
    steps = 255 * plain[1]
    assert (steps - steps.round()).abs().max() < 1e-4
    assert plain[1].max() <= 0.7 + 1 / 255


def test_an_opacity_of_1_everywhere_stays_1():
    for size in SIZES:
        assert (resize_cut_out(image(3, 40, 30, seed=6), torch.ones(40, 30), size)[1] == 1).all()
