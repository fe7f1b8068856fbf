"""Encoding the visible patches of an image with a ViT that somebody else built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from ..choices import parse_choice
from .encoder_spec import VIT_H as VIT_H
from .encoder_spec import EncoderSpec as EncoderSpec
from .patch_embed import check_visible, masked_pixel_values, zero_hidden_tokens
from .patch_mask import PatchMask

PASS_IMAGES = 16  # a ViT-H's activations of so many take about 0.3 GB


class HideMode(str, Enum):
    """DROP takes hidden tokens out of the sequence; ZERO keeps them with a zeroed embedding (Eq. 1)."""

    DROP = "drop"
    ZERO = "zero"


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
        kept_share: per image the share of its own patches that were kept, 0..1; None where nobody said.
    """

    last: tuple[Tensor, ...]
    penultimate: tuple[Tensor, ...]
    image_embeds: Tensor
    uncond_penultimate: Tensor
    encoder: EncoderSpec
    kept_share: tuple[float, ...] | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.penultimate)

    def to(self, device: torch.device) -> ImageTokens:
        """The same tokens on another device."""
        last, penultimate = (tuple(t.to(device) for t in images) for images in (self.last, self.penultimate))
        embeds, uncond = self.image_embeds.to(device), self.uncond_penultimate.to(device)
        return ImageTokens(last, penultimate, embeds, uncond, self.encoder, kept_share=self.kept_share)

    def part(self, images: slice) -> ImageTokens:
        """Those of some images."""
        share = None if self.kept_share is None else self.kept_share[images]
        last, penultimate, embeds = self.last[images], self.penultimate[images], self.image_embeds[images]
        return ImageTokens(last, penultimate, embeds, self.uncond_penultimate, self.encoder, kept_share=share)


def encode_image(
    encoder: VisionEncoder,
    reference_image: Tensor,
    patch_mask: PatchMask,
    mode: HideMode | str = HideMode.DROP,
    uncond_penultimate: Tensor | None = None,
    keep_on: torch.device | None = None,
) -> ImageTokens:
    """Encode what a mask leaves visible of a batch of images.

    Args:
        encoder: a ViT.
        reference_image: (B, 3, H, W) float, 0..1 where visible.
        patch_mask: made for this encoder's grid and these images.
        mode: drop or zero. Padding patches leave the sequence in both: they are no part of the image.
        uncond_penultimate: `encode_uncond(encoder)` where the caller has it already.
        keep_on: where the tokens are put, a pass's as soon as it is done; None = where they were computed.

    Returns:
        Tokens in float32. Changing hidden pixels in any way changes no bit of them. Images run in passes of at most
        PASS_IMAGES: what grows with the batch are the tokens, and the masks by a few bytes for each pixel. How many images share
        a pass changes tokens by rounding alone, as the order of sums in a product of matrices depends on its size.

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
    in_sequence = tokens_in_sequence(patch_mask, mode)
    check_visible(reference_image, patch_mask)  # all of them, before the first is encoded
    count = reference_image.shape[0]

    def pixel_values(images: list[int]) -> Tensor:
        return masked_pixel_values(reference_image[images], patch_mask.of(images), encoder.mean, encoder.std)

    keep = patch_mask.token_keep_mask.expand(count, -1)
    last, penultimate, embeds = _in_passes(encoder, pixel_values, keep, in_sequence.expand(count, -1), keep_on)
    if uncond_penultimate is None:
        uncond_penultimate = encode_uncond(encoder)
    if keep_on is not None:
        uncond_penultimate = uncond_penultimate.to(keep_on)
    shares = tuple(patch_mask.kept_share.expand(count).tolist())
    return ImageTokens(last, penultimate, embeds, uncond_penultimate, spec, kept_share=shares)


def tokens_in_sequence(patch_mask: PatchMask, mode: HideMode | str) -> Tensor:
    """(B or 1, N) bool, True = the patch's token is in the sequence that the encoder runs over."""
    if parse_choice(HideMode, mode, "mode") is HideMode.ZERO:
        return ~patch_mask.padding_mask.flatten()[None].expand(patch_mask.patch_keep_mask.shape[0], -1)
    return patch_mask.token_keep_mask


def passes(in_sequence: Tensor) -> list[list[int]]:
    """Which images run together: those that keep equally many tokens, at most PASS_IMAGES at a time.

    Args:
        in_sequence: (B, N) bool, one row for each image.
    """
    groups: dict[int, list[int]] = defaultdict(list)
    for image, count in enumerate(in_sequence.sum(1).tolist()):
        groups[count].append(image)
    starts = [(group, start) for group in groups.values() for start in range(0, len(group), PASS_IMAGES)]
    return [group[start : start + PASS_IMAGES] for group, start in starts]


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
        tokens run together, at most PASS_IMAGES at a time, so a batch costs what its kept tokens cost.
    """
    return _in_passes(encoder, lambda images: pixel_values[images], token_keep_mask, in_sequence, None)


def _in_passes(
    encoder: VisionEncoder,
    pixel_values: Callable[[list[int]], Tensor],
    token_keep_mask: Tensor,
    in_sequence: Tensor,
    keep_on: torch.device | None,
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
    """`encode_pixels` of pixels that are made when their pass comes."""
    found: dict[int, tuple[Tensor, ...]] = {}
    for images in passes(in_sequence):
        answers = _one_pass(encoder, pixel_values(images), token_keep_mask[images], in_sequence[images])
        kept = [answer.float() if keep_on is None else answer.float().to(keep_on) for answer in answers]
        found.update(zip(images, zip(*kept, strict=True), strict=True))
    last, penultimate, pooled = zip(*(found[image] for image in range(len(found))), strict=True)
    return last, penultimate, torch.stack(pooled)


def _one_pass(
    encoder: VisionEncoder, pixel_values: Tensor, token_keep_mask: Tensor, in_sequence: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Images that keep equally many tokens -> (B, 1 + K, D) last and penultimate tokens, (B, P)."""
    patches = zero_hidden_tokens(encoder.embed_patches(pixel_values), token_keep_mask)
    positions = encoder.positions(patches)
    patches = patches + positions[1:]
    class_token = (encoder.class_token(patches) + positions[0]).view(1, 1, -1)
    # Places are looked for where the mask is: in main memory, so that nothing is read back from a GPU.
    places = torch.stack([row.nonzero()[:, 0] for row in in_sequence])
    kept = patches.take_along_dim(places.to(patches.device)[..., None], 1)
    hidden, before = encoder.run_blocks(torch.cat([class_token.expand(len(patches), -1, -1), kept], 1))
    return hidden, before, encoder.pool(hidden)
