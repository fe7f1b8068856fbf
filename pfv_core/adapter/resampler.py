"""The resampler of the public IP-Adapter-plus files: learned queries attend to the tokens (with softmax)."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .. import layers
from ..layers import at_least_float32
from .token_compress import compress_eq3

HEAD_DIM = 64


class PerceiverAttention(nn.Module):
    """Latents attend to tokens and to themselves."""

    def __init__(self, width: int, inner_width: int, operations: Any = layers) -> None:
        super().__init__()
        self.heads = inner_width // HEAD_DIM
        self.norm1 = operations.LayerNorm(width)
        self.norm2 = operations.LayerNorm(width)
        self.to_q = operations.Linear(width, inner_width, bias=False)
        self.to_kv = operations.Linear(width, inner_width * 2, bias=False)
        self.to_out = operations.Linear(inner_width, width, bias=False)

    def forward(self, tokens: Tensor, latents: Tensor) -> Tensor:
        """(B, N, W) tokens, (B, c, W) latents -> (B, c, W). Softmax in float32."""
        tokens, latents = self.norm1(tokens), self.norm2(latents)
        key, value = self.to_kv(torch.cat([tokens, latents], 1)).chunk(2, -1)
        query, key, value = (
            t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.to_q(latents), key, value)
        )
        scale = query.shape[-1] ** -0.25  # on both sides of the product: half precision keeps its range
        logits = (query * scale) @ (key * scale).transpose(-2, -1)
        weights = at_least_float32(logits).softmax(-1).to(value.dtype)
        return self.to_out((weights @ value).transpose(1, 2).flatten(2))


class Resampler(nn.Module):
    """(B, N, E) tokens -> (B, c, context_dim) image prompt tokens."""

    def __init__(
        self,
        encoder_width: int,
        width: int,
        inner_width: int,
        depth: int,
        feedforward: int,
        num_tokens: int,
        context_dim: int,
        operations: Any = layers,
    ) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.zeros(1, num_tokens, width))
        self.proj_in = operations.Linear(encoder_width, width)
        self.proj_out = operations.Linear(width, context_dim)
        self.norm_out = operations.LayerNorm(context_dim)
        blocks = []
        for _ in range(depth):
            mlp = nn.Sequential(
                operations.LayerNorm(width),
                operations.Linear(width, feedforward, bias=False),
                nn.GELU(),
                operations.Linear(feedforward, width, bias=False),
            )
            blocks.append(nn.ModuleList([PerceiverAttention(width, inner_width, operations), mlp]))
        self.layers = nn.ModuleList(blocks)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, E) -> (B, c, context_dim)."""
        tokens = self.proj_in(tokens)
        latents = self.latents.to(tokens).expand(tokens.shape[0], -1, -1)
        for layer in self.layers:
            attention, mlp = cast(nn.ModuleList, layer)
            latents = attention(tokens, latents) + latents
            latents = mlp(latents) + latents
        return self.norm_out(self.proj_out(latents))

    def eq3(self, tokens: Tensor, normalize: bool) -> Tensor:
        """Eq. 3 in place of the attention layers, with this file's projections and latents as Q.

        (B, N, E) -> (B, c, context_dim). The file was trained with softmax attention; this is the paper's form on it.
        """
        tokens = self.proj_in(tokens)
        compressed = compress_eq3(tokens, self.latents.to(tokens), normalize)
        return self.norm_out(self.proj_out(compressed)).to(tokens.dtype)  # normed before it leaves float32
