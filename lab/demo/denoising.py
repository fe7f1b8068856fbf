"""What the stages on latents share: latents encoded once, noise, texts, and which part of a picture counts how much."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..files import save_atomically
from ..train.cache import fingerprint
from . import stack
from .captions import varied_caption
from .scene_data import SceneData
from .trainer import Trainer

# What the pooled text says reaches the U-Net beside its cross-attentions, where no image prompt can follow: in this
# share of the samples it says nothing.
SILENT_SHARE = 0.5
# Where things stand is decided in the noisiest timesteps: this share of the samples of `together` is drawn from there.
PLACED_SHARE, PLACED_FROM = 0.5, 0.8
RIM_WEIGHT = 4.0  # of latent cells that the product's outline runs through


@dataclass(frozen=True)
class Noised:
    """What a step on latents sees.

    Attributes:
        rows: (B,) scenes.
        latents: (B, 4, h, w), noisy.
        timesteps: (B,).
        velocity: (B, 4, h, w), to predict.
        ids: (B, T) tokens of the captions.
    """

    rows: Tensor
    latents: Tensor
    timesteps: Tensor
    velocity: Tensor
    ids: Tensor


class Denoising:
    """What the stages on latents share: cached latents of one size, noise, captions.

    Args:
        run, stage, size: whose.
        autoencoder: folder of the one that encodes; None = that of the weights.
    """

    def __init__(self, run: Trainer, stage: str, size: int = stack.IMAGE_SIZE, autoencoder: Path | None = None) -> None:
        self.run = run
        self.stage = stage
        self.size = size
        self.latents = cached_latents(run.work, run.trained("autoencoder", autoencoder), run.data, size)
        self.scheduler = stack.new_scheduler()
        self.tokenizer = stack.tokenizer()
        self.empty = stack.tokenize([""], self.tokenizer)

    def batch(self, step: int, generator: torch.Generator, placed_share: float = 0.0) -> Noised:
        """Scenes with noise; of `placed_share` of them that of the noisiest timesteps."""
        rows = self.run.rows(self.stage, generator)
        clean = self.latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        share = torch.rand(len(rows), generator=generator)
        placed = torch.rand(len(rows), generator=generator) < placed_share
        share = torch.where(placed, PLACED_FROM + (1 - PLACED_FROM) * share, share)
        timesteps = (share * len(self.scheduler.alphas_cumprod)).long()
        captions = [
            varied_caption(scene, random.Random(f"{self.run.seed}/{step}/{i}"))
            for i, scene in enumerate(self.run.scenes(rows))
        ]
        device = self.run.device
        return Noised(
            rows,
            self.scheduler.add_noise(clean, noise, timesteps).to(device),
            timesteps.to(device),
            self.scheduler.get_velocity(clean, noise, timesteps).to(device),
            stack.tokenize(captions, self.tokenizer).to(device),
        )

    def conditions(self, text_encoder: nn.Module, ids: Tensor, generator: torch.Generator) -> dict[str, Any]:
        """What the U-Net takes beside latents: the text, the pooled text where it is not silent, sizes."""
        context, pooled = stack.encode_text(text_encoder, torch.cat([ids, self.empty.to(ids.device)]))
        silent = (torch.rand(len(ids), 1, generator=generator) < SILENT_SHARE).to(ids.device)
        spoken = torch.where(silent, pooled[-1:], pooled[:-1])
        return {
            "encoder_hidden_states": context[:-1],
            "added_cond_kwargs": stack.added_conditions(spoken, self.size),
        }


@torch.no_grad()
def cached_latents(
    work: Path, autoencoder: stack.UnshuffledAutoencoder, data: SceneData, size: int = stack.IMAGE_SIZE
) -> Tensor:
    """(2 N, 4, size / 8, size / 8) half precision, of all scenes; encoded once into the folder `work`, in single precision
    whatever the training's is: who comes later reads the same."""
    file = work / f"latents32_{size}_{data.identity}_{fingerprint(autoencoder)[:12]}.pt"
    if not file.is_file():
        device = next(autoencoder.parameters()).device
        shrink = data.size // size
        latents = torch.empty(len(data.scenes), 4, size // 8, size // 8, dtype=torch.float16)
        for rows in tqdm(torch.arange(len(latents)).split(32), "encoding scenes", mininterval=10):
            latents[rows] = autoencoder.encode(F.avg_pool2d(data.images(rows), shrink).to(device)).half().cpu()
        save_atomically(file, lambda unfinished: torch.save(latents, unfinished))
    loaded: Tensor = torch.load(file, weights_only=True)
    return loaded


def rims(product: Tensor) -> Tensor:
    """(B, H, W) coverage -> (B, 1, h, w) float, 1 = the latent cell holds a part of the product and a part of what is not."""
    planes = product[:, None]
    return ((F.max_pool2d(planes, 8) > 0.5) & (F.max_pool2d(1 - planes, 8) > 0.5)).float()


def rim_loss(predicted: Tensor, noised: Noised, product: Tensor) -> Tensor:
    """Mean squared error of a predicted velocity; cells that the outline of a (B, H, W) product runs through count more."""
    weights = 1 + (RIM_WEIGHT - 1) * rims(product)
    return ((predicted.float() - noised.velocity).square() * weights).mean() / weights.mean()
