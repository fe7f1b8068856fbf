"""What is not seen in a result is drawn here: regions, gaps and overlaps; a product, the ad's edge and its safe area; what of
an ad is not the photo's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ad.placement import Box

COLOURS = ((0.90, 0.35, 0.20), (0.15, 0.55, 0.85), (0.35, 0.70, 0.25), (0.75, 0.40, 0.80))  # region 1, 2, ...
REST = 0.25  # grey where no region rules
STRIPE = 8  # pixels of a preview; overlaps are striped black and white
OVERLAP_ABOVE = 1 + 1 / 255  # sum of the regions
OPACITY = 0.65
SAFE_LINE = (0.1, 0.8, 0.3)
CUT_OFF = (0.85, 0.1, 0.35)  # what only the latent needs
PAPER = 0.5  # grey around a product, whatever stands there
BLENDED = (1.0, 0.55, 0.0)  # orange
TRANSLUCENT = (0.1, 0.45, 1.0)  # blue
LEFT_OUT = (0.9, 0.0, 0.8)  # magenta
MARK_OPACITY = 0.7
LARGEST_SIDE = 1024  # pixels; a preview is for looking at


def region_preview(regions: list[Tensor], image: Tensor | None = None) -> Tensor:
    """Every region in a colour of its own, overlaps striped, the rest grey.

    Args:
        regions: up to 4, each (B, H, W) float, 0..1.
        image: (B or 1, 3, h, w), 0..1, shown under them, stretched to their size; None = nothing.

    Returns:
        (B, 3, H, W), 0..1, at most 1024 pixels a side. Where regions share a pixel their colours mix by their shares; where
        they add up to more than 1 it is striped.

    Raises:
        ValueError: more regions than there are colours.
    """
    if len(regions) > len(COLOURS):
        raise ValueError(f"{len(regions)} regions, expected at most {len(COLOURS)}")
    step = -(-max(regions[0].shape[1:]) // LARGEST_SIDE)
    shares = torch.stack([region[:, ::step, ::step].float() for region in regions], 1)  # (B, regions, h, w)
    total = shares.sum(1, keepdim=True)
    rest = (1 - total).clamp_min(0)
    colours = torch.tensor(COLOURS[: len(regions)])
    mixed = torch.einsum("brhw,rc->bchw", shares, colours) + REST * rest
    picture = mixed / total.clamp_min(1)
    if image is not None:
        under = F.interpolate(image.float(), size=picture.shape[2:], mode="bilinear", antialias=True).clamp(0, 1)
        picture = torch.lerp(under.expand_as(picture), picture, OPACITY)
    return torch.where(total > OVERLAP_ABOVE, _stripes(*picture.shape[2:]), picture)


def small_picture(image: Tensor) -> Tensor:
    """(B, C, H, W) -> every n-th pixel of it, at most 1024 pixels a side; the same tensor where it is that small."""
    step = _step(image)
    return image if step == 1 else image[:, :, ::step, ::step]


def _step(image: Tensor) -> int:
    return -(-max(image.shape[2:]) // LARGEST_SIDE)


def exactness_preview(ad: Tensor, blended: Tensor, translucent: Tensor, left_out: Tensor) -> Tensor:
    """An ad in which it is marked what of the product is not the photo's own pixels.

    Args:
        ad: (B, 3, H, W), 0..1.
        blended: (B, H, W) bool, True = blended with the generated image at the rim.
        translucent: (B, H, W) bool, True = mixed with the generated image, since the product is translucent here.
        left_out: (B, H, W) bool, True = of the product, but left to the generated image.

    Returns:
        (B, 3, h, w), 0..1, at most 1024 pixels a side: tinted orange where it is blended, blue where it is translucent,
        magenta where it is left out, everywhere else the ad. A larger ad is shown by every n-th pixel, marked where any pixel
        that it stands for is.
    """
    step = _step(ad)
    picture = small_picture(ad).float()
    for marked, colour in ((blended, BLENDED), (translucent, TRANSLUCENT), (left_out, LEFT_OUT)):
        seen = F.max_pool2d(marked[:, None].float(), step, ceil_mode=True) > 0
        tinted = torch.lerp(picture, torch.tensor(colour).view(1, 3, 1, 1), MARK_OPACITY)
        picture = torch.where(seen, tinted, picture)
    return picture


def _stripes(height: int, width: int) -> Tensor:
    """(height, width), 0 and 1 in diagonal stripes."""
    places = torch.arange(height)[:, None] + torch.arange(width)[None]
    return (places // STRIPE % 2).float()


def canvas_preview(placed: Tensor, product_mask: Tensor, size: tuple[int, int], safe: Box) -> Tensor:
    """A placed product on grey, with the safe area's outline and what is cut off at the end.

    Args:
        placed: (B, 3, H, W), 0..1, in the frame.
        product_mask: (B, H, W): bool, True = product; or float, 0..1, its opacity.
        size: height and width of the finished ad.
        safe: the safe area's box.

    Returns:
        (B, 3, h, w), 0..1, at most 1024 pixels a side; larger frames are shown by every n-th pixel.
    """
    opacity = product_mask[:, None].float()
    picture = torch.where(opacity > 0, PAPER + (placed.float() - PAPER) * opacity, PAPER)
    picture = _outlined(picture, safe, -(-max(picture.shape[2:]) // LARGEST_SIDE))
    cut = torch.tensor(CUT_OFF).view(1, 3, 1, 1)
    picture[:, :, size[0] :] = cut
    picture[:, :, :, size[1] :] = cut
    return small_picture(picture)


def _outlined(picture: Tensor, box: Box, width: int) -> Tensor:
    """A line of `width` pixels inside a box."""
    line = torch.zeros(picture.shape[2:], dtype=torch.bool)
    rows, columns = box.slices
    line[rows, columns] = True
    line[box.top + width : box.bottom - width, box.left + width : box.right - width] = False
    return torch.where(line, torch.tensor(SAFE_LINE).view(1, 3, 1, 1), picture)
