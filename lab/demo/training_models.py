"""The demo's stack as the adapter training takes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..diffusers.vision import ClipVisionEncoder
from ..train.cache import fingerprint
from ..train.models import TrainingModels
from . import stack


def training_models(folder: Path = stack.WEIGHTS, device: torch.device | str = "cpu") -> TrainingModels:
    """The models that the repository ships, or others of their layout in `folder`, frozen and on `device`.

    Raises:
        FileNotFoundError: a file is missing.
    """
    names = ("unet", "vision_encoder", "text_encoder", "autoencoder")
    modules = {name: stack.load_model(name, folder).to(device) for name in names}
    clip_tokenizer = stack.tokenizer()

    def encode_text(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        ids = stack.tokenize(list(captions), clip_tokenizer)
        return stack.encode_text(modules["text_encoder"], ids.to(device))

    return TrainingModels(
        base="demo",
        unet=modules["unet"],
        vision=ClipVisionEncoder(modules["vision_encoder"]),
        encode_text=encode_text,
        encode_latents=modules["autoencoder"].encode,
        scheduler=stack.new_scheduler(),
        decode_latents=modules["autoencoder"].decode,
        identity={name: fingerprint(module) for name, module in modules.items()},
    )
