"""A reference U-Net in the host's self-attention: the only file that knows its self-attention hooks.

Each patched block holds a `FusionBlock` in the host's `attn1` replace slot, around whatever was there before. The blocks of
one node share one `AttentionFusion`, which nobody changes; what a run computes lives in that run's own options, so nothing
is left behind.
"""

from __future__ import annotations

from copy import copy
from functools import partial
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...pfv_core.attention.fusion import FusionControl
from .frame_position import track_positions
from .fusion_run import KEY, AttentionFusion, FusionRun, Options, run_of
from .reference_pass import (
    NAME,
    BlockKey,
    Reference,
    ReferenceNoise,
    check_conditioning,
    check_latent,
    check_same_family,
    self_attentions,
)


class FusionBlock:
    """The callable in the replace slot of one self-attention block."""

    def __init__(self, fusion: AttentionFusion, block: BlockKey, base: Any) -> None:
        self.fusion = fusion
        self.block = block
        self.base = base

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, options: Options) -> Tensor:
        """q, k, v after their projections -> the attention's output before to_out."""
        base = None if self.base is None else partial(_call_base, self.base, options)
        return self.fusion.attention(self.block, query, key, value, options, base)

    def __deepcopy__(self, memo: dict[int, Any]) -> FusionBlock:
        return copy(self)

    def to(self, device_or_dtype: Any) -> FusionBlock:
        """The host moves patches that have `.to`; ours cast where they compute, another pack's may want to move."""
        if hasattr(self.base, "to"):
            self.base = self.base.to(device_or_dtype)
        return self

    def models(self) -> list[Any]:
        """Models that the host must load for this slot: another pack's, if it has any."""
        return self.base.models() if hasattr(self.base, "models") else []


def apply_attention_fusion(
    model: Any,
    latent: Tensor,
    conditioning: list[Any],
    control: FusionControl,
    noise: ReferenceNoise,
    product_mask: Tensor | None = None,
    reference_model: Any = None,
    start_percent: float = 0.0,
    end_percent: float = 1.0,
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
        start_percent, end_percent: window of the sampling, 0..1.

    Returns:
        A patched clone. The model itself, and every other clone of it, stays as it is.

    Raises:
        ValueError: no U-Net, another family, a latent or prompt that does not fit, an empty window, a reference_model that
            is in use with other weights already.
    """
    if not 0.0 <= start_percent <= end_percent <= 1.0:
        raise ValueError(
            f"start_percent is {start_percent}, end_percent {end_percent}: expected 0 <= start <= end <= 1"
        )
    blocks = self_attentions(model)
    if reference_model is not None:
        check_same_family(model, reference_model)
    check_latent(latent, reference_model or model)
    check_conditioning(conditioning)
    if control.scale == 0.0:
        return model
    sampling = model.get_model_object("model_sampling")
    clone = model.clone()
    fusion = AttentionFusion(
        control,
        product_mask,
        Reference(latent, conditioning, noise, *_reference_model(clone, reference_model)),
        float("inf") if start_percent == 0.0 else float(sampling.percent_to_sigma(start_percent)),
        0.0 if end_percent == 1.0 else float(sampling.percent_to_sigma(end_percent)),
    )
    slots = clone.model_options["transformer_options"].get("patches_replace", {}).get("attn1", {})
    for block in blocks:
        clone.set_model_attn1_replace(FusionBlock(fusion, block, slots.get(block, slots.get(block[:2]))), *block)
    track_positions(clone)
    clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, partial(_outer_sample, fusion))
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, partial(_predict_noise, fusion))
    return clone


def _reference_model(model: Any, reference_model: Any) -> tuple[Any, Any]:
    """The patcher that reads the product and, where its weights are the model's own, the patches they must have.

    Another checkpoint goes where the host looks for what it has to load together with the model.
    """
    if reference_model is None:
        return None, None
    if reference_model.is_clone(model):
        return None, reference_model.patches_uuid
    in_use = model.get_additional_models_with_key(KEY)
    for other in in_use:
        if other.is_clone(reference_model):
            if other.patches_uuid != reference_model.patches_uuid:
                raise ValueError(
                    f"{NAME}: two reference_model inputs come from the same loader, so both are one set of weights, and a "
                    "LoRA or another patch of weights is on one of them alone: give each a loader of its own"
                )
            return other, None
    bare = reference_model.clone()
    bare.model_options = {"transformer_options": {}}  # its patches of attention take no part: nothing of them is loaded
    model.set_additional_models(KEY, [*in_use, bare])
    return bare, None


def _outer_sample(fusion: AttentionFusion, executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Before the first step: check what only the run can tell, and make room for what it computes."""
    guider = executor.class_obj
    latent_size = (noise.shape[-2], noise.shape[-1])
    fusion.check(noise.shape[0], latent_size, guider.model_patcher)
    options = guider.model_options.setdefault("transformer_options", {})  # the guider's own copy for this run
    options[KEY] = {**options.get(KEY, {}), fusion: FusionRun(latent_size)}
    return executor(noise, *args, **kwargs)


def _predict_noise(
    fusion: AttentionFusion,
    executor: Any,
    x: Tensor,
    sigma: Tensor,
    model_options: Options | None = None,
    seed: int | None = None,
) -> Tensor:
    """Around each evaluation of the model, which may be several calls of it."""
    guider = executor.class_obj
    options = guider.model_options if model_options is None else model_options
    fusion.prepare(run_of(fusion, options["transformer_options"]), guider, sigma, seed or 0)
    return executor(x, sigma, options, seed)


def _call_base(base: Any, options: Options, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out: Tensor = base(query, key, value, options)
    return out
