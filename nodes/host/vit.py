"""The host's image encoders, CLIP and DINOv2, as the core's VisionEncoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import comfy.clip_vision
import comfy.model_management
import comfy.ops
import torch
from comfy.image_encoders.dino2 import Dinov2Model
from torch import Tensor

from ...pfv_core.reference.vit import EncoderSpec, ImageTokens, encode_uncond
from ..feedback import progress_over

# One entry for each loaded encoder, gone with it: its answer to zero pixels is the same for every reference.
_uncond: WeakKeyDictionary[torch.nn.Module, Tensor] = WeakKeyDictionary()


class HostVit:
    """VisionEncoder over a CLIP_VISION whose model is a CLIP ViT.

    Raises:
        ValueError: a vision model without class token (SigLIP).
    """

    def __init__(self, clip_vision: Any) -> None:
        self.spec = encoder_spec(clip_vision)
        self._clip_vision = clip_vision
        self._model = clip_vision.model
        self.mean = tuple(clip_vision.image_mean)
        self.std = tuple(clip_vision.image_std)

    def load(self) -> HostVit:
        """Have the host bring the weights where they are computed with."""
        comfy.model_management.load_model_gpu(self._clip_vision.patcher)
        return self

    def uncond_penultimate(self) -> Tensor:
        """(1, 1 + N, D) tokens of zero normalised pixels, encoded once for each loaded encoder."""
        if self._model not in _uncond:
            with progress_over(self.blocks):
                _uncond[self._model] = encode_uncond(self).cpu()
        return _uncond[self._model]

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        """The transformer blocks, each of which runs once in a pass."""
        return self._model.vision_model.encoder.layers

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, D), on the device the host computes on."""
        pixel_values = pixel_values.to(self._clip_vision.load_device)
        return self._model.vision_model.embeddings.patch_embedding(pixel_values).flatten(2).transpose(1, 2)

    def class_token(self, like: Tensor) -> Tensor:
        """(D,)."""
        return comfy.ops.cast_to_input(self._model.vision_model.embeddings.class_embedding, like)

    def positions(self, like: Tensor) -> Tensor:
        """(1 + N, D)."""
        return comfy.ops.cast_to_input(self._model.vision_model.embeddings.position_embedding.weight, like)

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Every layer; the host's layers add in place, so the normed copy is what they change."""
        vision = self._model.vision_model
        return vision.encoder(vision.pre_layrnorm(tokens), mask=None, intermediate_output=-2)

    def pool(self, last_hidden: Tensor) -> Tensor:
        """(B, P)."""
        return self._model.visual_projection(self._model.vision_model.post_layernorm(last_hidden[:, 0, :]))


class HostDinov2(HostVit):
    """VisionEncoder over a CLIP_VISION whose model is a DINOv2: 37x37 patches of 518 px, and the class token.

    The last tokens are those after the final norm, as the host has them, and the image embedding is the first of them.
    """

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, D), on the device the host computes on."""
        return self._model.embeddings.patch_embeddings(pixel_values.to(self._clip_vision.load_device))

    def class_token(self, like: Tensor) -> Tensor:
        """(D,)."""
        return comfy.ops.cast_to_input(self._model.embeddings.cls_token, like).flatten()

    def positions(self, like: Tensor) -> Tensor:
        """(1 + N, D)."""
        return comfy.ops.cast_to_input(self._model.embeddings.position_embeddings, like)[0]

    @property
    def blocks(self) -> Sequence[torch.nn.Module]:
        """The transformer blocks, each of which runs once in a pass."""
        return self._model.encoder.layer

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Every layer, and the final norm on the last."""
        last, penultimate = self._model.encoder(tokens, intermediate_output=-2)
        return self._model.layernorm(last), penultimate

    def pool(self, last_hidden: Tensor) -> Tensor:
        """(B, D)."""
        return last_hidden[:, 0]


def host_encoder(clip_vision: Any) -> HostVit:
    """The encoder that a CLIP_VISION holds; ValueError if it is neither CLIP nor DINOv2."""
    return HostDinov2(clip_vision) if isinstance(clip_vision.model, Dinov2Model) else HostVit(clip_vision)


def encoder_spec(clip_vision: Any) -> EncoderSpec:
    """Sizes of a CLIP_VISION; ValueError if it is neither a CLIP ViT nor a DINOv2."""
    if isinstance(clip_vision.model, Dinov2Model):
        hidden_size, _, patch_size, _ = clip_vision.model.embeddings.patch_embeddings.projection.weight.shape
        num_layers = len(clip_vision.model.encoder.layer)
        return EncoderSpec(clip_vision.image_size, patch_size, num_layers, hidden_size, hidden_size)
    vision: Any = getattr(clip_vision.model, "vision_model", None)
    embeddings: Any = getattr(vision, "embeddings", None)
    if getattr(embeddings, "class_embedding", None) is None or not hasattr(
        clip_vision.model.visual_projection, "weight"
    ):
        raise ValueError(
            f"clip_vision is a {type(clip_vision.model).__name__} without class token and projection (SigLIP?): load a "
            "CLIP vision model, CLIP-ViT-H-14 for the *_vit-h adapters, or a DINOv2 for an adapter trained with one"
        )
    hidden_size, _, patch_size, _ = embeddings.patch_embedding.weight.shape
    projection = clip_vision.model.visual_projection.weight.shape[0]
    return EncoderSpec(clip_vision.image_size, patch_size, len(vision.encoder.layers), hidden_size, projection)


def clip_vision_output(tokens: ImageTokens) -> Any:
    """Encoded images as the host's own CLIP_VISION_OUTPUT.

    Attributes are those of the host's encoder, with hidden tokens absent. Images of one batch that kept different
    numbers of patches are brought to the longest by repeating, evenly, tokens of their own.
    """
    output = comfy.clip_vision.Output()
    output["last_hidden_state"] = _stack(tokens.last)
    output["penultimate_hidden_states"] = _stack(tokens.penultimate)
    output["image_embeds"] = tokens.image_embeds
    output["mm_projected"] = None
    return output


def _stack(images: tuple[Tensor, ...]) -> Tensor:
    longest = max(len(image) for image in images) - 1
    return torch.stack([image[_repeated(len(image) - 1, longest)] for image in images])


def _repeated(kept: int, longest: int) -> Tensor:
    """Indices of the class token and of `kept` patches spread over `longest` places."""
    return torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.arange(longest) * kept // longest])
