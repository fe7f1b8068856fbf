"""A deformable convolution in torch alone, for BiRefNet where torchvision's compiled operators do not load.

They do not beside a torch for the CPU alone, since the registry's torchvision is linked against CUDA: there the host loads
BiRefNet, and its first convolution of this kind raises.
"""

from __future__ import annotations

import torch
from torch.nn import functional


def missing() -> bool:
    """Whether torchvision's own operator is not there."""
    return not hasattr(torch.ops.torchvision, "deform_conv2d")


def deform_conv2d(
    input: torch.Tensor,  # noqa: A002  (as torchvision names it)
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: int | tuple[int, int] = 0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """What torchvision's function of this name gives, for one group and stride 1.

    Args:
        input: (B, C, H, W).
        offset: (B, 2 * taps, H, W): how far each tap of the kernel moves, pixels, down and right in turn.
        weight: (C', C, kernel_h, kernel_w).
        bias: (C',).
        stride: (1, 1), as BiRefNet has it.
        padding: zeros around the picture, the same on all sides, or of height and width.
        mask: (B, taps, H, W): a factor for each tap.

    Raises:
        NotImplementedError: another stride.
    """
    if tuple(stride) != (1, 1):
        raise NotImplementedError(f"stride is {stride}: expected (1, 1)")
    batch, _, height, width = input.shape
    above, left = (padding, padding) if isinstance(padding, int) else padding
    rows, columns = offset.shape[2:]
    down, right = (torch.arange(length, dtype=input.dtype) for length in (rows, columns))
    output = input.new_zeros(batch, weight.shape[0], rows, columns)
    for tap, (y, x) in enumerate((y, x) for y in range(weight.shape[2]) for x in range(weight.shape[3])):
        at_y = down[:, None] + (y - above) + offset[:, 2 * tap]
        at_x = right + (x - left) + offset[:, 2 * tap + 1]
        grid = torch.stack([2 * at_x / (width - 1) - 1, 2 * at_y / (height - 1) - 1], dim=-1)
        seen = functional.grid_sample(input, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        if mask is not None:
            seen = seen * mask[:, tap, None]
        output += torch.einsum("oc,bchw->bohw", weight[:, :, y, x], seen)
    return output if bias is None else output + bias[:, None, None]
