"""The host's U-Net and vision encoder at released sizes with random weights, and what they are called with.

Needs the host in this process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CHANNELS, HEAD_DIM, CONTEXT_DIM, POOLED_DIM = 320, 64, 2048, 1280  # SDXL's
VISION_WIDTH, VISION_PROJECTION, RESAMPLER_HEADS = 1280, 1024, 20  # ViT-H/14's, ip-adapter-plus_sdxl_vit-h's
TEXT_TOKENS = 77

Conditioning = list[Any]


def random_unet(
    topology: str,
    dtype: torch.dtype,
    channels: int = CHANNELS,
    head_dim: int = HEAD_DIM,
    context_dim: int = CONTEXT_DIM,
    pooled_dim: int = POOLED_DIM,
) -> Any:
    """MODEL with the layout of a released member of the SDXL family, and its widths unless others are given."""
    model = _unet(topology, dtype, "cpu", channels, head_dim, context_dim, pooled_dim)
    fill(model.model.diffusion_model)
    return model


def unet_without_weights(topology: str, dtype: torch.dtype) -> Any:
    """MODEL that can be patched and not run: its weights take no memory."""
    return _unet(topology, dtype, "meta", CHANNELS, HEAD_DIM, CONTEXT_DIM, POOLED_DIM)


def _unet(topology: str, dtype: torch.dtype, device: str, *widths: int) -> Any:
    import comfy.model_management
    import comfy.model_patcher

    from pfv_mepa.tests.support.tiny_stack.models import model_config
    from pfv_mepa.tests.support.tiny_stack.topologies import TOPOLOGIES

    config = model_config(TOPOLOGIES[topology], *widths)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device=torch.device(device))
    return comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def random_encoder(host: Path) -> Any:
    """CLIP_VISION of ViT-H/14, in the dtype that the host's options name."""
    import comfy.clip_vision

    encoder = comfy.clip_vision.ClipVisionModel(str(host / "comfy" / "clip_vision_config_h.json"))
    fill(encoder.model)
    return encoder


@torch.no_grad()
def fill(module: nn.Module) -> None:
    """Random weights of variance 1 / fan_in, all from one block of noise: drawing billions of numbers takes minutes."""
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))
    for name, parameter in module.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        scale = parameter[0].numel() ** -0.5
        flat = parameter.view(-1)
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)] * scale)
    module.requires_grad_(False).eval()


def adapter_file(folder: Path) -> Path:
    """An adapter of the full layout of ip-adapter-plus_sdxl_vit-h: 847.5 MB in half precision."""
    from pfv_mepa.tests.support.tiny_stack import adapter_files

    return adapter_files.write_plus_adapter(
        folder / "random-plus.safetensors",
        sdxl_widths(),
        encoder_width=VISION_WIDTH,
        context_dim=CONTEXT_DIM,
        num_heads=RESAMPLER_HEADS,
    )


def sdxl_widths() -> list[int]:
    """Channels of SDXL's 70 cross-attentions in the order of the public files: input, output, middle."""
    shallow, deep = [2 * CHANNELS] * 2, [4 * CHANNELS] * 10
    return [*shallow * 2, *deep * 2, *deep * 3, *shallow * 3, *deep]


def encoded(kept: int = 129) -> Any:
    """ImageTokens of one reference of which `kept` tokens were left, the class token included."""
    from pfv_mepa.pfv_core.reference.vit import VIT_H, ImageTokens

    generator = torch.Generator().manual_seed(2)
    tokens = (torch.randn(kept, VISION_WIDTH, generator=generator),)
    uncond = torch.randn(1, 257, VISION_WIDTH, generator=generator)
    return ImageTokens(tokens, tokens, torch.randn(1, VISION_PROJECTION, generator=generator), uncond, VIT_H)


def conditionings(context_dim: int = CONTEXT_DIM, pooled_dim: int = POOLED_DIM) -> tuple[Conditioning, Conditioning]:
    """Positive and negative CONDITIONING of SDXL's widths unless others are given."""
    generator = torch.Generator().manual_seed(1)

    def one() -> Conditioning:
        pooled = torch.randn(1, pooled_dim, generator=generator)
        return [[torch.randn(1, TEXT_TOKENS, context_dim, generator=generator), {"pooled_output": pooled}]]

    return one(), one()


def region(percent: int, side: int = 1024) -> Tensor:
    """(1, side, side): the first `percent` of the cells of SDXL's coarsest attention grid, row by row; 0 or 1 on every grid."""
    cells = side // 32
    mask = torch.zeros(cells * cells)
    mask[: round(percent / 100 * len(mask))] = 1.0
    return mask.view(1, cells, cells).repeat_interleave(32, 1).repeat_interleave(32, 2)


def facts_of_a_call(model: Any, latent_shape: tuple[int, ...], negative: tuple[bool, ...], sigma: float = 1.0) -> Any:
    """What a run adds to the options of a call, for a call by hand."""
    from pfv_mepa.tests.support.tiny_stack.calls import facts_of_a_call as facts

    return facts(model, latent_shape, negative, sigma)
