"""A CLIP-like ViT of a few thousand parameters that fulfils the VisionEncoder protocol."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pfv_mepa.pfv_core.reference.vit import EncoderSpec

from .weights import randomize

MEAN = (0.48, 0.46, 0.41)
STD = (0.27, 0.26, 0.28)


class Block(nn.Module):
    """Pre-norm attention and MLP, with the softmax written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.norm1(tokens)
        query, key, value = (
            layer(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(-1)
        tokens = tokens + self.out((weights @ value).transpose(1, 2).flatten(2))
        return tokens + self.fc2(nn.functional.gelu(self.fc1(self.norm2(tokens))))


class TinyVit(nn.Module):
    """VisionEncoder with seeded weights; `forward` is the ordinary encoder, which knows nothing of masks."""

    def __init__(
        self,
        image_size: int = 32,
        patch_size: int = 8,
        width: int = 16,
        num_layers: int = 3,
        heads: int = 2,
        projection_size: int = 12,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.spec = EncoderSpec(image_size, patch_size, num_layers, width, projection_size)
        self.mean, self.std = MEAN, STD
        self.conv = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.position_embedding = nn.Parameter(torch.empty(1 + (image_size // patch_size) ** 2, width))
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(num_layers))
        self.projection = nn.Linear(width, projection_size, bias=False)
        randomize(self, seed)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, S, S) -> last, penultimate (B, 1 + N, D) and pooled (B, P)."""
        patches = self.conv(pixel_values).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(len(patches), 1, -1)
        tokens = self.norm_in(torch.cat([class_token, patches], 1) + self.position_embedding)
        for block in self.blocks:
            penultimate, tokens = tokens, block(tokens)
        return tokens, penultimate, self.projection(self.norm_out(tokens[:, 0]))

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values.to(self.conv.weight)).flatten(2).transpose(1, 2)

    def class_token(self, like: Tensor) -> Tensor:
        return self.class_embedding.to(like)

    def positions(self, like: Tensor) -> Tensor:
        return self.position_embedding.to(like)

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        hidden = before = self.norm_in(tokens)
        tokens.fill_(float("nan"))  # the protocol lets an encoder work in place
        for block in self.blocks:
            before, hidden = hidden, block(hidden)
        return hidden, before

    def pool(self, last_hidden: Tensor) -> Tensor:
        return self.projection(self.norm_out(last_hidden[:, 0]))
