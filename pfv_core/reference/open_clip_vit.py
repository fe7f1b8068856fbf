"""An open_clip vision tower as a VisionEncoder: PFV without any host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .vit import EncoderSpec

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


class OpenClipVit:
    """VisionEncoder over `model.visual` of an open_clip CLIP whose vision tower is a plain ViT.

    Args:
        visual: an `open_clip.transformer.VisionTransformer` with a class token and the projection of CLIP.

    Raises:
        ValueError: a tower of another kind (timm, ResNet, CoCa's attention pooling, no projection).
    """

    def __init__(self, visual: Any) -> None:
        missing = [
            name for name in ("conv1", "class_embedding", "ln_pre", "transformer", "proj") if not hasattr(visual, name)
        ]
        if missing or visual.proj is None or not _pools_class_token(visual):
            raise ValueError(
                f"{type(visual).__name__} is not a plain CLIP ViT (missing {missing or 'a class-token projection'}): "
                "use an open_clip model such as ViT-H-14"
            )
        self.visual = visual.eval()
        size, patch = visual.conv1.weight.shape[0], visual.conv1.weight.shape[2]
        grid = int((visual.positional_embedding.shape[0] - 1) ** 0.5)
        self.spec = EncoderSpec(grid * patch, patch, len(visual.transformer.resblocks), size, visual.proj.shape[1])
        self.mean = tuple(getattr(visual, "image_mean", None) or OPENAI_MEAN)
        self.std = tuple(getattr(visual, "image_std", None) or OPENAI_STD)

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, D)."""
        weight = self.visual.conv1.weight
        return self.visual.conv1(pixel_values.to(weight)).flatten(2).transpose(1, 2)

    def class_token(self, like: Tensor) -> Tensor:
        """(D,)."""
        return self.visual.class_embedding.to(like)

    def positions(self, like: Tensor) -> Tensor:
        """(1 + N, D)."""
        return self.visual.positional_embedding.to(like)

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Every residual block on (B, 1 + K, D); open_clip builds its blocks batch-first or sequence-first."""
        transformer = self.visual.transformer
        batch_first = getattr(transformer, "batch_first", False)
        tokens = self.visual.ln_pre(tokens)
        tokens = tokens if batch_first else tokens.transpose(0, 1)
        before = tokens
        for block in transformer.resblocks:
            before, tokens = tokens, block(tokens)
        if not batch_first:
            before, tokens = before.transpose(0, 1), tokens.transpose(0, 1)
        return tokens, before

    def pool(self, last_hidden: Tensor) -> Tensor:
        """(B, P) projected class token."""
        return self.visual.ln_post(last_hidden[:, 0]) @ self.visual.proj


def _pools_class_token(visual: Any) -> bool:
    return getattr(visual, "attn_pool", None) is None and getattr(visual, "pool_type", "tok") == "tok"


def load_open_clip(weights: Path, architecture: str = "ViT-H-14", dtype: torch.dtype = torch.float32) -> OpenClipVit:
    """Load an open_clip vision tower from a local weights file; nothing is downloaded.

    Args:
        weights: an open_clip checkpoint (.safetensors, or a .bin/.pt that `weights_only` reads).
        architecture: open_clip's name of the model the file belongs to.
        dtype: of the parameters.

    Raises:
        ModuleNotFoundError: open_clip is not installed (`pip install open_clip_torch`).
        FileNotFoundError: no such file.
    """
    import open_clip  # imports torchvision: only those who ask for this encoder need either

    if not weights.is_file():
        raise FileNotFoundError(f"no open_clip weights at {weights}")
    model = open_clip.create_model(architecture, pretrained=str(weights), weights_only=True)
    return OpenClipVit(model.visual.to(dtype))
