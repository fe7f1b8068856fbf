"""A product mask at a U-Net's input: a fifth channel of its first convolution (RefAdGen, Eq. 2).

A convolution is linear in its channels, so concat(z_t, M') through the widened kernel is

    W [z_t; M'] + b = (W_4 z_t + b) + W_5 M'

and the fifth channel can be added to what the unchanged convolution gives. With W_5 = 0, where training starts, that is the
unchanged U-Net to the bit. A file holds, as safetensors, either of

    mask_input.weight    (C, 1, 3, 3)   W_5 alone; the metadata `context_dim` says which U-Nets it fits
    conv_in.weight       (C, 5, 3, 3)   the whole kernel as diffusers names it, the mask last, where W_4 was trained too,
    conv_in.bias         (C,)           and its bias, if that was

The first of them may lie in a file of all that RefAdGen trains (`refadgen`). C is the width of the U-Net's first level: 320
in SD1.5 and in SDXL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "mask_input"
KERNEL = "mask_input.weight"
WHOLE_KERNEL = "conv_in.weight"
BIAS = "conv_in.bias"
CONTEXT_DIM = "context_dim"
REFERENCE = "reference."  # of the reference U-Net's tensors in a file of all that RefAdGen trains
REFERENCE_ATTENTION = re.compile(rf"{re.escape(REFERENCE)}.*\.attn1\.to_q\.weight")
LATENT_CHANNELS = 4
KERNEL_SIZE = 3
STRANGER = (
    0.5  # of another base if it is this far from it: fine-tuning moves a kernel by far less, two bases share nothing
)


class MaskInputFileError(ValueError):
    """A file that holds no mask input this package can use; the message says what was found and what fits."""


@dataclass(frozen=True)
class MaskInput:
    """The trained input layer.

    Attributes:
        kernel: W_5, (C, 1, 3, 3) float32.
        latent_kernel: W_4, (C, 4, 3, 3) float32, where it was trained too; None = the base's own.
        bias: b, (C,) float32, likewise.
        metadata: as the file has it.
        self_attentions: of the reference U-Net that lies in the file beside it; None = there is none.
    """

    kernel: Tensor
    latent_kernel: Tensor | None = None
    bias: Tensor | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    self_attentions: int | None = None

    @property
    def channels(self) -> int:
        """C."""
        return self.kernel.shape[0]


def new_mask_input(channels: int) -> MaskInput:
    """Where training starts: a fifth channel of zeros."""
    return MaskInput(torch.zeros(channels, 1, KERNEL_SIZE, KERNEL_SIZE))


def add_mask_input(hidden: Tensor, latent_mask: Tensor, kernel: Tensor) -> Tensor:
    """Add the fifth channel to what the first convolution gave.

    Args:
        hidden: (B, C, h, w) = W_4 z_t + b.
        latent_mask: (B, 1, h, w), 0..1, 1 = product; it is not scaled with the noise level, as z_t is.
        kernel: W_5, (C, 1, 3, 3).

    Returns:
        (B, C, h, w) in the dtype of `hidden`.

    Raises:
        ValueError: shapes that do not fit.

    Paper: RefAdGen, Eq. 2, concat(z_t, M'). **Deviation**: none in value; the sum is taken apart so that zeros change no
    bit. The paper does not say how M' is made of the mask: here a latent pixel has the share of it that the mask covers.
    """
    expected = (hidden.shape[0], 1, *hidden.shape[2:])
    if latent_mask.shape != expected:
        raise ValueError(f"latent mask is {tuple(latent_mask.shape)}, expected {tuple(expected)}")
    if kernel.shape != (hidden.shape[1], 1, KERNEL_SIZE, KERNEL_SIZE):
        raise ValueError(
            f"kernel is {tuple(kernel.shape)}, expected ({hidden.shape[1]}, 1, {KERNEL_SIZE}, {KERNEL_SIZE})"
        )
    return hidden + mask_channel(latent_mask, kernel).to(hidden)


def mask_channel(latent_mask: Tensor, kernel: Tensor) -> Tensor:
    """The fifth channel's share of the first convolution: (B, 1, h, w), (C, 1, 3, 3) -> (B, C, h, w), the kernel's dtype."""
    return F.conv2d(latent_mask.to(kernel), kernel, padding=KERNEL_SIZE // 2)


def load_mask_input(path: Path) -> MaskInput:
    """Read a file.

    Raises:
        MaskInputFileError: another kind of file, missing keys, wrong shapes.
        FileNotFoundError: no such file.
    """
    names, tensors, metadata = _read(path)
    if KERNEL in tensors:
        kernel = _checked(path, KERNEL, tensors[KERNEL], 1)
        beside = sum(REFERENCE_ATTENTION.fullmatch(name) is not None for name in names)
        return MaskInput(kernel, metadata=metadata, self_attentions=beside or None)
    if WHOLE_KERNEL not in tensors:
        found = ", ".join(names[:3])
        raise MaskInputFileError(
            f"{path.name} holds no mask input (its first keys: {found}): expected {KERNEL}, or {WHOLE_KERNEL} with "
            f"{LATENT_CHANNELS + 1} input channels"
        )
    whole = _checked(path, WHOLE_KERNEL, tensors[WHOLE_KERNEL], LATENT_CHANNELS + 1)
    bias = tensors.get(BIAS)
    if bias is not None and bias.shape != (len(whole),):
        raise MaskInputFileError(f"{path.name}: {BIAS} is {tuple(bias.shape)}, expected ({len(whole)},)")
    bias = None if bias is None else _finite(path, BIAS, bias)
    return MaskInput(whole[:, LATENT_CHANNELS:], whole[:, :LATENT_CHANNELS], bias, metadata)


def save_mask_input(path: Path, mask_input: MaskInput, context_dim: int) -> None:
    """Write a file that `load_mask_input` reads; `context_dim` is the width of the text context of the U-Nets it fits."""
    metadata = {**mask_input.metadata, "format": FORMAT, CONTEXT_DIM: str(context_dim)}
    if mask_input.latent_kernel is None:
        tensors = {KERNEL: mask_input.kernel}
    else:
        tensors = {WHOLE_KERNEL: torch.cat([mask_input.latent_kernel, mask_input.kernel], dim=1)}
        if mask_input.bias is not None:
            tensors[BIAS] = mask_input.bias
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)


def check_fits(mask_input: MaskInput, latent_kernel: Tensor, context_dim: int, self_attentions: int) -> None:
    """Check that a mask input belongs to a U-Net.

    Args:
        mask_input: from a file.
        latent_kernel: the U-Net's own W_4, (C, 4, 3, 3).
        context_dim: width of the U-Net's text context: 768 in SD1.5, 2048 in SDXL.
        self_attentions: how many the U-Net has: 16 in SD1.5, 70 in SDXL, fewer in its distilled ones.

    Raises:
        MaskInputFileError: another width, another base, or another number of self-attentions than the reference U-Net beside it
            has. SD1.5 and SDXL have the same C, so a whole kernel is compared
            with the U-Net's own, and W_5 alone needs `context_dim` in its metadata.
    """
    expected = (mask_input.channels, LATENT_CHANNELS, KERNEL_SIZE, KERNEL_SIZE)
    if tuple(latent_kernel.shape) != expected:
        raise MaskInputFileError(
            f"the mask input is for a U-Net whose first convolution is {expected}, the model's is "
            f"{tuple(latent_kernel.shape)}: load a mask input for this model"
        )
    named = mask_input.metadata.get(CONTEXT_DIM)
    if named is not None and named != str(context_dim):
        raise MaskInputFileError(
            f"the mask input is for a text context of {named} channels, the model's has {context_dim}: load a mask input "
            "for this model's base (768 is SD1.5, 2048 is SDXL)"
        )
    if mask_input.self_attentions not in (None, self_attentions):
        raise MaskInputFileError(
            f"the mask input lies beside a reference U-Net of {mask_input.self_attentions} self-attentions, the model has "
            f"{self_attentions}: load a mask input for this model's family (SDXL has 70, SD1.5 16, a distilled SDXL fewer "
            "than SDXL)"
        )
    if mask_input.latent_kernel is None:
        if named is None:
            raise MaskInputFileError(
                f"the mask input does not say which base it is for: write {CONTEXT_DIM} into its metadata (768 is SD1.5, "
                "2048 is SDXL)"
            )
        return
    own = latent_kernel.float().cpu()
    distance = float((mask_input.latent_kernel - own).norm() / own.norm().clamp_min(1e-12))
    if not distance <= STRANGER:
        raise MaskInputFileError(
            f"the mask input's kernel differs from the model's by {distance:.0%} of its size, which no training on this "
            "base does: load a mask input for this model's base"
        )


def _read(path: Path) -> tuple[list[str], dict[str, Tensor], dict[str, str]]:
    """All names of a file, sorted, and of its tensors those of a mask input: there may be a whole U-Net beside them."""
    if not path.is_file():
        raise FileNotFoundError(f"no mask input at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            wanted = {KERNEL, WHOLE_KERNEL, BIAS} & set(names)
            return names, {key: file.get_tensor(key) for key in wanted}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise MaskInputFileError(
            f"{path.name} is no safetensors file ({error}): pickles (.bin, .pt, .ckpt) are not read; the help page of "
            "RefAdGen Mask Input says how to convert one"
        ) from error


def _checked(path: Path, name: str, tensor: Tensor, channels: int) -> Tensor:
    if tensor.ndim != 4 or tuple(tensor.shape[1:]) != (channels, KERNEL_SIZE, KERNEL_SIZE):
        raise MaskInputFileError(
            f"{path.name}: {name} is {tuple(tensor.shape)}, expected (C, {channels}, {KERNEL_SIZE}, {KERNEL_SIZE})"
        )
    return _finite(path, name, tensor)


def _finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """In float32, in which every type can be looked at."""
    if not tensor.is_floating_point():
        raise MaskInputFileError(f"{path.name}: {name} is of type {tensor.dtype}, expected floating point")
    values = tensor.float()
    if not bool(torch.isfinite(values).all()):
        raise MaskInputFileError(f"{path.name}: {name} holds values that are not finite: the file is damaged")
    return values
