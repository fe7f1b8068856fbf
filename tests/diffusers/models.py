"""Narrow U-Nets of real topologies with seeded weights."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from pfv_core.adapter import AdapterKind
from pfv_core.vit import EncoderSpec

CONTEXT, POOLED = 32, 24
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


def inputs(batch: int = 2, rows: int = 8, columns: int = 12, seed: int = 0) -> dict[str, object]:
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
