"""Where a diffusers U-Net or ControlNet has its cross-attentions."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.models.attention_processor import Attention
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from pfv_core.attention.unet_layout import AttentionLayer, unet_layers


def attention_layers(unet: UNet2DConditionModel | ControlNetModel) -> dict[AttentionLayer, str]:
    """Every cross-attention of a U-Net, or of a ControlNet, in the order of adapter files: input, output, middle.

    Returns:
        Place -> name of the module (`down_blocks.1.attentions.0.transformer_blocks.0.attn2`).

    Raises:
        ValueError: no cross-attention, or one outside a transformer (the simple kind of DeepFloyd's U-Nets).
    """
    level = 0
    inputs, outputs = [], []
    for number, block in enumerate(unet.down_blocks):
        inputs += _transformers(block, f"down_blocks.{number}", level)
        level += getattr(block, "downsamplers", None) is not None
    middles = _transformers(unet.mid_block, "mid_block", level)
    for number, block in enumerate(getattr(unet, "up_blocks", ())):
        outputs += _transformers(block, f"up_blocks.{number}", level)
        level -= getattr(block, "upsamplers", None) is not None
    layers = unet_layers(_depths(inputs), next(iter(_depths(middles)), None), _depths(outputs))
    names = [name for _, blocks in (*inputs, *outputs, *middles) for name in blocks]
    _check_all_found(unet, names)
    return dict(zip(layers, names, strict=True))


def _transformers(block: nn.Module | None, name: str, level: int) -> list[tuple[int, list[str]]]:
    """(level, names of the cross-attentions) of each transformer of a block."""
    return [
        (
            level,
            [f"{name}.attentions.{number}.transformer_blocks.{i}.attn2" for i in range(len(module.transformer_blocks))],
        )
        for number, module in enumerate(getattr(block, "attentions", ()))
        if isinstance(module, Transformer2DModel)
    ]


def _depths(transformers: Sequence[tuple[int, list[str]]]) -> list[tuple[int, int]]:
    return [(level, len(names)) for level, names in transformers]


def _check_all_found(unet: nn.Module, names: Sequence[str]) -> None:
    """ValueError unless `names` are the cross-attentions of the U-Net."""
    there = {
        name
        for name, module in unet.named_modules()
        if isinstance(module, Attention) and module.is_cross_attention and not name.endswith(".attn1")
    }
    if not names:
        raise ValueError("the U-Net has no cross-attention to put an image prompt into")
    if there != set(names):
        raise ValueError(
            f"the U-Net has cross-attentions that image prompts cannot use, {min(there ^ set(names))} for one: use one "
            "of the U-Nets of SD1.5, SD2 or SDXL"
        )
