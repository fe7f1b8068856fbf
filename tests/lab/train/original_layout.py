"""SDXL and SD1.5 as they were published: all weights in one file, under names that are not diffusers'."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
Names = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]

UNET = (
    (r"^time_embedding\.linear_1", "time_embed.0"),
    (r"^time_embedding\.linear_2", "time_embed.2"),
    (r"^add_embedding\.linear_1", "label_emb.0.0"),
    (r"^add_embedding\.linear_2", "label_emb.0.2"),
    (r"^conv_in", "input_blocks.0.0"),
    (r"^conv_norm_out", "out.0"),
    (r"^conv_out", "out.2"),
    (r"(?<=resnets\.\d\.)norm1", "in_layers.0"),
    (r"(?<=resnets\.\d\.)conv1", "in_layers.2"),
    (r"(?<=resnets\.\d\.)time_emb_proj", "emb_layers.1"),
    (r"(?<=resnets\.\d\.)norm2", "out_layers.0"),
    (r"(?<=resnets\.\d\.)conv2", "out_layers.3"),
    (r"(?<=resnets\.\d\.)conv_shortcut", "skip_connection"),
    (r"^mid_block\.resnets\.0", "middle_block.0"),
    (r"^mid_block\.attentions\.0", "middle_block.1"),
    (r"^mid_block\.resnets\.1", "middle_block.2"),
)
PART = {"resnets": "0", "attentions": "1", "downsamplers": "0.op", "upsamplers": "2.conv"}
"""The last one where the block has attentions, as all have that widen in SDXL, and all but one in SD1.5."""

AUTOENCODER = (
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"mid_block\.resnets\.0", "mid.block_1"),
    (r"mid_block\.resnets\.1", "mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
    (r"conv_norm_out", "norm_out"),
    (r"conv_shortcut", "nin_shortcut"),
)
OPEN_CLIP = (
    (r"^embeddings\.token_embedding", "token_embedding"),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^encoder\.layers", "transformer.resblocks"),
    (r"layer_norm([12])", r"ln_\1"),
    (r"self_attn", "attn"),
    (r"mlp\.fc1", "mlp.c_fc"),
    (r"mlp\.fc2", "mlp.c_proj"),
    (r"^final_layer_norm", "ln_final"),
)


def original_layout(pipeline: Any) -> Weights:
    """All weights of a StableDiffusionPipeline or a StableDiffusionXLPipeline."""
    parts = {"model.diffusion_model.": _unet(pipeline.unet), "first_stage_model.": _autoencoder(pipeline.vae)}
    if hasattr(pipeline, "text_encoder_2"):
        parts["conditioner.embedders.0.transformer.text_model."] = _text(pipeline.text_encoder)
        parts["conditioner.embedders.1.model."] = _open_clip(pipeline.text_encoder_2)
    else:
        parts["cond_stage_model.transformer.text_model."] = _text(pipeline.text_encoder)
    return {prefix + name: value.contiguous().clone() for prefix, part in parts.items() for name, value in part.items()}


def _unet(unet: Any) -> Weights:
    layers = unet.config["layers_per_block"]

    def block(found: re.Match[str]) -> str:
        """Blocks are numbered through; the first of the input is a convolution."""
        side, number, part, layer = found.groups()
        place = int(number) * (layers + 1) + (layers if part.endswith("samplers") else int(layer))
        return f"input_blocks.{1 + place}.{PART[part]}" if side == "down" else f"output_blocks.{place}.{PART[part]}"

    return _renamed(
        unet.state_dict(), (*UNET, (r"^(down|up)_blocks\.(\d)\.(\w+)\.(\d)(?:(?<=samplers\.\d)\.conv)?", block))
    )


def _autoencoder(vae: Any) -> Weights:
    """The attention's projections are convolutions, and the decoder's blocks are counted from the picture."""
    last = len(vae.config["block_out_channels"]) - 1
    up = (
        (r"up_blocks\.(\d)\.resnets", lambda found: f"up.{last - int(found[1])}.block"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda found: f"up.{last - int(found[1])}.upsample"),
    )
    weights = {
        name: value[:, :, None, None] if "attentions" in name and value.ndim == 2 else value
        for name, value in vae.state_dict().items()
    }
    return _renamed(weights, (*AUTOENCODER, *up))


def _text(encoder: nn.Module) -> Weights:
    """As transformers names them, which leaves out the first word in some versions."""
    return {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}


def _open_clip(encoder: nn.Module) -> Weights:
    """One matrix for queries, keys and values; the projection is turned."""
    weights = _text(encoder)
    weights["text_projection"] = weights.pop("text_projection.weight").T
    for name in [name for name in weights if ".q_proj." in name]:
        three = [weights.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        weights[name.replace("q_proj.", "in_proj_")] = torch.cat(three)
    return _renamed(weights, OPEN_CLIP)


def _renamed(weights: Weights, names: Names) -> Weights:
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
