"""Sizes of the tiny models, under the names that diffusers and transformers give them; nothing but numbers.

Both engines build from these: `stack` with diffusers, the nodes with ComfyUI's own classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).resolve().parent / "weights"
VOCABULARY = Path(__file__).resolve().parent / "tokenizer"  # vocab.json, merges.txt: CLIP's kind of BPE
MAX_TOKENS = 24  # begin and end marks included; the longest caption has as many

FILES = ("autoencoder", "text_encoder", "vision_encoder", "unet", "controlnet")  # <name>.safetensors
ADAPTER_FILE = "adapter.safetensors"

MODELS = WEIGHTS.parent / "models"  # folders as the host's own have them, listed beside those
REFADGEN_FILE = "pfv_demo_refadgen.safetensors"  # in model_patches
STRICT_ID_FILE = "pfv_demo_strict_id.safetensors"  # in controlnet

IMAGE_SIZE = 256
LATENT_SIZE = IMAGE_SIZE // 8
CONTEXT_DIM = 128

UNSHUFFLE = 4
AUTOENCODER: dict[str, Any] = {
    "in_channels": 3 * UNSHUFFLE**2,
    "out_channels": 3 * UNSHUFFLE**2,
    "latent_channels": 4,
    "block_out_channels": (64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 32,
}
TEXT: dict[str, Any] = {
    "hidden_size": CONTEXT_DIM,
    "intermediate_size": 4 * CONTEXT_DIM,
    "projection_dim": CONTEXT_DIM,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": MAX_TOKENS,
    "hidden_act": "gelu",
}
VISION: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "projection_dim": CONTEXT_DIM,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "hidden_act": "gelu",
}
UNET: dict[str, Any] = {
    "sample_size": LATENT_SIZE,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": 1,
    "attention_head_dim": (1, 2),  # diffusers' name for the number of heads
    "cross_attention_dim": CONTEXT_DIM,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": CONTEXT_DIM + 6 * 256,
}
CONTROLNET_CONDITIONING_CHANNELS = (16, 16, 32, 32)

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
