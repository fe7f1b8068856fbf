"""A product mask at the U-Net's input.

The host widens the input of an inpainting model by concatenating latents, which changes how the first convolution adds up.
Here the fifth channel's share is added to what the unchanged convolution gave, so that a channel of zeros changes no bit;
the other four, where a file has them too, are an ordinary patch of weights, which stacks with LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...pfv_core.research.mask_input import LATENT_CHANNELS, MaskInput, check_fits, mask_channel
from .facts import Call, Options, Run, call_of, cells
from .operators import INPUT_BLOCK, FirstBlock, never_traced
from .tracking import patches_of, track
from .unet import self_attention_names, unet_of

NAME = "RefAdGen Mask Input"
MOST_KEPT = 64  # parts of the frame and of the batch at a time: windows over it make new ones at every step
FIRST_CONVOLUTION = "diffusion_model.input_blocks.0.0"
FIRST_BLOCK = ("input", 0)


@dataclass(frozen=True, eq=False)
class MaskInputPatch(FirstBlock):
    """The fifth channel of one model: its kernel and the mask that it reads. Never changed."""

    kernel: Tensor  # (C, 1, 3, 3) float32
    product_mask: Tensor  # (R, H, W) 0..1

    def __deepcopy__(self, memo: dict[int, Any]) -> MaskInputPatch:
        return self

    def begin(self, run: Run) -> MaskInputRun:
        """What is computed once for a run; ValueError if the mask does not fit it."""
        return MaskInputRun(self.kernel, run.placed(self.product_mask, NAME, "product_mask"))

    @never_traced
    def __call__(self, hidden: Tensor, options: Options) -> Tensor:
        """What a block of the input side gave -> with the mask's share, if it is the first block."""
        if tuple(options["block"]) != FIRST_BLOCK:
            return hidden
        call = call_of(options, NAME)
        run: MaskInputRun = call.run.state(self)
        return hidden + run.channel(call, hidden)


class MaskInputRun:
    """The mask's share of the first convolution in one run, computed once for each part of the frame."""

    def __init__(self, kernel: Tensor, mask: Tensor) -> None:
        self._kernel, self._mask = kernel, mask
        self._channels: dict[Any, Tensor] = {}
        self._orders: dict[Any, Tensor] = {}

    def channel(self, call: Call, hidden: Tensor) -> Tensor:
        """(rows, C, h, w), or (1, C, h, w) where all rows have the same mask; on hidden's device in its dtype."""
        call.check_images(call.rows, len(self._mask), NAME, "product_mask")
        spots = [(row.among(len(self._mask)), row.corner) for row in call.rows]
        differing = list(dict.fromkeys(spots))
        key = *differing, call.sampled, hidden.device, hidden.dtype
        if key not in self._channels:
            if len(self._channels) >= MOST_KEPT:
                self._channels.clear()
            masks = [
                cells(self._mask[image : image + 1], call.sampled, call, corner, NAME) for image, corner in differing
            ]
            latent_masks = torch.stack(masks).view(-1, 1, *call.sampled)
            self._channels[key] = mask_channel(latent_masks, self._kernel).to(hidden)
        channels = self._channels[key]
        if len(differing) == 1 or spots == differing:
            return channels
        order = *spots, hidden.device
        if order not in self._orders:
            if len(self._orders) >= MOST_KEPT:
                self._orders.clear()
            self._orders[order] = torch.tensor([differing.index(spot) for spot in spots]).to(hidden.device)
        return channels.index_select(0, self._orders[order])


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
    if any(isinstance(patch, MaskInputPatch) for patch in patches_of(model)):
        raise ValueError(
            f"{NAME}: the model has a mask input already, and there is one channel for it: use one node, with a mask of all "
            "products"
        )
    own = _own_weights(model)
    check_fits(mask_input, own["weight"], _context_dim(model), len(self_attention_names(unet_of(model, NAME))))
    clone = model.clone()
    _patch_latent_channels(clone, mask_input, own)
    patch = MaskInputPatch(mask_input.kernel, product_mask)
    _put_first(clone, patch)
    track(clone, patch)
    return clone


def _put_first(model: Any, patch: MaskInputPatch) -> None:
    """Before all other patches of what a block of the input side gave: the mask's share is the convolution's own."""
    patches = model.model_options["transformer_options"].setdefault("patches", {})
    patches[INPUT_BLOCK] = [patch, *patches.get(INPUT_BLOCK, ())]


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
            f"{NAME}: the model's input has {channels} channels, as models that read a picture do, expected "
            f"{LATENT_CHANNELS}: use the base checkpoint"
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
