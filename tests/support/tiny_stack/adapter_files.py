"""Image-prompt adapter files in the public layout with any widths and seeded random weights.

Keys: `image_proj.*` is the projection of the encoder's output to image tokens; `ip_adapter.<n>.to_k_ip.weight` and
`to_v_ip.weight` are one layer's projections, n = 1, 3, 5, ... over the input side, the output side, then the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HEAD_DIM = 64  # of the resampler's attention in the public files
KEY_VALUE_GAIN = 0.3  # below the text's 1.0: a random image prompt must not drown a random U-Net


def cross_attention_widths(diffusion_model: Any) -> list[int]:
    """Query width of each cross-attention of a host U-Net, in the public files' order: input, output, middle."""
    sides = (diffusion_model.input_blocks, diffusion_model.output_blocks, diffusion_model.middle_block)
    return [
        module.attn2.to_q.out_features
        for side in sides
        if side is not None  # a U-Net without a middle block has None there
        for module in side.modules()
        if hasattr(module, "attn2")
    ]


def write_linear_adapter(
    path: Path,
    layer_widths: Sequence[int],
    *,
    image_embed_dim: int,
    context_dim: int,
    num_tokens: int = 4,
    seed: int = 7,
) -> Path:
    """Write the linear kind: one linear layer from the projected class token to `num_tokens` image tokens.

    Args:
        path: the .safetensors file to write.
        layer_widths: query width of each cross-attention, in file order (`cross_attention_widths`).
        image_embed_dim: width of the encoder's image_embeds.
        context_dim: width of the U-Net's text context.
        num_tokens: image tokens.
        seed: of the weights.
    """
    random = _Random(seed)
    projection = random.linear("proj", image_embed_dim, num_tokens * context_dim, bias=True)
    return _write(path, projection | random.norm("norm", context_dim), layer_widths, context_dim, random)


def write_plus_adapter(
    path: Path,
    layer_widths: Sequence[int],
    *,
    encoder_width: int,
    context_dim: int,
    num_tokens: int = 16,
    num_heads: int = 2,
    depth: int = 4,
    seed: int = 8,
) -> Path:
    """Write the plus kind: a resampler in which `num_tokens` learned queries read the encoder's hidden states.

    Args:
        path: the .safetensors file to write.
        layer_widths: query width of each cross-attention, in file order (`cross_attention_widths`).
        encoder_width: width of the encoder's hidden states.
        context_dim: width of the U-Net's text context.
        num_tokens: learned queries = image tokens.
        num_heads: heads of 64; the resampler's own width is 64 * num_heads.
        depth: resampler layers.
        seed: of the weights.
    """
    random = _Random(seed)
    width = HEAD_DIM * num_heads
    tensors = {"latents": random.matrix(num_tokens, width)[None]}
    tensors |= random.linear("proj_in", encoder_width, width, bias=True)
    tensors |= random.linear("proj_out", width, context_dim, bias=True)
    tensors |= random.norm("norm_out", context_dim)
    for layer in range(depth):
        tensors |= _resampler_layer(f"layers.{layer}", width, random)
    return _write(path, tensors, layer_widths, context_dim, random)


def _resampler_layer(prefix: str, width: int, random: _Random) -> dict[str, torch.Tensor]:
    tensors = random.norm(f"{prefix}.0.norm1", width) | random.norm(f"{prefix}.0.norm2", width)
    tensors |= random.linear(f"{prefix}.0.to_q", width, width)
    tensors |= random.linear(f"{prefix}.0.to_kv", width, 2 * width)
    tensors |= random.linear(f"{prefix}.0.to_out", width, width)
    tensors |= random.norm(f"{prefix}.1.0", width)
    tensors |= random.linear(f"{prefix}.1.1", width, 4 * width)
    return tensors | random.linear(f"{prefix}.1.3", 4 * width, width)


def _write(
    path: Path,
    image_projection: dict[str, torch.Tensor],
    layer_widths: Sequence[int],
    context_dim: int,
    random: _Random,
) -> Path:
    tensors = {f"image_proj.{name}": tensor for name, tensor in image_projection.items()}
    for layer, width in enumerate(layer_widths):
        number = 2 * layer + 1  # even numbers are the self-attentions, which have no weights
        for name in ("to_k_ip", "to_v_ip"):
            tensors |= random.linear(f"ip_adapter.{number}.{name}", context_dim, width, gain=KEY_VALUE_GAIN)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in tensors.items()}, path)
    return path


class _Random:
    """Seeded weights under the names of torch's own layers."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> torch.Tensor:
        return torch.randn(rows, columns, generator=self.generator) * gain / columns**0.5

    def linear(
        self, name: str, fan_in: int, fan_out: int, *, bias: bool = False, gain: float = 1.0
    ) -> dict[str, torch.Tensor]:
        tensors = {f"{name}.weight": self.matrix(fan_out, fan_in, gain)}
        if bias:
            tensors[f"{name}.bias"] = torch.randn(fan_out, generator=self.generator) * 0.02
        return tensors

    def norm(self, name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
