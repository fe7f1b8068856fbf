"""The trained parts of an adapter: image projection and one key/value projection for each cross-attention.

Module and parameter names are the keys of the public IP-Adapter files. `operations` is a namespace with Linear and
LayerNorm that compute in their input's precision: `layers`, or a host's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from .. import layers
from ..attention.unet_layout import AttentionLayer
from ..choices import parse_choice
from ..reference.vit import EncoderSpec, ImageTokens
from .resampler import Resampler
from .token_compress import cluster_tokens, compress_eq3

FORMAT = "mepa"  # key `format` of the metadata of our own files


class AdapterKind(str, Enum):
    """LINEAR projects the pooled embedding, RESAMPLER attends to the tokens, EQ3 compresses them as the paper does.

    TOKENS projects each token by itself: no compression, as many image prompt tokens as the encoder has.
    """

    LINEAR = "linear"
    RESAMPLER = "resampler"
    EQ3 = "eq3"
    TOKENS = "tokens"


class CompressMethod(str, Enum):
    """How Token Compress goes from kept tokens to the adapter's image prompt."""

    ADAPTER = "adapter"
    EQ3_NORMALIZED = "eq3_normalized"
    EQ3_LITERAL = "eq3_literal"
    CLUSTER = "cluster"


# Encoders by the width of their projected image embedding, and by that of a token.
EMBEDDINGS = {768: "CLIP-ViT-L-14", 1024: "CLIP-ViT-H-14", 1280: "CLIP-ViT-bigG-14"}
HIDDEN_STATES = {1024: "CLIP-ViT-L-14 or DINOv2-L", 1280: "CLIP-ViT-H-14", 1664: "CLIP-ViT-bigG-14"}


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter file says of itself, by keys, shapes and metadata.

    Attributes:
        kind: the image projection.
        base: the family of U-Nets it was trained on: sdxl, sd15, or what the metadata names.
        encoder_width: channels it takes: of the projected image embedding (linear) or of a token.
        latent_width: channels of the latents; 0 for linear and tokens.
        inner_width: heads * 64 of the resampler's attention; 0 for others.
        depth: resampler layers; 0 for others.
        feedforward: hidden width of the resampler's MLP; 0 for others.
        num_tokens: image prompt tokens, c.
        context_dim: channels of a context token.
        layers: the cross-attentions in file order.
        widths: channels of each of them.
        metadata: the file's own metadata, unread keys included.
    """

    kind: AdapterKind
    base: str
    encoder_width: int
    latent_width: int
    inner_width: int
    depth: int
    feedforward: int
    num_tokens: int
    context_dim: int
    layers: tuple[AttentionLayer, ...]
    widths: tuple[int, ...]
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def takes(self) -> str:
        """What of an encoder it takes, with the public encoders of that width."""
        linear = self.kind is AdapterKind.LINEAR
        fits = (EMBEDDINGS if linear else HIDDEN_STATES).get(self.encoder_width)
        what = f"{'image embeddings' if linear else 'hidden states'} of {self.encoder_width} channels"
        if self.trained_with:
            return f"{what} of {self.trained_with}, with which it was trained"
        return f"{what}, which by this width are of {fits}" if fits else what

    @property
    def trained_with(self) -> str:
        """`EncoderSpec.name` of its encoder, where the file is one of ours and says it; else empty."""
        metadata = dict(self.metadata)
        return metadata.get("encoder", "") if metadata.get("format") == FORMAT else ""

    def fits(self, encoder: EncoderSpec) -> bool:
        """Whether tokens of this encoder may belong into this adapter: by what the file says, and by their width where it says
        nothing, as public ones do.

        Width alone does not tell all: 1024 is the hidden width of ViT-L/14 and of DINOv2-L/14.
        """
        return self._width_of(encoder) == self.encoder_width and self.trained_with in ("", encoder.name)

    def check_encoder(self, encoder: EncoderSpec) -> None:
        """ValueError, with both sides, if tokens of this encoder do not belong into this adapter."""
        if self.fits(encoder):
            return
        linear = self.kind is AdapterKind.LINEAR
        if self.trained_with and self._width_of(encoder) == self.encoder_width:
            raise ValueError(
                f"the image was encoded by {encoder.name}; the adapter was trained with {self.trained_with}: load that"
            )
        fits = (EMBEDDINGS if linear else HIDDEN_STATES).get(self.encoder_width)
        raise ValueError(
            f"the image was encoded by {encoder.name}, whose {'image embedding' if linear else 'hidden state'} has "
            f"{self._width_of(encoder)} channels; this {self.kind.value} adapter takes {self.encoder_width}: load the encoder "
            f"it was trained with" + (f", which by this width is {fits}" if fits else "")
        )

    def _width_of(self, encoder: EncoderSpec) -> int:
        return encoder.projection_size if self.kind is AdapterKind.LINEAR else encoder.hidden_size


class LinearProjection(nn.Module):
    """Pooled image embedding (B, E) -> (B, c, context_dim)."""

    def __init__(self, config: AdapterConfig, operations: Any = layers) -> None:
        super().__init__()
        self.num_tokens = config.num_tokens
        self.proj = operations.Linear(config.encoder_width, config.num_tokens * config.context_dim)
        self.norm = operations.LayerNorm(config.context_dim)

    def forward(self, image_embeds: Tensor) -> Tensor:
        """(B, E) -> (B, c, context_dim)."""
        return self.norm(self.proj(image_embeds).unflatten(1, (self.num_tokens, -1)))


class Eq3Projection(nn.Module):
    """Eq. 3 with the linear operations that the paper omits: norm(W_out norm(Q Z^T Z / N)), Z = norm(W_in z).

    The norms keep the product in range whatever the tokens and their number are.
    """

    def __init__(self, config: AdapterConfig, operations: Any = layers) -> None:
        super().__init__()
        width = config.latent_width
        self.latents = nn.Parameter(torch.zeros(1, config.num_tokens, width))
        self.proj_in = operations.Linear(config.encoder_width, width)
        self.norm_in = operations.LayerNorm(width)
        self.norm_mid = operations.LayerNorm(width)
        self.proj_out = operations.Linear(width, config.context_dim)
        self.norm_out = operations.LayerNorm(config.context_dim)

    def forward(self, tokens: Tensor, normalize: bool = True) -> Tensor:
        """(B, N, E) -> (B, c, context_dim)."""
        tokens = self.norm_in(self.proj_in(tokens))
        compressed = self.norm_mid(compress_eq3(tokens, self.latents.to(tokens), normalize))  # before it leaves float32
        return self.norm_out(self.proj_out(compressed.to(tokens.dtype)))


class TokenProjection(nn.Module):
    """Every token by itself (B, N, E) -> (B, c, context_dim); copies of the class token stand where a token was dropped.

    The number of keys is the same whatever a mask hides, and the copies say nothing of where it hides. N beyond c is an
    error: another encoder's tokens.
    """

    def __init__(self, config: AdapterConfig, operations: Any = layers) -> None:
        super().__init__()
        self.num_tokens = config.num_tokens
        self.proj = operations.Linear(config.encoder_width, config.context_dim)
        self.norm = operations.LayerNorm(config.context_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, E), class token first -> (B, c, context_dim)."""
        missing = self.num_tokens - tokens.shape[1]
        if missing < 0:
            raise ValueError(
                f"{tokens.shape[1]} tokens for an adapter that takes {self.num_tokens}: use its own encoder"
            )
        projected = self.norm(self.proj(tokens))
        return torch.cat([projected, projected[:, :1].expand(-1, missing, -1)], 1)


