"""Other packs that do the same job, called as they are installed. Nothing of them is part of this repository."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

IP_ADAPTER_PLUS = "ComfyUI_IPAdapter_plus"
DIFFUSERS = "diffusers"


@dataclass
class IPAdapterPlus:
    """ComfyUI_IPAdapter_plus by its own nodes."""

    module: ModuleType
    folder: Path
    loaded: Any = None

    def load(self, file: Path) -> Any:
        """Its loader node's work."""
        self.loaded = importlib.import_module("peer_ip_adapter_plus.utils").ipadapter_model_loader(str(file))
        return self.loaded

    def apply(self, model: Any, file: Path, tokens: Any, mask: Tensor | None, dtype: torch.dtype) -> Any:
        """Its node IPAdapter Embeds, which starts where our tokens do: after the image encoder."""
        loaded = self.loaded or self.load(file)
        embeds = torch.stack(tokens.penultimate)
        with torch.inference_mode(), _their_dtype(dtype):
            patched, *_ = self.module.IPAdapterEmbeds().apply_ipadapter(
                model, loaded, embeds, 1.0, "linear", 0.0, 1.0, neg_embed=tokens.uncond_penultimate, attn_mask=mask
            )
        return patched

    def encode(self, encoder: Any, image: Tensor, mask: Tensor) -> None:
        """What its apply node encodes: the masked picture, and a black one for the negative."""
        encode = importlib.import_module("peer_ip_adapter_plus.utils").encode_image_masked
        encode(encoder, image, mask)
        encode(encoder, torch.zeros_like(image))

    def forget(self) -> None:
        """Free the file's tensors."""
        self.loaded = None


def ip_adapter_plus(host: Path) -> IPAdapterPlus | None:
    """The pack from the host's custom_nodes, or None."""
    from headless.host.as_package import load_as_package

    folder = host / "custom_nodes" / IP_ADAPTER_PLUS
    if not folder.is_dir():
        return None
    load_as_package("peer_ip_adapter_plus", folder)
    return IPAdapterPlus(importlib.import_module("peer_ip_adapter_plus.IPAdapterPlus"), folder)


@contextmanager
def _their_dtype(dtype: torch.dtype) -> Iterator[None]:
    """It takes the U-Net's dtype from the host's options, which a user with such a model would have set."""
    from comfy.cli_args import args

    before = args.bf16_unet, args.fp32_unet
    args.bf16_unet = dtype is torch.bfloat16
    args.fp32_unet = dtype is torch.float32
    try:
        yield
    finally:
        args.bf16_unet, args.fp32_unet = before


def slots(model: Any) -> dict[Any, Callable[..., Tensor]]:
    """The patched cross-attentions of a host's model."""
    found: dict[Any, Callable[..., Tensor]] = model.model_options["transformer_options"]["patches_replace"]["attn2"]
    return found


def diffusers_attention(
    width: int, heads: int, num_tokens: int, dtype: torch.dtype
) -> tuple[Any, Any, nn.Module] | None:
    """diffusers' plain and IP-Adapter processors, and an attention whose own projections do nothing; None without it.

    Those projections are the model's, not the adapter's; the host's hook is called after them.
    """
    if find_spec(DIFFUSERS) is None:
        return None
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0

    attention = Attention(width, cross_attention_dim=width, heads=heads, dim_head=width // heads, bias=False)
    attention.to_q = attention.to_k = attention.to_v = nn.Identity()
    attention.to_out = nn.ModuleList([nn.Identity(), nn.Identity()])
    processor = IPAdapterAttnProcessor2_0(width, cross_attention_dim=2048, num_tokens=(num_tokens,)).to(dtype)
    return AttnProcessor2_0(), processor.requires_grad_(False), attention
