"""A ControlNet's network in the host's class, from tensors under diffusers' names.

The host's own loader knows the released widths; here all sizes are read from the tensors, but for the heads, which leave no trace
in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any

import comfy.cldm.cldm
import comfy.model_management
import comfy.utils
from comfy.ldm.modules.diffusionmodules.openaimodel import TimestepEmbedSequential
from torch import Tensor, nn

from .files import fill

HINT = "controlnet_cond_embedding."


def control_network(
    tensors: Mapping[str, Tensor], what: str, advice: str, dtype: Any, operations: Any, **heads: int
) -> nn.Module:
    """Build a network and fill it; every tensor must find its place and every place its tensor.

    Args:
        tensors: under the names of diffusers' ControlNetModel.
        what, advice: of a message, see `files.fill`.
        dtype: that it is kept in.
        operations: the host's, for its layers.
        heads: `num_heads`, the same at every width, or `num_head_channels`.

    Raises:
        ValueError: tensors that are missing, unexpected or of another size.
    """
    try:
        config = _config(tensors)
        hint_block = _hint_block(tensors, dtype, operations)
    except (KeyError, IndexError) as error:
        raise ValueError(f"{what}: {error} is missing. {advice}") from error
    names = comfy.utils.unet_to_diffusers(config) | _own_names(tensors)
    config.pop("transformer_depth_output")
    network: Any = comfy.cldm.cldm.ControlNet(
        **config,
        **heads,
        hint_channels=tensors[f"{HINT}conv_in.weight"].shape[1],
        operations=operations,
        device=comfy.model_management.unet_offload_device(),
        dtype=dtype,
    )
    network.input_hint_block = hint_block
    fill(network, {names.get(key, key): tensor for key, tensor in tensors.items()}, what, advice)
    return network


def _config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes in the terms of the host's constructor. A list per residual block, level 0 first."""
    levels = _number(tensors, "down_blocks.{}.resnets.0.conv1.weight")
    blocks = [_number(tensors, f"down_blocks.{level}.resnets.{{}}.conv1.weight") for level in range(levels)]
    widths = [len(tensors[f"down_blocks.{level}.resnets.0.conv1.weight"]) for level in range(levels)]
    stem = len(tensors["conv_in.weight"])
    depths = [
        _number(tensors, f"down_blocks.{level}.attentions.{block}.transformer_blocks.{{}}.attn2.to_k.weight")
        for level in range(levels)
        for block in range(blocks[level])
    ]
    middle = "mid_block.attentions.0."
    pooled = tensors.get("add_embedding.linear_1.weight")
    added = {} if pooled is None else {"num_classes": "sequential", "adm_in_channels": pooled.shape[1]}
    return {
        "image_size": 32,  # the host asks for it and does not use it
        "in_channels": tensors["conv_in.weight"].shape[1],
        "model_channels": stem,
        "num_res_blocks": blocks,
        "channel_mult": [width // stem for width in widths],
        "transformer_depth": depths,
        "transformer_depth_middle": _number(tensors, middle + "transformer_blocks.{}.attn2.to_k.weight"),
        "transformer_depth_output": [0] * (sum(blocks) + levels),  # a ControlNet has none; the host's names ask for it
        "context_dim": tensors[middle + "transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "use_linear_in_transformer": tensors[middle + "proj_in.weight"].ndim == 2,
        "use_spatial_transformer": True,
        "legacy": False,
        **added,
    }


def _own_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """diffusers' names -> the host's, of what a ControlNet has beside its copy of the U-Net's input side."""
    names = {"controlnet_mid_block": "middle_block_out.0"}
    outputs = _number(tensors, "controlnet_down_blocks.{}.weight")
    names |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(outputs)}
    names |= {HINT + layer: f"input_hint_block.{2 * i}" for i, layer in enumerate(_hint_layers(tensors))}
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in names.items() for kind in ("weight", "bias")}


def _hint_layers(tensors: Mapping[str, Tensor]) -> list[str]:
    return ["conv_in", *(f"blocks.{i}" for i in range(_number(tensors, HINT + "blocks.{}.weight"))), "conv_out"]


def _hint_block(tensors: Mapping[str, Tensor], dtype: Any, operations: Any) -> nn.Module:
    """The layers that bring the hint to the size of the latents; every second between the first and the last halves it. The
    host's class has one set of widths only."""
    layers: list[nn.Module] = []
    made = {"padding": 1, "dtype": dtype, "device": comfy.model_management.unet_offload_device()}
    for number, layer in enumerate(_hint_layers(tensors)):
        width, channels = tensors[f"{HINT}{layer}.weight"].shape[:2]
        stride = 2 if layer.startswith("blocks.") and number % 2 == 0 else 1
        layers += [operations.Conv2d(channels, width, 3, stride=stride, **made), nn.SiLU()]
    return TimestepEmbedSequential(*layers[:-1])


def _number(tensors: Mapping[str, Tensor], name: str) -> int:
    """How many of these names there are, counted from 0."""
    return next(number for number in count() if name.format(number) not in tensors)
