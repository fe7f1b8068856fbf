"""Key sets and shapes of the public adapter files, written down from the projects that made them.

`ip-adapter` files hold a linear projection, `ip-adapter-plus` files a resampler. Numbers are those of SDXL and SD1.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

# Query widths of the cross-attentions in file order, as multiples of the base width 320: input, output, middle.
SDXL_WIDTHS = [2] * 4 + [4] * 20 + [4] * 30 + [2] * 6 + [4] * 10
SD15_WIDTHS = [1, 1, 2, 2, 4, 4] + [4] * 3 + [2] * 3 + [1] * 3 + [4]


@dataclass(frozen=True)
class Layout:
    """Sizes of a file; latent_width 0 = the linear kind, which has no heads and no depth."""

    widths: tuple[int, ...]
    context_dim: int
    encoder_width: int
    num_tokens: int
    latent_width: int = 0
    heads: int = 0
    depth: int = 4

    def shapes(self) -> Shapes:
        """Flat keys of the .safetensors file, and their shapes."""
        shapes = self._plus() if self.latent_width else self._linear()
        shapes = {f"image_proj.{name}": shape for name, shape in shapes.items()}
        for layer, width in enumerate(self.widths):
            for name in ("to_k_ip", "to_v_ip"):
                shapes[f"ip_adapter.{2 * layer + 1}.{name}.weight"] = (width, self.context_dim)
        return shapes

    def _linear(self) -> Shapes:
        projected = self.num_tokens * self.context_dim
        norm = (self.context_dim,)
        return {
            "proj.weight": (projected, self.encoder_width),
            "proj.bias": (projected,),
            "norm.weight": norm,
            "norm.bias": norm,
        }

    def _plus(self) -> Shapes:
        width, inner = self.latent_width, 64 * self.heads
        shapes: Shapes = {
            "latents": (1, self.num_tokens, width),
            "proj_in.weight": (width, self.encoder_width),
            "proj_in.bias": (width,),
            "proj_out.weight": (self.context_dim, width),
            "proj_out.bias": (self.context_dim,),
            "norm_out.weight": (self.context_dim,),
            "norm_out.bias": (self.context_dim,),
        }
        for layer in range(self.depth):
            for norm in ("0.norm1", "0.norm2", "1.0"):
                shapes |= {f"layers.{layer}.{norm}.{name}": (width,) for name in ("weight", "bias")}
            shapes[f"layers.{layer}.0.to_q.weight"] = (inner, width)
            shapes[f"layers.{layer}.0.to_kv.weight"] = (2 * inner, width)
            shapes[f"layers.{layer}.0.to_out.weight"] = (width, inner)
            shapes[f"layers.{layer}.1.1.weight"] = (4 * width, width)
            shapes[f"layers.{layer}.1.3.weight"] = (width, 4 * width)
        return shapes


def _times(widths: list[int], base: int) -> tuple[int, ...]:
    return tuple(base * width for width in widths)


# True sizes.
PUBLIC = {
    "ip-adapter_sdxl_vit-h": Layout(_times(SDXL_WIDTHS, 320), 2048, 1024, 4),
    "ip-adapter-plus_sdxl_vit-h": Layout(_times(SDXL_WIDTHS, 320), 2048, 1280, 16, latent_width=1280, heads=20),
    "ip-adapter_sd15": Layout(_times(SD15_WIDTHS, 320), 768, 1024, 4),
    "ip-adapter-plus_sd15": Layout(_times(SD15_WIDTHS, 320), 768, 1280, 16, latent_width=768, heads=12),
}
# The same key sets with widths that fit into a test.
TINY = {
    "ip-adapter_sdxl_vit-h": Layout(_times(SDXL_WIDTHS, 2), 8, 6, 4),
    "ip-adapter-plus_sdxl_vit-h": Layout(_times(SDXL_WIDTHS, 2), 8, 10, 16, latent_width=12, heads=2),
    "ip-adapter_sd15": Layout(_times(SD15_WIDTHS, 2), 8, 6, 4),
    "ip-adapter-plus_sd15": Layout(_times(SD15_WIDTHS, 2), 8, 10, 16, latent_width=12, heads=1),
}


def random_tensors(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Seeded values of these shapes."""
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(shape, generator=generator).to(dtype) for key, shape in shapes.items()}


def weightless_tensors(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes that share one number each: 850 MB of file in a few hundred bytes."""
    return {key: torch.zeros(1, dtype=torch.float16).expand(shape) for key, shape in shapes.items()}


def nested(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The layout of the .bin files: one dictionary for each part."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    return parts
