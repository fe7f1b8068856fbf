"""ComfyUI's IMAGE to the core's layout and precision, and back; its MASKs are read by `pfv_core.masks`."""

from __future__ import annotations

import torch
from torch import Tensor

from ..pfv_core.masks import OVERSHOOT, to_float32


def image_to_core(image: Tensor, name: str) -> Tensor:
    """IMAGE -> (B, 3, H, W) float32 on the CPU, its values as they came.

    Raises:
        ValueError: an image with alpha, with another number of channels, or of whole numbers.
    """
    if image.ndim != 4:
        raise ValueError(f"{name} is {tuple(image.shape)}, expected an IMAGE (batch, height, width, 3)")
    if image.shape[-1] == 4:
        raise ValueError(
            f"{name} has 4 channels (RGBA), expected 3: use Split Image with Alpha, and connect the alpha as a mask"
        )
    if image.shape[-1] != 3:
        raise ValueError(f"{name} has {image.shape[-1]} channels, expected 3 (RGB)")
    return to_float32(image, name).movedim(-1, 1)  # BHWC -> BCHW


def depth_to_core(image: Tensor, name: str) -> Tensor:
    """`image_to_core` for a depth map, which may have a single channel: it stands for all three."""
    return image_to_core(image.expand(-1, -1, -1, 3) if image.ndim == 4 and image.shape[-1] == 1 else image, name)


def image_from_core(image: Tensor) -> Tensor:
    """(B, C, H, W) -> IMAGE."""
    return image.movedim(1, -1).contiguous()  # BCHW -> BHWC


def clamp_overshoot(image: Tensor) -> Tensor:
    """`within_range` for an image of which a part does not count: what is out by more, NaN included, stays as it is."""
    low = torch.where((image < 0) & (image >= -OVERSHOOT), 0.0, image)
    return torch.where((low > 1) & (low <= 1 + OVERSHOOT), 1.0, low)
