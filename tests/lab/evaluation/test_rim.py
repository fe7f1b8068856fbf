"""The ring around a product, its halo and its error, on pictures made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lab.evaluation.rim import halo, ring_around, ring_psnr

SIZE = 64  # a ring of 4 pixels, a skin of none
RED, GREY = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.5, 0.5, 0.5])


def scene() -> tuple[torch.Tensor, torch.Tensor]:
    """A red square of 16 pixels on grey, and its coverage."""
    product = torch.zeros(1, SIZE, SIZE)
    product[:, 24:40, 24:40] = 1
    image = torch.where(product[:, None] > 0, RED.view(1, 3, 1, 1), GREY.view(1, 3, 1, 1))
    return image, product


def test_the_ring_is_a_sixteenth_of_the_side_wide_and_outside_what_is_covered_at_all():
    _, product = scene()
    product[:, 24, 24:40] = 0.1
    ring = ring_around(product)
    assert bool(ring[0, 32, 20:24].all())
    assert bool(ring[0, 32, 40:44].all())
    assert not ring[0, 32, 19]
    assert not ring[0, 32, 44]
    assert not bool((ring & (product > 0)).any())
    assert not ring[0, 20, 20]  # round corners


def test_the_truth_has_no_halo_and_no_error():
    truth, product = scene()
    share, strength = halo(truth, truth, product)
    assert (share.item(), strength.item()) == (0.0, 0.0)
    assert ring_psnr(truth, truth, product).item() == math.inf


def test_a_product_some_pixels_off_is_a_halo():
    truth, product = scene()
    ring = ring_around(product)
    image = truth.clone()
    image[0, :, 24:40, 40:42] = RED.view(3, 1, 1)  # two columns of its own outline
    share, strength = halo(image, truth, product)
    part = 32 / int(ring.sum())
    assert share.item() == pytest.approx(part)
    assert strength.item() == pytest.approx(part)
    error = 0.75 / 3 * part  # of 32 pixels, 0.5 in each channel
    assert ring_psnr(image, truth, product).item() == pytest.approx(-10 * math.log10(error), abs=1e-4)


def test_a_faint_smear_counts_in_the_strength_alone():
    truth, product = scene()
    image = torch.where(ring_around(product)[:, None], truth + 0.4 * (RED.view(1, 3, 1, 1) - truth), truth)
    share, strength = halo(image, truth, product)
    assert share.item() == 0.0
    assert strength.item() == pytest.approx(0.4)


def test_another_colour_is_an_error_and_no_halo():
    truth, product = scene()
    image = torch.where(ring_around(product)[:, None], torch.tensor([0.0, 0.9, 0.9]).view(1, 3, 1, 1), truth)
    share, strength = halo(image, truth, product)
    assert (share.item(), strength.item()) == (0.0, 0.0)
    assert ring_psnr(image, truth, product).item() < 8


def test_what_is_the_products_colour_in_the_truth_does_not_count():
    truth, product = scene()
    truth[0, :, :, 40:] = torch.tensor([0.95, 0.0, 0.0]).view(3, 1, 1)  # the right of the scene is red as well
    image = truth.clone()
    image[0, :, :, 40:] = RED.view(3, 1, 1)
    assert halo(image, truth, product)[0].item() == 0.0
    truth[:] = RED.view(1, 3, 1, 1)
    assert halo(truth, truth, product)[0].isnan().item()


@pytest.mark.parametrize(("contrast", "counts"), [(0.29, False), (0.31, True)])
def test_a_product_that_is_nearly_the_grounds_colour_has_no_halo_to_speak_of(contrast, counts):
    truth, product = scene()
    ground = RED - torch.tensor([contrast, 0.0, 0.0])
    truth = torch.where(product[:, None] > 0, truth, ground.view(1, 3, 1, 1))
    image = torch.where(ring_around(product)[:, None], RED.view(1, 3, 1, 1), truth)
    share, strength = halo(image, truth, product)
    assert (share.item(), strength.item()) == (pytest.approx(1.0), pytest.approx(1.0)) if counts else share.isnan()


def test_each_side_is_held_against_the_colour_that_is_nearest():
    """A product of two colours: a smear of the right one on the right side counts, the same colour on the left does not."""
    truth, product = scene()
    truth[0, :, 24:40, 32:40] = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    right, left = truth.clone(), truth.clone()
    right[0, :, 26:38, 40:43] = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    left[0, :, 26:38, 21:24] = torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    assert halo(right, truth, product)[0].item() == pytest.approx(36 / int(ring_around(product).sum()))
    assert halo(left, truth, product)[0].item() == 0.0


def test_a_product_without_an_inside_has_no_halo_to_speak_of():
    truth, product = scene()
    assert halo(truth, truth, product * 0.5)[0].isnan().item()


def test_pictures_of_other_sizes_are_refused():
    truth, product = scene()
    with pytest.raises(ValueError, match=r"image is \(1, 3, 64, 64\), truth \(1, 3, 64, 64\), product \(1, 32, 32\)"):
        ring_psnr(truth, truth, product[:, :32, :32])
