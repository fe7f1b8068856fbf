"""What surrounds a product in a picture, against what should: the ring around it, its halo, and how far off it is.

A picture whose product is the photo's own pixels shows here whether the rest was made for that product: the outline of
another one, some pixels off, is a halo. Images are (B, 3, H, W) float, 0..1, RGB; masks are (B, H, W) bool.
"""

from __future__ import annotations

import math

import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from pfv_core.region.distance import erode_mask, grow

RING = 1 / 16  # of the image's side: how far around the product the ring reaches
SKIN = 1 / 128  # of the image's side: rim of the product whose colours are mixed with its surroundings'
LEAST_CONTRAST = 0.3  # RGB distance to the product's colour under which a pixel of the truth says nothing of a halo
HALO = 0.5  # of the way to the product's colour: from here on a pixel looks more like the product


def ring_around(product: Tensor) -> Tensor:
    """(B, H, W) bool: outside the product, and within RING of it.

    Args:
        product: (B, H, W) float coverage, 0 = nothing of the product.
    """
    covered = product > 0
    return grow(covered, round(RING * product.shape[2])) & ~covered


def ring_psnr(image: Tensor, truth: Tensor, product: Tensor) -> Tensor:
    """(B,) float64, decibels: -10 log10 of the mean squared error in the ring around the product; higher = nearer.

    Args:
        image, truth: (B, 3, H, W).
        product: (B, H, W) float coverage.
    """
    _check(image, truth, product)
    ring = ring_around(product)
    squared = (image - truth).double().square().mean(1) * ring
    return -10 * (squared.flatten(1).sum(1) / ring.flatten(1).sum(1)).log10()


def halo(image: Tensor, truth: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """How much of the ring around a product has gone towards the product's colour.

    Args:
        image, truth: (B, 3, H, W); the truth shows the product where it should be, with its shadow.
        product: (B, H, W) float coverage.

    Formula: t = <image - truth, colour - truth> / |colour - truth|^2 at each pixel of the ring, where colour is the
    product's own at its nearest pixel that is not of its mixed rim. A pixel counts where |colour - truth| is LEAST_CONTRAST or
    more. It says of a halo only what surrounds a product evenly: a pattern that lies elsewhere than the truth's may have the
    product's colour by itself.

    Returns:
        (B,) share of these pixels with t > HALO, and (B,) mean of t within 0..1: 0 = none, 1 = the whole ring looks like
        the product. NaN where no pixel counts.
    """
    _check(image, truth, product)
    towards = (_nearest_color(truth, product) - truth).double()
    length = towards.square().sum(1)
    counts = ring_around(product) & (length.sqrt() >= LEAST_CONTRAST)
    gone = ((image - truth).double() * towards).sum(1) / length.clamp_min(1e-12)
    number = counts.flatten(1).sum(1)
    share = ((gone > HALO) & counts).flatten(1).sum(1) / number
    strength = (gone.clamp(0, 1) * counts).flatten(1).sum(1) / number
    return share.double(), strength


def _nearest_color(truth: Tensor, product: Tensor) -> Tensor:
    """(B, 3, H, W): at each pixel the colour of the nearest one inside the product; NaN where there is no inside."""
    inside = erode_mask(product == 1, round(SKIN * product.shape[2]))
    colors = torch.full_like(truth, math.nan)
    for index, mask in enumerate(inside):
        if bool(mask.any()):
            nearest = distance_transform_edt(~mask.numpy(), return_distances=False, return_indices=True)
            rows, columns = torch.from_numpy(nearest).long()
            colors[index] = truth[index][:, rows, columns]
    return colors


def _check(image: Tensor, truth: Tensor, product: Tensor) -> None:
    if image.ndim != 4 or image.shape != truth.shape or product.shape != (image.shape[0], *image.shape[2:]):
        raise ValueError(
            f"image is {tuple(image.shape)}, truth {tuple(truth.shape)}, product {tuple(product.shape)}: expected "
            "(B, 3, H, W) twice and (B, H, W)"
        )
