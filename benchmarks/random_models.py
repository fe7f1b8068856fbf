"""SDXL and what is trained beside it, of random weights: what a step costs does not depend on what the weights say.

`sdxl` has the released models' sizes. `narrow` has their layers and their contexts, thin: a step of it is short, and what is
not in its networks is what it is for SDXL.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from lab.diffusers.vision import ClipVisionEncoder
from lab.train.load import models_of_pipeline
from lab.train.models import TrainingModels
from pfv_demo.sizes import VOCABULARY

TOKENS = 77
NOISE = 1 << 24  # drawing billions of numbers takes minutes: weights are filled from one block of noise


@dataclass(frozen=True)
class Sizes:
    """What of SDXL's stack may be thinner than it is.

    Attributes:
        unet: channels of its three levels; heads have 64 channels where they are SDXL's.
        heads: of the three levels.
        transformers: blocks of a transformer of the three levels.
        vae: channels of its four levels.
        text_layers: of the two text encoders.
        vision_layers: of the image encoder.
    """

    unet: tuple[int, int, int]
    heads: tuple[int, int, int]
    transformers: tuple[int, int, int]
    vae: tuple[int, int, int, int]
    text_layers: tuple[int, int]
    vision_layers: int


SDXL = Sizes((320, 640, 1280), (5, 10, 20), (1, 2, 10), (128, 256, 512, 512), (12, 32), 32)
NARROW = Sizes((32, 64, 128), (1, 2, 4), (1, 2, 10), (32, 32, 32, 32), (2, 2), 2)
TINY = Sizes((32, 32, 32), (1, 1, 1), (1, 1, 1), (32, 32, 32, 32), (1, 1), 1)
BY_NAME = {"sdxl": SDXL, "narrow": NARROW, "tiny": TINY}


def random_models(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> TrainingModels:
    """Frozen, on `device`; the autoencoder in float32, all else in `dtype`, as the trainer has them."""
    tokenizer = CLIPTokenizer.from_pretrained(VOCABULARY, model_max_length=TOKENS)
    wide, tall = sizes.text_layers
    text = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    first = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_hidden_layers=wide, **text
    )
    second = CLIPTextConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_attention_heads=20,
        num_hidden_layers=tall,
        projection_dim=1280,
        **text,
    )
    vision = CLIPVisionConfig(
        hidden_size=1280,
        intermediate_size=5120,
        num_attention_heads=16,
        num_hidden_layers=sizes.vision_layers,
        projection_dim=1024,
        patch_size=14,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_filled(lambda: AutoencoderKL(**_vae(sizes)), torch.float32, device),
        text_encoder=_filled(lambda: CLIPTextModel(first), dtype, device),
        text_encoder_2=_filled(lambda: CLIPTextModelWithProjection(second), dtype, device),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_filled(lambda: UNet2DConditionModel(**_unet(sizes)), dtype, device),
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    encoder = ClipVisionEncoder(_filled(lambda: CLIPVisionModelWithProjection(vision), dtype, device))
    return models_of_pipeline("sdxl", pipeline, encoder)


def random_unet_of(base: str, width: int, depth: int, dtype: torch.dtype) -> UNet2DConditionModel:
    """A frozen U-Net of SD1.5's or SDXL's layout.

    Args:
        base: sd15 or sdxl.
        width: of its first level; 320 in the released models.
        depth: blocks of SDXL's deepest transformers; 10 in the released model.
        dtype: of its weights.
    """
    if base == "sdxl":
        heads = (width // 64, width // 32, width // 16)
        sizes = replace(SDXL, unet=(width, 2 * width, 4 * width), heads=heads, transformers=(1, 2, depth))
        config = _unet(sizes)
    else:
        config = {"block_out_channels": (width, 2 * width, 4 * width, 4 * width), "cross_attention_dim": 768}
        config["attention_head_dim"] = 8  # diffusers' name for the number of heads
    unet = _filled(lambda: UNet2DConditionModel(**config), dtype, torch.device("cpu"))
    assert isinstance(unet, UNet2DConditionModel)
    return unet


def _unet(sizes: Sizes) -> dict[str, Any]:
    return {
        "sample_size": 128,
        "block_out_channels": sizes.unet,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": sizes.transformers,
        "attention_head_dim": sizes.heads,  # diffusers' name for the number of heads
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    }


def _vae(sizes: Sizes) -> dict[str, Any]:
    return {
        "block_out_channels": sizes.vae,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "scaling_factor": 0.13025,
    }


@torch.no_grad()
def _filled(make: Callable[[], nn.Module], dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Numbers stay in range: weights have deviation 1 / sqrt(fan in), norms are as they begin."""
    with torch.device("meta"):
        module = make()
    nn.Module.to(module, dtype)
    module.to_empty(device=device)
    noise = torch.randn(NOISE, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        flat, scale = parameter.view(-1), parameter[0].numel() ** -0.5
        for start in range(0, len(flat), NOISE):
            part = flat[start : start + NOISE]
            part.copy_(noise[: len(part)]).mul_(scale)
    for buffer in module.buffers():  # position ids, which are not drawn
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))
    return module.eval().requires_grad_(False)
