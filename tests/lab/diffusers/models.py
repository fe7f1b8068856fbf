"""Narrow U-Nets of real topologies with seeded weights, and image prompts for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from lab.diffusers.new_adapter import adapter_config, new_adapter
from lab.diffusers.prompts import RegionalPrompt
from lab.diffusers.unet import image_prompts
from pfv_core.adapter.model import Adapter, AdapterKind
from pfv_core.attention.control import PromptControl
from pfv_core.reference.vit import EncoderSpec

CONTEXT, POOLED = 32, 24
ROWS, COLUMNS = SIZE = 8, 12  # of the latents
ENCODER = EncoderSpec(image_size=32, patch_size=8, num_layers=2, hidden_size=48, projection_size=40)
KINDS = {
    AdapterKind.LINEAR: {"num_tokens": 4},
    AdapterKind.EQ3: {"num_tokens": 3, "latent_width": 32},
    AdapterKind.TOKENS: {"num_tokens": 17},
    AdapterKind.RESAMPLER: {"num_tokens": 4, "latent_width": 32, "inner_width": 64, "depth": 4, "feedforward": 128},
}
SIZES = {
    "demo": {  # SDXL's features at the smallest size
        "block_out_channels": (16, 32),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": (1, 2),
    },
    "sdxl": {
        "block_out_channels": (16, 32, 64),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "transformer_layers_per_block": [1, 2, 10],
        "attention_head_dim": [1, 2, 4],
    },
    "sd15": {
        "block_out_channels": (16, 32, 64, 64),
        "layers_per_block": 2,
        "attention_head_dim": 2,
        "use_linear_projection": False,
        "addition_embed_type": None,
        "projection_class_embeddings_input_dim": None,
    },
}


def new_unet(name: str = "demo", seed: int = 0) -> UNet2DConditionModel:
    """Random weights, frozen."""
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": POOLED + 6 * 8,
        "use_linear_projection": True,
    }
    sizes = {**added, **SIZES[name]}
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(cross_attention_dim=CONTEXT, norm_num_groups=8, **sizes)
    return unet.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal values."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(batch: int = 2, rows: int = ROWS, columns: int = COLUMNS, seed: int = 0) -> dict[str, object]:
    """Keyword arguments of a U-Net's forward pass."""
    return {
        "sample": noise(batch, 4, rows, columns, seed=seed),
        "timestep": torch.arange(1, batch + 1) * 300 % 1000,
        "encoder_hidden_states": noise(batch, 7, CONTEXT, seed=seed + 1),
        "added_cond_kwargs": {
            "text_embeds": noise(batch, POOLED, seed=seed + 2),
            "time_ids": torch.tensor([[64.0, 96, 0, 0, 64, 96]]).expand(batch, -1),
        },
    }


def adapter_for(unet: UNet2DConditionModel, kind: AdapterKind = AdapterKind.EQ3, seed: int = 0) -> Adapter:
    """Untrained, of a kind in its size here."""
    return new_adapter(unet, adapter_config(unet, kind=kind, base="demo", encoder=ENCODER, **KINDS[kind]), seed)


def regional_prompt(
    unet: UNet2DConditionModel, batch: int = 2, seed: int = 0, region: torch.Tensor | None = None, **control: Any
) -> RegionalPrompt:
    """An image prompt of an untrained adapter."""
    adapter = adapter_for(unet, seed=seed)
    with torch.no_grad():
        keys_values = adapter.keys_values(noise(batch, 3, CONTEXT, seed=seed + 10))
    return RegionalPrompt(keys_values, PromptControl(**control), region)


def predicted(unet: UNet2DConditionModel, prompts: Sequence[RegionalPrompt], arguments: dict[str, Any]) -> torch.Tensor:
    """What the U-Net says to these arguments."""
    with torch.no_grad(), image_prompts(unet, prompts, SIZE):
        return unet(**arguments).sample


def left_half(rows: int = ROWS * 8, columns: int = COLUMNS * 8) -> torch.Tensor:
    """A region, (1, rows, columns)."""
    region = torch.zeros(1, rows, columns)
    region[:, :, : columns // 2] = 1
    return region


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    """Relative, in the Euclidean norm."""
    return float((one - other).norm() / other.norm())
