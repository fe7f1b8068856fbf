"""A product mask at the U-Net's input: the only file that knows the host's hooks there.

The host widens the input of an inpainting model by concatenating latents, which changes how the first convolution adds up.
Here the fifth channel's share is added to what the unchanged convolution gave, so that a channel of zeros changes no bit;
the other four, where a file has them too, are an ordinary patch of weights, which stacks with LoRA.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pfv_core.attention.query_mask import LATENT_SCALE, frame_matches
from ...pfv_core.research.mask_input import LATENT_CHANNELS, MaskInput, add_mask_input, check_fits
from .frame_position import cropped, position_of, track_positions

logger = logging.getLogger(__name__)

NAME = "RefAdGen Mask Input"
KEY = "pfv_mask_input"  # of our wrapper and of the kernel among the model's attachments
FIRST_CONVOLUTION = "diffusion_model.input_blocks.0.0"
FIRST_BLOCK = ("input", 0)

Options = dict[str, Any]


@dataclass(frozen=True, eq=False)
class MaskInputPatch:
    """The fifth channel of one model: its kernel and the mask that it reads. Never changed."""

    kernel: Tensor  # (C, 1, 3, 3) float32
    product_mask: Tensor  # (R, H, W) 0..1

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskInputPatch:
        return self

    def __call__(self, hidden: Tensor, options: Options) -> Tensor:
        """What a block of the input side gave -> with the mask's share, if it is the first block."""
        if tuple(options["block"]) != FIRST_BLOCK:
            return hidden
        position = position_of(options)
        sampled = (hidden.shape[-2], hidden.shape[-1])
        if position is None:
            raise RuntimeError(
                f"{NAME}: a part of {sampled[0]}x{sampled[1]} latent pixels is sampled by a patch that does not say where in "
                "the image it lies: without that the mask cannot be placed; remove that patch"
            )
        masks = cropped(self.product_mask, position, sampled)[:, None].to(hidden)
        return add_mask_input(hidden, masks, self.kernel)

    def check(self, batch: int, latent_size: tuple[int, int]) -> None:
        """ValueError if the mask fits no batch of this size or no frame of this shape."""
        count, rows, columns = self.product_mask.shape
        if count not in (1, batch):
            raise ValueError(
                f"{NAME}: product_mask is a batch of {count}, {batch} image(s) are being sampled: give 1, or one for each image"
            )
        if not frame_matches((rows, columns), latent_size):
            height, width = (LATENT_SCALE * side for side in latent_size)
            raise ValueError(
                f"{NAME}: product_mask is {rows}x{columns}, the image being sampled is {height}x{width} (height x width): "
                "give the mask the image's shape"
            )


def apply_mask_input(model: Any, mask_input: MaskInput, product_mask: Tensor) -> Any:
    """Give a U-Net a product mask as the fifth channel of its input.

    Args:
        model: the host's ModelPatcher of an SD1.5 or SDXL U-Net with 4 input channels.
        mask_input: from a file.
        product_mask: (R, H, W) float, 0..1, 1 = product in the image that is generated.

    Returns:
        A patched clone. With a kernel of zeros it samples the same bits as the model.

    Raises:
        ValueError: no such U-Net, a mask input of another base, or a model that has a mask input already.
    """
    if model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        raise ValueError(
            f"{NAME}: the model has a mask input already, and there is one channel for it: use one node, with a mask of all "
            "products"
        )
    own = _own_weights(model)
    check_fits(mask_input, own["weight"], _context_dim(model))
    clone = model.clone()
    _patch_latent_channels(clone, mask_input, own)
    patch = MaskInputPatch(mask_input.kernel, product_mask)
    clone.set_model_input_block_patch(patch)
    track_positions(clone)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, partial(_outer_sample, patch))
    return clone


def _own_weights(model: Any) -> dict[str, Tensor]:
    """The base's first convolution, without the patches that may be on it while it is loaded."""
    entries = model.get_key_patches(f"{FIRST_CONVOLUTION}.")
    weights = {
        name: entries[key][0][0] for name in ("weight", "bias") if (key := f"{FIRST_CONVOLUTION}.{name}") in entries
    }
    if "weight" not in weights or weights["weight"].ndim != 4:
        kind = type(model.get_model_object("diffusion_model")).__name__
        raise ValueError(f"{NAME}: the model is a {kind}, which has no U-Net's first convolution: use SD1.5 or SDXL")
    channels = weights["weight"].shape[1]
    if channels != LATENT_CHANNELS:
        raise ValueError(
            f"{NAME}: the model's input has {channels} channels, as inpainting models do, expected {LATENT_CHANNELS}: use the "
            "base checkpoint"
        )
    return weights


def _context_dim(model: Any) -> int:
    return int(model.model.model_config.unet_config["context_dim"])


def _patch_latent_channels(model: Any, mask_input: MaskInput, own: dict[str, Tensor]) -> None:
    """The part of the input layer that the base has too, where the file's differs from it."""
    differences = {}
    for name, trained in (("weight", mask_input.latent_kernel), ("bias", mask_input.bias)):
        if trained is not None and not torch.equal(trained.to(own[name].dtype), own[name].cpu()):
            differences[f"{FIRST_CONVOLUTION}.{name}"] = (trained - own[name].cpu().float(),)
    if differences:
        model.add_patches(differences)


def _outer_sample(patch: MaskInputPatch, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Before the first step: check what only the run can tell."""
    patch.check(noise.shape[0], (noise.shape[-2], noise.shape[-1]))
    return executor(noise, *args, **kwargs)
