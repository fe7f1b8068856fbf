"""References encoded with the host's CLIP vision models, each once for as long as its encoder is loaded."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from comfy.model_management import intermediate_device
from torch import Tensor

from ...pfv_core.choices import parse_choice
from ...pfv_core.reference.origin import EncodedReference, reference_origin, weights_hash, with_origin
from ...pfv_core.reference.patch_mask import PatchMask
from ...pfv_core.reference.vit import HideMode, ImageTokens, encode_image, passes, tokens_in_sequence
from ..feedback import progress_over
from ..host.content_cache import ContentCache
from ..host.vit import host_encoder

CACHE_BYTES = 64 << 20  # about 25 references of ViT-H, or as many as fit of a larger encoder

# By the encoder's module, and gone with it.
_references: WeakKeyDictionary[torch.nn.Module, ContentCache[EncodedReference]] = WeakKeyDictionary()
_hashes: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


def encode_reference(
    clip_vision: Any, reference_image: Tensor, patch_mask: PatchMask, mode: HideMode | str
) -> EncodedReference:
    """`encode_image` with the host's encoder; the same inputs are encoded once.

    Raises:
        ValueError: an encoder that is neither CLIP nor DINOv2, or what `encode_image` raises.
    """
    mode = parse_choice(HideMode, mode, "mode")
    encoder = host_encoder(clip_vision)
    origin = reference_origin(reference_image, patch_mask, mode, encoder_hash(clip_vision))

    def encode() -> EncodedReference:
        encoder.load()
        uncond, keep_on = encoder.uncond_penultimate(), intermediate_device()
        in_sequence = tokens_in_sequence(patch_mask, mode).expand(reference_image.shape[0], -1)
        with progress_over(encoder.blocks, len(passes(in_sequence))):
            tokens = encode_image(encoder, reference_image, patch_mask, mode, uncond, keep_on)
        return with_origin(tokens, origin)

    cache = _references.setdefault(clip_vision.model, ContentCache(CACHE_BYTES, _size))
    return cache.get_or_compute(origin.key, encode)


def encoder_hash(clip_vision: Any) -> str:
    """Hash of an encoder's weights, computed once for each loaded encoder."""
    if clip_vision.model not in _hashes:
        _hashes[clip_vision.model] = weights_hash(clip_vision.model)
    return _hashes[clip_vision.model]


def _size(tokens: ImageTokens) -> int:
    """Bytes of a reference's own tokens; the answer to zero pixels is one tensor for all of them."""
    return sum(tensor.nbytes for tensor in (*tokens.last, *tokens.penultimate, tokens.image_embeds))
