"""The frozen models that something is trained between, and how the U-Net among them is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from pfv_core.reference.vit import VisionEncoder

EncodeText = Callable[[Sequence[str]], tuple[Tensor, Tensor]]
EncodeLatents = Callable[[Tensor], Tensor]
DecodeLatents = Callable[[Tensor], Tensor]


class ModelsError(ValueError):
    """Models that are not there or do not belong together; the message says what to get."""


@dataclass(frozen=True)
class TrainingModels:
    """Everything frozen, on the device that trains.

    Attributes:
        base: family of the U-Net, as the trained file will name it: sdxl, sd15, demo.
        unet: predicts noise or velocity.
        vision: image encoder of the references; None = there is none, see `vision_of`.
        encode_text: captions -> context (B, T, C) and pooled text (B, P); P = 0 where the U-Net takes none.
        encode_latents: (B, 3, H, W) in 0..1 -> (B, 4, H/8, W/8), scaled as the U-Net takes them, without randomness.
        scheduler: noise schedule and prediction type, and the sampler of the validation pictures.
        decode_latents: the way back, (B, 3, H, W) in about 0..1; None = no validation pictures.
        identity: short names of the weights, which a run to resume and a cache must share.
    """

    base: str
    unet: UNet2DConditionModel
    vision: VisionEncoder | None
    encode_text: EncodeText
    encode_latents: EncodeLatents
    scheduler: Any
    decode_latents: DecodeLatents | None = None
    identity: Mapping[str, str] = field(default_factory=dict)


def vision_of(models: TrainingModels) -> VisionEncoder:
    """The image encoder, for what is trained with one. ModelsError where none was given."""
    if models.vision is None:
        raise ModelsError("this preset trains with an image encoder, and none is given: name its weights (--vision)")
    return models.vision


def unet_conditions(unet: UNet2DConditionModel, context: Tensor, pooled: Tensor, time_ids: Tensor) -> dict[str, Any]:
    """The U-Net's keyword arguments for (B, T, C) context, (B, P) pooled text and (B, 6) sizes in pixels.

    The sizes stay float32, as the U-Net embeds them: bfloat16 knows no 1500, only 1496 and 1504.
    """
    dtype = dtype_of(unet)
    conditions: dict[str, Any] = {"encoder_hidden_states": context.to(dtype)}
    if unet.config["addition_embed_type"] == "text_time":
        sizes = time_ids.to(context.device, torch.float32, non_blocking=True)
        conditions["added_cond_kwargs"] = {"text_embeds": pooled.to(dtype), "time_ids": sizes}
    return conditions


def dtype_of(unet: UNet2DConditionModel) -> torch.dtype:
    """The precision of a U-Net's weights, for every step: `unet.dtype` looks into each of SDXL's 2,000 modules first."""
    dtype: torch.dtype = unet.conv_in.weight.dtype
    return dtype


def prepare_unet(
    unet: UNet2DConditionModel,
    *,
    gradient_checkpointing: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
) -> None:
    """Freeze a U-Net and set how it computes what it computes.

    Args:
        unet: in place.
        gradient_checkpointing: less memory, about a third more time.
        channels_last: the memory layout that convolutions on tensor cores like best.
        compiled: torch.compile for each feed-forward and self-attention of the transformers. The cross-attentions are left:
            image prompts enter them anew in every step, and each would be compiled again.
    """
    unet.requires_grad_(False)
    unet.enable_gradient_checkpointing() if gradient_checkpointing else unet.disable_gradient_checkpointing()
    if channels_last:
        unet.to(memory_format=torch.channels_last)
    if compiled:
        for name, module in unet.named_modules():
            if isinstance(module, FeedForward) or (isinstance(module, Attention) and name.endswith(".attn1")):
                module.compile()
