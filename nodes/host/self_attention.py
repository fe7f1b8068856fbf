"""A reference U-Net in the host's self-attention.

Each patched block holds a `FusionSlot` in the host's `attn1` replace slot, around whatever was there before. The blocks of
one node share one `AttentionFusion`, which nobody changes; what a run computes lives in that run's own state, so nothing is
left behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pfv_core.attention.control import Attend
from ...pfv_core.attention.fusion import FusionControl
from .compiled import HOST_KEY
from .facts import KEY as FACTS
from .facts import Options, name_of, run_of
from .fusion_run import AttentionFusion, FusionRun
from .hypernetworks import hypernetworks_of, is_hypernetwork
from .reference_pass import (
    COPY,
    NAME,
    Changes,
    Reference,
    ReferenceNoise,
    check_conditioning,
    check_latent,
    check_same_family,
)
from .schedule import Window
from .slots import Slot, fill_slot, slot_of
from .taken_apart import FUNCTION
from .told import tell
from .tracking import track
from .unet import self_attentions

KEY = "pfv_attention_fusion"  # of the reference models among a model's additional ones
HELD = "pfv_attention_fusion_held"  # of what stands for keys and values there


class FusionSlot(Slot):
    """The callable in the replace slot of one self-attention block."""

    kind = "attn1"
    patch: AttentionFusion

    def attention(self, query: Tensor, key: Tensor, value: Tensor, options: Options, base: Attend | None) -> Tensor:
        """The block's own attention with the reference's."""
        run: FusionRun = run_of(options, NAME).state(self.patch)
        return run.attention(self.block, query, key, value, options, base)


def apply_attention_fusion(
    model: Any,
    latent: Tensor,
    conditioning: list[Any],
    control: FusionControl,
    noise: ReferenceNoise,
    product_mask: Tensor | None = None,
    reference_model: Any = None,
    window: Window = Window(),  # noqa: B008, frozen
) -> Any:
    """Put a reference U-Net's keys and values into every self-attention of a model.

    Args:
        model: the host's ModelPatcher of a U-Net.
        latent: (T, 4, h, w) of the product image, as VAE Encode gives it; any size.
        conditioning: the prompt of the reference pass.
        control: scale and way to combine. Scale 0 returns the model as it is.
        noise: what the reference U-Net sees.
        product_mask: (R, H, W) float, 0..1, 1 = product in the image that is generated; None = the whole frame.
        reference_model: another checkpoint of the same family; None = the model itself.
        window: part of the sampling.

    Returns:
        A patched clone. The model itself, and every other clone of it, stays as it is.

    Raises:
        ValueError: no U-Net, another family, a latent or prompt that does not fit, a reference_model that is in use with
            other weights already.
    """
    blocks = self_attentions(model, NAME)
    if reference_model is not None:
        check_same_family(model, reference_model)
    check_latent(latent, reference_model or model)
    check_conditioning(conditioning)
    if control.scale == 0.0:
        return model
    clone = model.clone()
    if reference_model is not None:
        _tell_what_takes_no_part(reference_model, model)
    reference = Reference(latent, conditioning, noise, *_reference_model(clone, reference_model))
    fusion = AttentionFusion(control, product_mask, reference, window, blocks)
    for block in blocks:
        fill_slot(clone, FusionSlot(fusion, block, slot_of(clone, FusionSlot.kind, block)))
    track(clone, fusion)
    _let_the_host_know(clone, latent)
    return clone


def _reference_model(model: Any, reference_model: Any) -> tuple[Any, Changes | None]:
    """The patcher that reads the product and, where its weights are the model's own, what they must be changed by.

    Another checkpoint goes where the host looks for what it has to load together with the model.
    """
    if reference_model is None:
        return None, None
    if reference_model.is_clone(model):
        return None, Changes.of(reference_model)
    in_use = model.get_additional_models_with_key(KEY)
    for other in in_use:
        if other.is_clone(reference_model):
            apart = Changes.of(other).beside(Changes.of(reference_model))
            if apart is not None:
                raise ValueError(
                    f"{NAME}: two reference_model inputs come from the same loader, so both are one set of weights, and "
                    f"{apart} is on one of them alone: put it on both; {COPY}"
                )
            return other, None
    bare = reference_model.clone()
    # Other patches of attention take no part: nothing of them is loaded.
    bare.model_options = {"transformer_options": {"patches": hypernetworks_of(bare)}}
    model.set_additional_models(KEY, [*in_use, bare])
    return bare, None


def _tell_what_takes_no_part(reference_model: Any, model: Any) -> None:
    """Say by name what is on a reference_model and changes nothing; a clone of `model` is that model, with what is on it."""
    known = {name_of(patch) for patch in _without_part(model)} if reference_model.is_clone(model) else set()
    names = sorted({name_of(patch) for patch in _without_part(reference_model)} - known)
    if names:
        tell(
            f"{NAME}: on reference_model {', '.join(names)} changes nothing: where it reads the product its weights, LoRAs and "
            "hypernetworks count, other patches do not. Put them on model, for what is sampled, or take them off"
        )


def _without_part(model: Any) -> Iterator[Any]:
    """What changes a model's U-Net and is not run where it reads a product: all that is no weight."""
    options = model.model_options["transformer_options"]
    for patches in options.get("patches", {}).values():
        for patch in patches:
            function = patch[-1] if isinstance(patch, tuple) else patch  # with its layer's class before it
            if not is_hypernetwork(function):
                yield function
    for slots in options.get("patches_replace", {}).values():
        yield from slots.values()
    for kind in (WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL):
        keyed = options.get("wrappers", {}).get(kind, {})
        yield from (wrapper for key in keyed.keys() - {FACTS, HOST_KEY} for wrapper in keyed[key])
    if FUNCTION in model.model_options:
        yield model.model_options[FUNCTION]


def _let_the_host_know(model: Any, latent: Tensor) -> None:
    """Keys and values are no model, so the host would not count them where it makes room: an empty one of their size does. A host
    that moves weights as they are needed makes room as it is needed, and would do less of that beside a model that it cannot."""
    if hasattr(model, "is_dynamic") and model.is_dynamic():
        return
    count, _, rows, columns = latent.shape
    tokens = {level: math.ceil(rows / 2**level) * math.ceil(columns / 2**level) for level in range(8)}
    values = sum(2 * count * tokens[found.level] * found.width for found in self_attentions(model, NAME).values())
    held = _of_size(values * model.model_dtype().itemsize)
    model.set_additional_models(HELD, [*model.get_additional_models_with_key(HELD), held])


def _of_size(num_bytes: int, **options: Any) -> Any:
    """An empty model that the host makes room of this size for."""
    patcher = comfy.model_patcher.ModelPatcher(
        torch.nn.Module(),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
        size=num_bytes,
    )
    patcher.cached_patcher_init = (_of_size, (num_bytes,))  # how newer hosts make one for another device
    return patcher
