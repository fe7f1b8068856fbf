"""Masked pixels and masked patch embedding (Eq. 1, 2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .fit import FitGeometry
from .patch_mask import PatchMask

# Resizing in 32-bit floats leaves values a few units in the last place outside 0..1; half an 8-bit step is noise.
RANGE_TOLERANCE = 1 / 512


def masked_pixel_values(
    reference_image: Tensor, patch_mask: PatchMask, mean: tuple[float, ...], std: tuple[float, ...]
) -> Tensor:
    """Fit a reference to the encoder so that no hidden pixel has any influence: the I_ref * D_p of Eq. 1.

    Args:
        reference_image: (B, 3, H, W) float, 0..1 where visible; anything, NaN included, where hidden or under a
            hidden patch.
        patch_mask: the visibility of this image on the encoder's grid; batch 1 serves every image.
        mean, std: the encoder's channel normalisation.

    Returns:
        (B, 3, input_size, input_size) float32 normalised pixels. Hidden patches and padding are 0, the mean colour.

    Raises:
        ValueError: sizes, channels or batches that differ, NaN or values outside 0..1 where the mask says visible.

    Paper: Eq. 1. **Deviation**: the paper does not resize. Here the resize is weighted by the mask, because a resize
    kernel mixes neighbours and would carry hidden pixels into kept patches. An output pixel whose kernel touches no
    hidden pixel is what CLIP's bicubic gives, bit for bit; one that touches any is the average of its visible
    neighbours; one with none is its patch's visible average.
    """
    keep_mask = visible_pixels(reference_image, patch_mask)[:, None]
    geometry = patch_mask.geometry
    image = torch.where(keep_mask, reference_image.float(), 0.0)
    pixels = place(resize(image, geometry, "bicubic"), geometry)
    if not bool(keep_mask.all()):
        pixels = torch.where(_touched(keep_mask, geometry), _visible_average(image, keep_mask, geometry, mean), pixels)
    pixels = (255.0 * pixels).clamp(0, 255).round() / 255.0  # the 8-bit image CLIP was trained on
    channel = (1, -1, 1, 1)
    pixels = (pixels - pixels.new_tensor(mean).view(channel)) / pixels.new_tensor(std).view(channel)
    return torch.where(_to_pixels(patch_mask.patch_keep_mask.to(pixels.device), geometry.patch_size), pixels, 0.0)


def resize(image: Tensor, geometry: FitGeometry, mode: str) -> Tensor:
    """(B, C, H, W) -> (B, C, scaled rows, scaled columns), antialiased; the same tensor where nothing changes."""
    size = (geometry.rows.scaled, geometry.columns.scaled)
    if image.shape[2:] == size:
        return image
    if size[1] == 1:  # torch 2.13 gives every row the first one's value where it resizes to a single column
        return F.interpolate(image.mT, size=size[::-1], mode=mode, antialias=True).mT
    return F.interpolate(image, size=size, mode=mode, antialias=True)


def place(image: Tensor, geometry: FitGeometry) -> Tensor:
    """Crop or pad a scaled image to the input square. Padding repeats the rim: it completes the patches it shares."""
    size = geometry.input_size
    top, left = geometry.rows.offset, geometry.columns.offset
    image = image[:, :, max(-top, 0) : max(-top, 0) + size, max(-left, 0) : max(-left, 0) + size]
    top, left = max(top, 0), max(left, 0)
    padding = (left, size - left - image.shape[3], top, size - top - image.shape[2])
    return F.pad(image, padding, mode="replicate") if any(padding) else image


def zero_hidden_tokens(patch_embeddings: Tensor, token_keep_mask: Tensor) -> Tensor:
    """`* D_z` of Eq. 1: (B, N, D) embeddings, zero where the (B, N) bool mask is False. A NaN does not survive.

    Paper: Eq. 1 and 2. **Deviation**: Eq. 2 broadcasts D_z over the channels from index P^2, one past the last pixel;
    with one value per patch every reading gives this broadcast.
    """
    return torch.where(token_keep_mask.to(patch_embeddings.device)[..., None], patch_embeddings, 0.0)


def visible_pixels(image: Tensor, patch_mask: PatchMask) -> Tensor:
    """What may have influence, for every image of the batch: (B, H, W) bool. Checks the image against it.

    Raises:
        ValueError: what `masked_pixel_values` raises.
    """
    return check_visible(image, patch_mask).expand(image.shape[0], -1, -1)


def check_visible(image: Tensor, patch_mask: PatchMask) -> Tensor:
    """`visible_pixels` of the masks that there are: (B or 1, H, W) bool. Memory does not grow with the batch.

    Raises:
        ValueError: what `masked_pixel_values` raises.
    """
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"reference_image is {tuple(image.shape)}, expected (B, 3, H, W): RGB without alpha")
    geometry, keep_mask = patch_mask.geometry, patch_mask.visible_pixels().to(image.device)
    if image.shape[2:] != keep_mask.shape[1:]:
        raise ValueError(
            f"reference_image is {image.shape[2]}x{image.shape[3]}, its patch mask was made for "
            f"{geometry.height}x{geometry.width}: give both the same image"
        )
    if keep_mask.shape[0] not in (1, image.shape[0]):
        raise ValueError(
            f"patch mask holds {keep_mask.shape[0]} masks for {image.shape[0]} images: expected 1 or one each"
        )
    shown = (torch.where(keep, one, 0.5) for one, keep in zip(image, keep_mask.expand(len(image), -1, -1), strict=True))
    ends = torch.stack([torch.stack([one.min(), one.max()]) for one in shown])
    low, high = ends[:, 0].min().item(), ends[:, 1].max().item()  # NaN propagates into both and fails the comparison
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):
        raise ValueError(
            f"reference_image spans {low:g}..{high:g} where it is visible, expected finite values from 0 to 1"
        )
    return keep_mask


def _touched(keep_mask: Tensor, geometry: FitGeometry) -> Tensor:
    """True where the resize of an output pixel reaches a hidden pixel: every weight of the hidden mask is not 0."""
    hidden = (~keep_mask).float()
    reach = resize(hidden, geometry, "bicubic").abs() + resize(hidden, geometry, "bilinear")
    return place(reach, geometry) > 0


def _visible_average(image: Tensor, keep_mask: Tensor, geometry: FitGeometry, mean: tuple[float, ...]) -> Tensor:
    """Mask-weighted resize with a positive kernel: sum(w * D * I) / sum(w * D); the patch's own where w * D is 0."""
    total = place(resize(image, geometry, "bilinear"), geometry)
    weight = place(resize(keep_mask.float(), geometry, "bilinear"), geometry)
    patch = geometry.patch_size
    patch_total, patch_weight = F.avg_pool2d(total, patch), F.avg_pool2d(weight, patch)
    neutral = image.new_tensor(mean).view(1, -1, 1, 1)
    fill = torch.where(patch_weight > 0, patch_total / patch_weight, neutral)
    return torch.where(weight > 0, total / weight, _to_pixels(fill, patch))


def _to_pixels(patches: Tensor, patch_size: int) -> Tensor:
    """(B, grid, grid) or (B, C, grid, grid) -> the same on pixels; a channel axis of 1 is added where it lacks."""
    if patches.ndim == 3:
        patches = patches[:, None]
    return patches.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)
