"""patch_mask: D -> D_p -> D_z."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.reference.fit import Fit, fit_geometry
from pfv_mepa.pfv_core.reference.patch_mask import rebinarize

from . import reference

FITS = ("crop", "pad", "stretch")


def square(size: int = 20, patch_size: int = 10):
    """A geometry in which nothing is resized."""
    return fit_geometry(size, size, size, patch_size, Fit.STRETCH)


def random_keep_mask(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    keep = rng.random((height, width)) >= rng.choice([0.0, 0.02, 0.3, 0.8])
    top, left = rng.integers(0, height), rng.integers(0, width)
    keep[top : top + rng.integers(0, height + 1), left : left + rng.integers(0, width + 1)] = False
    return keep


def test_all_visible_keeps_all_and_is_one_value_for_each_patch():
    patch_mask = rebinarize(torch.ones(2, 20, 20, dtype=torch.bool), square(), 0.0)
    assert patch_mask.patch_keep_mask.shape == (2, 2, 2)
    assert patch_mask.patch_keep_mask.dtype == torch.bool
    assert patch_mask.patch_keep_mask.all()
    assert not patch_mask.padding_mask.any()
    assert not patch_mask.hidden_pixels().any()
    assert patch_mask.kept_share.tolist() == [1.0, 1.0]


def test_one_hidden_pixel_hides_its_patch_and_no_other():
    keep = torch.ones(1, 20, 20, dtype=torch.bool)
    keep[0, 3, 17] = False
    patch_mask = rebinarize(keep, square())
    assert patch_mask.patch_keep_mask.tolist() == [[[True, False], [True, True]]]
    assert patch_mask.token_keep_mask.tolist() == [[True, False, True, True]]  # row by row
    assert patch_mask.kept_share.item() == 0.75
    hidden = torch.zeros(1, 20, 20, dtype=torch.bool)
    hidden[0, :10, 10:] = True
    assert torch.equal(patch_mask.hidden_pixels(), hidden)


@pytest.mark.parametrize("tolerated", [0, 1, 29, 57, 99])
def test_threshold_tolerates_exactly_k_hidden_pixels_and_not_one_more(tolerated):
    for count in (tolerated, tolerated + 1):
        keep = torch.ones(1, 20, 20, dtype=torch.bool)
        keep[0, 10:, :10].view(10, 10)[torch.arange(count) // 10, torch.arange(count) % 10] = False
        patch_mask = rebinarize(keep, square(), tolerated / 100)
        assert patch_mask.patch_keep_mask[0, 1, 0].item() is (count == tolerated)


def test_every_share_of_a_hundred_is_exact():
    """0.29 * 100 is 28.999999999999996 in binary arithmetic; 29 pixels are 0.29 of 100 all the same."""
    assert 0.29 * 100 < 29
    hidden_first = torch.arange(100).view(10, 10)
    for percent in range(100):
        keep = torch.ones(2, 20, 20, dtype=torch.bool)
        keep[0, :10, :10] = hidden_first >= percent
        keep[1, :10, :10] = hidden_first >= percent + 1
        patch_mask = rebinarize(keep, square(), percent / 100)
        assert patch_mask.patch_keep_mask[:, 0, 0].tolist() == [True, False], percent


def test_threshold_one_never_hides_a_patch():
    patch_mask = rebinarize(torch.zeros(1, 20, 20, dtype=torch.bool), square(), 1.0)
    assert patch_mask.patch_keep_mask.all()


@pytest.mark.parametrize("height", [255, 256, 257, 512, 700])  # rows of one patch; their count does not fit in a byte
@pytest.mark.parametrize("contiguous", [True, False])
def test_tall_patches_are_counted_exactly(height, contiguous):
    geometry = fit_geometry(2 * height, 3, 2, 1, Fit.STRETCH)  # patches of 1 and 2 columns
    keep = torch.ones(1, 2 * height, 3, dtype=torch.bool)
    keep[0, :height, 1:] = False  # all of the upper right patch
    keep[0, height, 0] = False  # one pixel of the lower left
    keep = keep if contiguous else keep.mT.contiguous().mT
    threshold = 1 - 1 / (2 * height)  # tolerates all but one pixel of the wide patches
    assert rebinarize(keep, geometry).patch_keep_mask.tolist() == [[[True, False], [False, True]]]
    assert rebinarize(keep, geometry, threshold).patch_keep_mask.tolist() == [[[True, False], [True, True]]]


def test_patches_are_those_of_the_reference_at_any_size_fit_and_threshold():
    rng, choose = np.random.default_rng(1), random.Random(1)
    compared = 0
    while compared < 250:
        height, width, fit = choose.randint(1, 60), choose.randint(1, 60), choose.choice(FITS)
        threshold = choose.choice([Fraction(0), Fraction(1, 10), Fraction(29, 100), Fraction(1, 2), Fraction(1)])
        rows, columns = reference.image_cells(height, width, 28, 7, fit)
        keep = random_keep_mask(rng, height, width)
        expected = reference.patch_keep_mask(keep, rows, columns, threshold)
        if not expected.any():
            continue
        geometry = fit_geometry(height, width, 28, 7, fit)
        patch_mask = rebinarize(torch.from_numpy(keep)[None], geometry, float(threshold))
        assert np.array_equal(patch_mask.patch_keep_mask[0].numpy(), expected), (height, width, fit, threshold)
        area = np.array([[len(row) * len(column) for column in columns] for row in rows])
        assert np.array_equal(patch_mask.padding_mask.numpy(), area == 0)
        assert patch_mask.kept_share.item() == pytest.approx(expected.sum() / (area > 0).sum())
        seen, unseen = (reference.pixels_of(each, rows, columns, height, width) for each in (expected, ~expected))
        assert np.array_equal(patch_mask.hidden_pixels()[0].numpy(), ~keep | (unseen & ~seen))
        compared += 1


def test_padding_patches_are_dropped_and_a_partly_padded_patch_is_kept():
    geometry = fit_geometry(40, 15, 40, 10, Fit.PAD)  # 15 columns start at 10: one whole patch and half of the next
    patch_mask = rebinarize(torch.ones(1, 40, 15, dtype=torch.bool), geometry)
    assert patch_mask.patch_keep_mask[0].tolist() == [[False, True, True, False]] * 4
    assert patch_mask.padding_mask.tolist() == [[True, False, False, True]] * 4
    assert patch_mask.kept_share.item() == 1.0
    assert not patch_mask.hidden_pixels().any()


def test_the_share_of_a_partly_padded_patch_is_that_of_its_own_pixels():
    geometry = fit_geometry(40, 15, 40, 10, Fit.PAD)
    keep = torch.ones(1, 40, 15, dtype=torch.bool)
    keep[0, :5, 10:] = False  # 25 of its 50 pixels, not of 100
    assert rebinarize(keep, geometry, 0.5).patch_keep_mask[0, 0].tolist() == [False, True, True, False]
    assert rebinarize(keep, geometry, 0.49).patch_keep_mask[0, 0].tolist() == [False, True, False, False]


def test_a_crops_rim_hides_no_patch_and_is_hidden_only_where_it_was_painted():
    """What lies outside the crop is not seen by the encoder, and yet not hidden: its depth may be used."""
    geometry = fit_geometry(20, 40, 20, 10, Fit.CROP)
    keep = torch.ones(1, 20, 40, dtype=torch.bool)
    keep[0, :, :10] = False  # cut off by the crop anyway
    patch_mask = rebinarize(keep, geometry)
    assert patch_mask.patch_keep_mask.all()
    assert torch.equal(patch_mask.hidden_pixels(), ~keep)
    assert not rebinarize(torch.ones_like(keep), geometry).hidden_pixels().any()


def test_a_pixel_that_was_painted_is_hidden_though_its_patch_is_kept():
    keep = torch.ones(1, 20, 20, dtype=torch.bool)
    keep[0, 3, 17] = False
    patch_mask = rebinarize(keep, square(), 0.5)
    assert patch_mask.patch_keep_mask.all()
    assert torch.equal(patch_mask.hidden_pixels(), ~keep)


def test_hiding_more_never_keeps_more_and_a_higher_threshold_never_hides_more():
    rng = np.random.default_rng(2)
    geometry = fit_geometry(30, 45, 28, 7, Fit.PAD)
    for _ in range(40):
        keep = torch.from_numpy(random_keep_mask(rng, 30, 45))[None]
        more = keep & torch.from_numpy(rng.random((1, 30, 45)) > 0.05)
        keep[0, 0, 0] = more[0, 0, 0] = True
        try:
            kept, kept_more = (rebinarize(mask, geometry, 0.5).patch_keep_mask for mask in (keep, more))
        except ValueError:
            continue
        assert not (kept_more & ~kept).any()
        assert not (kept & ~rebinarize(keep, geometry, 0.75).patch_keep_mask).any()


def test_batch_is_per_item():
    rng = np.random.default_rng(3)
    geometry = fit_geometry(30, 45, 28, 7, Fit.CROP)
    keep = torch.from_numpy(rng.random((3, 30, 45)) > 0.01)
    together = rebinarize(keep, geometry, 0.05)
    for item in range(3):
        alone = rebinarize(keep[item : item + 1], geometry, 0.05)
        assert torch.equal(together.patch_keep_mask[item], alone.patch_keep_mask[0])
        assert torch.equal(together.hidden_pixels()[item], alone.hidden_pixels()[0])


@pytest.mark.parametrize(
    ("keep", "threshold", "message"),
    [
        (torch.ones(20, 20, dtype=torch.bool), 0.0, r"keep_mask is \(20, 20\) torch.bool, expected \(B, H, W\)"),
        (torch.ones(1, 20, 20), 0.0, r"keep_mask is \(1, 20, 20\) torch.float32, expected .* torch.bool"),
        (torch.ones(1, 20, 24, dtype=torch.bool), 0.0, "keep_mask is 20x24, the image is 20x20: give both the same"),
        (torch.ones(1, 20, 20, dtype=torch.bool), 1.5, "threshold is 1.5, expected a share from 0 to 1"),
        (torch.ones(1, 20, 20, dtype=torch.bool), -0.1, "threshold is -0.1, expected a share from 0 to 1"),
        (torch.ones(1, 20, 20, dtype=torch.bool), float("nan"), "threshold is nan, expected a share from 0 to 1"),
    ],
)
def test_a_wrong_mask_or_threshold_is_refused_with_its_numbers(keep, threshold, message):
    with pytest.raises(ValueError, match=message):
        rebinarize(keep, square(), threshold)


def test_an_image_of_which_nothing_is_left_is_named():
    keep = torch.ones(3, 20, 20, dtype=torch.bool)
    keep[1, ::2] = False
    message = r"no patch of image 1 is left visible at threshold 0.25: .*\(its hidden share is 0.500\)"
    with pytest.raises(ValueError, match=message):
        rebinarize(keep, square(), 0.25)
