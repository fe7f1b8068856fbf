"""A transformers CLIP vision model or DINOv2 as a VisionEncoder: PFV without any host."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pfv_core.reference.open_clip_vit import OPENAI_MEAN, OPENAI_STD
from pfv_core.reference.vit import EncoderSpec

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ClipVisionEncoder:
    """`pfv_core.reference.vit.VisionEncoder` over a transformers CLIPVisionModelWithProjection.

    Args:
        model: on the device that should encode; it is used in the mode (train or eval) that it is in.
        mean, std: channel normalisation of its input, CLIP's by default.

    Raises:
        ValueError: a model without CLIP's vision tower and projection (SigLIP, DINOv2).
    """

    def __init__(self, model: Any, mean: tuple[float, ...] = OPENAI_MEAN, std: tuple[float, ...] = OPENAI_STD) -> None:
        vision = getattr(model, "vision_model", None)
        if not hasattr(vision, "pre_layrnorm") or not hasattr(model, "visual_projection"):
            raise ValueError(
                f"{type(model).__name__} is no CLIP vision model with projection: load a CLIPVisionModelWithProjection"
            )
        config = model.config
        self.spec = EncoderSpec(
            config.image_size, config.patch_size, config.num_hidden_layers, config.hidden_size, config.projection_dim
        )
        self.mean = tuple(mean)
        self.std = tuple(std)
        self._model = model
        self._vision: Any = vision

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, N, D), in the precision and on the device of the model."""
        convolution = self._vision.embeddings.patch_embedding
        return convolution(pixel_values.to(convolution.weight)).flatten(2).transpose(1, 2)

    def class_token(self, like: Tensor) -> Tensor:
        """(D,)."""
        return self._vision.embeddings.class_embedding.to(like)

    def positions(self, like: Tensor) -> Tensor:
        """(1 + N, D)."""
        return self._vision.embeddings.position_embedding.weight.to(like)

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Input norm and every block on (B, 1 + K, D) -> the last block's output and the one before it."""
        tokens = self._vision.pre_layrnorm(tokens)
        before = tokens
        for layer in self._vision.encoder.layers:
            before, tokens = tokens, layer(tokens, None)
        return tokens, before

    def pool(self, last_hidden: Tensor) -> Tensor:
        """(B, 1 + K, D) -> (B, P) projected class token."""
        return self._model.visual_projection(self._vision.post_layernorm(last_hidden[:, 0]))


class Dinov2Encoder:
    """`pfv_core.reference.vit.VisionEncoder` over a transformers Dinov2Model.

    The last tokens are those after the final norm, and the image embedding is the first of them, as a host has them.

    Args:
        model: on the device that should encode; it is used in the mode (train or eval) that it is in.

    Raises:
        ValueError: another kind of model, DINOv2 with registers among them: its own tokens would be others.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        if config.model_type != "dinov2":
            raise ValueError(f"{type(model).__name__} is a {config.model_type}: load a Dinov2Model without registers")
        sizes = config.image_size, config.patch_size, config.num_hidden_layers, config.hidden_size, config.hidden_size
        self.spec = EncoderSpec(*sizes)
        self.mean: tuple[float, ...] = IMAGENET_MEAN
        self.std: tuple[float, ...] = IMAGENET_STD
        self._model = model

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) normalised -> (B, N, D), in the precision and on the device of the model."""
        convolution = self._model.embeddings.patch_embeddings.projection
        return convolution(pixel_values.to(convolution.weight)).flatten(2).transpose(1, 2)

    def class_token(self, like: Tensor) -> Tensor:
        """(D,)."""
        return self._model.embeddings.cls_token.to(like).flatten()

    def positions(self, like: Tensor) -> Tensor:
        """(1 + N, D)."""
        return self._model.embeddings.position_embeddings.to(like)[0]

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Every block on (B, 1 + K, D), and the final norm on the last -> its output, and that of the block before."""
        before = tokens
        for layer in self._model.encoder.layer:
            before, tokens = tokens, layer(tokens)
        return self._model.layernorm(tokens), before

    def pool(self, last_hidden: Tensor) -> Tensor:
        """(B, 1 + K, D) -> (B, D)."""
        return last_hidden[:, 0]