class KeyValueProjections(nn.Module):
    """`to_k_ip` and `to_v_ip` of every cross-attention, in file order."""

    def __init__(self, config: AdapterConfig, operations: Any = layers) -> None:
        super().__init__()

        def projections() -> nn.ModuleList:
            return nn.ModuleList(operations.Linear(config.context_dim, width, bias=False) for width in config.widths)

        self.to_k_ip = projections()
        self.to_v_ip = projections()

    def forward(self, image_prompt: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, c, context_dim) -> per layer the key and value, (B, c, width)."""
        return [(key(image_prompt), value(image_prompt)) for key, value in zip(self.to_k_ip, self.to_v_ip, strict=True)]


def resampler_of(config: AdapterConfig, operations: Any = layers) -> Resampler:
    """The resampler that an adapter file describes."""
    return Resampler(
        config.encoder_width,
        config.latent_width,
        config.inner_width,
        config.depth,
        config.feedforward,
        config.num_tokens,
        config.context_dim,
        operations,
    )


class Adapter(nn.Module):
    """An image-prompt adapter: tokens of an encoder in, keys and values of every cross-attention out."""

    def __init__(self, config: AdapterConfig, operations: Any = layers) -> None:
        super().__init__()
        self.config = config
        projections = {
            AdapterKind.LINEAR: LinearProjection,
            AdapterKind.RESAMPLER: resampler_of,
            AdapterKind.EQ3: Eq3Projection,
            AdapterKind.TOKENS: TokenProjection,
        }
        self.image_proj: nn.Module = projections[config.kind](config, operations)
        self.ip_adapter = KeyValueProjections(config, operations)

    def image_prompt(
        self, tokens: ImageTokens, method: CompressMethod | str = CompressMethod.ADAPTER, num_tokens: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Compress encoded images to this adapter's image prompts.

        Args:
            tokens: B encoded images, on the device of this adapter.
            method: `adapter` = as the file was trained. `eq3_normalized` and `eq3_literal` put the file's latents into
                Eq. 3, where it has any. `cluster` first reduces the kept patches to at most `num_tokens` cluster means,
                without training.
            num_tokens: for cluster, patches left, at least 1, 0 = as many as the adapter has latents; for every other
                method 0 or the adapter's own number, which a file fixes.

        Returns:
            Positive (B, c, context_dim) and negative (1, c, context_dim) image prompts, float32. The negative is the
            answer to zero normalised pixels (tokens) or to a zero embedding (linear), as in the public training.

        Raises:
            ValueError: another encoder's tokens, a method this kind does not have, a number of tokens it cannot give.
        """
        method = parse_choice(CompressMethod, method, "method")
        self.config.check_encoder(tokens.encoder)
        if self.config.kind is AdapterKind.LINEAR:
            self._check_pooled(method, num_tokens)
            embeds = tokens.image_embeds
            return self.image_proj(embeds), self.image_proj(torch.zeros_like(embeds[:1]))
        num_tokens = self._check_num_tokens(method, num_tokens)
        positive = [self._compress(image, method, num_tokens) for image in tokens.penultimate]
        return torch.cat(positive), self._compress(tokens.uncond_penultimate[0], method, num_tokens)

    def keys_values(self, image_prompt: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(B, c, context_dim) -> per layer in file order the key and value, (B, c, width)."""
        return self.ip_adapter(image_prompt)

    def _compress(self, tokens: Tensor, method: CompressMethod, num_tokens: int) -> Tensor:
        """(1 + K, E), class token first -> (1, c, context_dim)."""
        if method is CompressMethod.CLUSTER:
            tokens = torch.cat([tokens[:1], cluster_tokens(tokens[1:], min(num_tokens, tokens.shape[0] - 1))])
        if method in (CompressMethod.EQ3_NORMALIZED, CompressMethod.EQ3_LITERAL):
            if isinstance(self.image_proj, TokenProjection):
                raise ValueError(
                    f"method is {method.value}, but a tokens adapter has no latents for Eq. 3: use adapter or cluster"
                )
            normalize = method is CompressMethod.EQ3_NORMALIZED
            if isinstance(self.image_proj, Resampler):
                return self.image_proj.eq3(tokens[None], normalize)
            return self.image_proj(tokens[None], normalize)
        return self.image_proj(tokens[None])

    def _check_pooled(self, method: CompressMethod, num_tokens: int) -> None:
        if method is not CompressMethod.ADAPTER:
            raise ValueError(
                f"method is {method.value}, but a linear adapter takes one pooled embedding and has no tokens to "
                "compress: use method adapter, or an adapter-plus file"
            )
        if num_tokens not in (0, self.config.num_tokens):
            raise ValueError(f"num_tokens is {num_tokens}, this adapter gives {self.config.num_tokens}: use 0")

    def _check_num_tokens(self, method: CompressMethod, num_tokens: int) -> int:
        own = self.config.num_tokens
        if method is CompressMethod.CLUSTER:
            if num_tokens < 0:
                raise ValueError(f"num_tokens is {num_tokens}, expected 1 or more, or 0 for {own}")
            return num_tokens or own
        if num_tokens not in (0, own):
            raise ValueError(
                f"num_tokens is {num_tokens}, but this adapter's file fixes {own}: use 0, or method cluster to choose"
            )
        return own
