"""The models that make the pictures of a condition, and the judge that reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from ...diffusers.vision import ClipVisionEncoder
from .. import stack
from .judge import Judge, load_judge


@dataclass(frozen=True)
class Models:
    """What makes and reads the images."""

    autoencoder: stack.UnshuffledAutoencoder
    text_encoder: CLIPTextModelWithProjection
    vision: ClipVisionEncoder
    unet: UNet2DConditionModel
    controlnet: ControlNetModel
    tokenizer: CLIPTokenizer
    judge: Judge

    def encode_text(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See `stack.encode_text`."""
        return stack.encode_text(self.text_encoder, stack.tokenize(list(captions), self.tokenizer))


def load_models(weights: Path, judge: Path) -> Models:
    """Read what is needed of the demo stack, and the judge.

    Raises:
        FileNotFoundError: a file is missing.
    """
    names = ("autoencoder", "text_encoder", "vision_encoder", "unet", "controlnet")
    autoencoder, text_encoder, vision_encoder, unet, controlnet = (stack.load_model(name, weights) for name in names)
    for convolutional in (autoencoder, unet, controlnet):
        convolutional.to(memory_format=torch.channels_last)  # faster on a CPU
    vision = ClipVisionEncoder(vision_encoder)
    return Models(autoencoder, text_encoder, vision, unet, controlnet, stack.tokenizer(), load_judge(judge))
