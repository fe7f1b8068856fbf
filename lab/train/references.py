"""From references to keys and values: masked encoding (PFV), and the adapter as one trainable module."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pfv_core.adapter.model import Adapter, AdapterKind
from pfv_core.reference.vit import HideMode, encode_pixels, encode_uncond

from .cache import TensorCache, cached
from .config import TrainConfig
from .models import TrainingModels, vision_of

KeysValues = list[tuple[Tensor, Tensor]]


class ImagePrompts(nn.Module):
    """An adapter as one module from encoded images to keys and values: what processes share gradients of."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__()
        self.adapter = adapter

    def forward(self, features: Sequence[Tensor]) -> KeysValues:
        """Per image (1 + K, E) tokens, or (E,) embeddings -> per layer the key and value, (B, c, width)."""
        return self.adapter.keys_values(self.image_prompt(features))

    def image_prompt(self, features: Sequence[Tensor]) -> Tensor:
        """Per image (1 + K, E) tokens, or (E,) embeddings -> (B, c, context_dim). Equal shapes run together."""
        groups: dict[torch.Size, list[int]] = defaultdict(list)
        for image, feature in enumerate(features):
            groups[feature.shape].append(image)
        prompts = [self.adapter.image_proj(torch.stack([features[i] for i in images])) for images in groups.values()]
        if len(prompts) == 1:
            return prompts[0]
        order = torch.tensor([image for images in groups.values() for image in images])
        return torch.cat(prompts)[order.argsort().to(prompts[0].device)]


class References:
    """References encoded with parts of them hidden (PFV), as an adapter takes them.

    Args:
        models: the image encoder, and where it runs.
        config: how parts are hidden.
        cache: for what is encoded alike in every epoch; None = none.
    """

    def __init__(self, models: TrainingModels, config: TrainConfig, cache: TensorCache | None) -> None:
        self.vision = vision_of(models)
        self.config = config
        self.cache = cache
        self.pooled = config.kind is AdapterKind.LINEAR
        with torch.no_grad():
            self.uncond = encode_uncond(self.vision)

    @torch.no_grad()
    def encode(self, pixels: Tensor, patches: Tensor, keys: Sequence[str]) -> list[Tensor]:
        """Encode what is visible of references.

        Args:
            pixels: (B, 3, S, S), see `Visibility.seen`.
            patches: (B, N) bool, True = visible.
            keys: of the cache, see `cached`.

        Returns:
            Per image (1 + K, E) tokens, or (E,), float32.
        """
        encoded = cached(self.cache, keys, lambda items: self._encode(pixels[items], patches[items]))
        return [tokens.to(self.uncond.device) for tokens in encoded]

    def negative(self) -> Tensor:
        """What stands for no image: tokens of zero normalised pixels, or a zero embedding."""
        return self.uncond.new_zeros(self.vision.spec.projection_size) if self.pooled else self.uncond[0]

    def _encode(self, pixels: Tensor, patches: Tensor) -> list[Tensor]:
        zeroed = self.config.hide_mode is HideMode.ZERO
        in_sequence = torch.ones_like(patches) if zeroed else patches
        pixels = pixels.to(self.uncond.device, non_blocking=True)
        _, penultimate, embeds = encode_pixels(self.vision, pixels, patches, in_sequence)
        return list(embeds) if self.pooled else list(penultimate)
