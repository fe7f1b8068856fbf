"""Encoding the visible patches of an image with a ViT that somebody else built."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from ..choices import parse_choice
from .patch_embed import masked_pixel_values, zero_hidden_tokens
from .patch_mask import PatchMask


class HideMode(str, Enum):
    """DROP takes hidden tokens out of the sequence; ZERO keeps them with a zeroed embedding (Eq. 1)."""

    DROP = "drop"
    ZERO = "zero"


@dataclass(frozen=True)
class EncoderSpec:
    """What an adapter must know of the encoder it was trained with.

    Attributes:
        image_size, patch_size: side of the input and of a patch, pixels.
        num_layers: transformer blocks.
        hidden_size: channels of a token.
        projection_size: channels of the pooled image embedding.
    """

    image_size: int
    patch_size: int
    num_layers: int
    hidden_size: int
    projection_size: int

    @property
    def name(self) -> str:
        """The public name of these sizes, or the sizes."""
        sizes = f"{self.num_layers} layers, hidden {self.hidden_size}, projection {self.projection_size}"
        known = {
            (32, 1280, 1024): "ViT-H/14",
            (48, 1664, 1280): "ViT-bigG/14",
            (24, 1024, 768): "ViT-L/14",
            (24, 1024, 1024): "DINOv2-L/14",
            (40, 1536, 1536): "DINOv2-g/14",
        }
        name = known.get((self.num_layers, self.hidden_size, self.projection_size))
        return f"{name} ({sizes})" if name else f"a ViT of {sizes}"


VIT_H = EncoderSpec(image_size=224, patch_size=14, num_layers=32, hidden_size=1280, projection_size=1024)


class VisionEncoder(Protocol):
    """The parts of a ViT that masked encoding needs. B images, N patches, D channels, row-major patches."""

    spec: EncoderSpec
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalised pixels -> (B, N, D), before position."""

    def class_token(self, like: Tensor) -> Tensor:
        """(D,) class embedding, before position, in the dtype and device of `like`."""

    def positions(self, like: Tensor) -> Tensor:
        """(1 + N, D) position embeddings, the class token's first, in the dtype and device of `like`."""

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 + K, D) tokens with position -> the output of the last block and of the one before it.

        The input norm is applied here; K may be smaller than N. The argument may be changed in place.
        """

    def pool(self, last_hidden: Tensor) -> Tensor:
        """(B, 1 + K, D) -> (B, P) projected image embedding of the class token."""


@dataclass(frozen=True)
class ImageTokens:
    """A batch of encoded images that may keep different numbers of patches. The class token comes first.

    Attributes:
        last: per image (1 + K_i, D), output of the last block.
        penultimate: per image (1 + K_i, D), output of the block before it.
        image_embeds: (B, P) projected class tokens.
        uncond_penultimate: (1, 1 + N, D), the encoder's answer to zero normalised pixels: the negative's image prompt.
        encoder: the encoder's sizes.
    """

    last: tuple[Tensor, ...]
    penultimate: tuple[Tensor, ...]
    image_embeds: Tensor
    uncond_penultimate: Tensor
    encoder: EncoderSpec

    def __len__(self) -> int:
        return len(self.penultimate)

    def to(self, device: torch.device) -> ImageTokens:
        """The same tokens on another device."""
        last, penultimate = (tuple(t.to(device) for t in images) for images in (self.last, self.penultimate))
        embeds, uncond = self.image_embeds.to(device), self.uncond_penultimate.to(device)
        return ImageTokens(last, penultimate, embeds, uncond, self.encoder)


def encode_image(
    encoder: VisionEncoder,
    reference_image: Tensor,
    patch_mask: PatchMask,
    mode: HideMode | str = HideMode.DROP,
    uncond_penultimate: Tensor | None = None,
) -> ImageTokens:
    """Encode what a mask leaves visible of a batch of images.

    Args:
        encoder: a ViT.
        reference_image: (B, 3, H, W) float, 0..1 where visible.
        patch_mask: made for this encoder's grid and these images.
        mode: drop or zero. Padding patches leave the sequence in both: they are no part of the image.
        uncond_penultimate: `encode_uncond(encoder)` where the caller has it already.

    Returns:
        Tokens in float32. Changing hidden pixels in any way changes no bit of them.

    Raises:
        ValueError: a mask made for another grid, an unknown mode, or what `masked_pixel_values` raises.

    Paper: Eq. 1, `z_ref = Projection(I_ref * D_p) * D_z`. `zero` is the equation: a zeroed embedding gets its position
    and still takes part in attention. **Deviation**: `drop`, the default, removes the tokens instead, as "drop (the
    regions with D value of 0)" says; they cost nothing and cannot dilute attention.
    """
    spec, geometry = encoder.spec, patch_mask.geometry
    if (geometry.input_size, geometry.patch_size) != (spec.image_size, spec.patch_size):
        raise ValueError(
            f"patch mask is for a {geometry.input_size} px input with {geometry.patch_size} px patches, the encoder "
            f"has {spec.image_size} px and {spec.patch_size} px: re-binarize the mask with the encoder that encodes"
        )
    pixel_values = masked_pixel_values(reference_image, patch_mask, encoder.mean, encoder.std)
    token_keep_mask = patch_mask.token_keep_mask.expand(pixel_values.shape[0], -1)
    in_sequence = token_keep_mask
    if parse_choice(HideMode, mode, "mode") is HideMode.ZERO:
        in_sequence = ~patch_mask.padding_mask.flatten()[None].expand_as(token_keep_mask)
    last, penultimate, image_embeds = encode_pixels(encoder, pixel_values, token_keep_mask, in_sequence)
    if uncond_penultimate is None:
        uncond_penultimate = encode_uncond(encoder)
    return ImageTokens(last, penultimate, image_embeds, uncond_penultimate, spec)


def encode_uncond(encoder: VisionEncoder) -> Tensor:
    """(1, 1 + N, D) penultimate tokens of zero normalised pixels, nothing hidden: what public training used."""
    size = encoder.spec.image_size
    everything = torch.ones(1, (size // encoder.spec.patch_size) ** 2, dtype=torch.bool)
    return encode_pixels(encoder, torch.zeros(1, 3, size, size), everything, everything)[1][0][None]


def encode_pixels(
    encoder: VisionEncoder, pixel_values: Tensor, token_keep_mask: Tensor, in_sequence: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """Run a ViT over part of its tokens.

    Args:
        encoder: a ViT.
        pixel_values: (B, 3, S, S) normalised.
        token_keep_mask: (B, N) bool, False zeroes the patch embedding (D_z of Eq. 1).
        in_sequence: (B, N) bool, False removes the token.

    Returns:
        Per image (1 + K_i, D) last and penultimate tokens, and (B, P) image embeddings, float32. Images that keep equally many
        tokens run together, so a batch costs what its kept tokens cost.
    """
    patches = zero_hidden_tokens(encoder.embed_patches(pixel_values), token_keep_mask)
    positions = encoder.positions(patches)
    patches = patches + positions[1:]
    class_token = (encoder.class_token(patches) + positions[0]).view(1, 1, -1)
    last: dict[int, Tensor] = {}
    penultimate: dict[int, Tensor] = {}
    pooled: dict[int, Tensor] = {}
    for images in _same_count(in_sequence):
        kept = torch.stack([patches[image][in_sequence[image].to(patches.device)] for image in images])
        hidden, before = encoder.run_blocks(torch.cat([class_token.expand(len(images), -1, -1), kept], 1))
        rows = (hidden.float(), before.float(), encoder.pool(hidden).float())
        for image, row, row_before, row_pooled in zip(images, *rows, strict=True):
            last[image], penultimate[image], pooled[image] = row, row_before, row_pooled
    order = range(pixel_values.shape[0])
    return tuple(last[i] for i in order), tuple(penultimate[i] for i in order), torch.stack([pooled[i] for i in order])


def _same_count(in_sequence: Tensor) -> list[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for image, count in enumerate(in_sequence.sum(1).tolist()):
        groups[count].append(image)
    return list(groups.values())
