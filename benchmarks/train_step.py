"""Optimizer steps of the SDXL preset at its real size, once: `python -m benchmarks.train_step`, from the repository root.

Builds diffusers' SDXL U-Net (2.57 billion parameters, random, bfloat16) and the preset's adapter, and takes optimizer steps
with batch 1, gradient checkpointing and bf16; everything else is the preset's. Latents, images and text are random.
`--vision` adds a ViT-H/14 of random weights that encodes the reference; without it its tokens are random too.
Prints seconds and peak memory. Random weights say nothing of pictures. `--tiny` takes a U-Net of a few thousand parameters.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from lab.train.adapter_training import AdapterTraining
from lab.train.config import TrainConfig, preset
from lab.train.data import Sample
from lab.train.models import TrainingModels
from pfv_core.reference.open_clip_vit import OpenClipVit
from pfv_core.reference.vit import VIT_H, EncoderSpec, VisionEncoder

SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),  # diffusers' name for the number of heads
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TINY = {
    **SDXL,
    "block_out_channels": (32, 32, 32),
    "transformer_layers_per_block": 1,
    "attention_head_dim": 2,
    "cross_attention_dim": 32,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}
TOKENS = 77


def main() -> None:
    """Build, step, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="the same run with a U-Net of a few thousand parameters")
    parser.add_argument("--vision", action="store_true", help="encode the reference with a random ViT-H/14 (open_clip)")
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps; the first one also pays for warming up")
    parser.add_argument("--image-size", type=int, default=512, help="side of the image, pixels")
    arguments = parser.parse_args()
    started = time.monotonic()
    models = random_models(TINY if arguments.tiny else SDXL, arguments.vision)
    count = sum(parameter.numel() for parameter in models.unet.parameters())
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {models.unet.device}")
    print(f"U-Net: {count / 1e9:.3f} billion parameters, {models.unet.dtype}, {memory()}, {seconds(started)}")
    config = preset("sdxl").replace(
        batch_size=1, steps=arguments.steps, image_size=arguments.image_size, workers=0, validate_every=0
    )
    if arguments.tiny:
        config = config.replace(latent_width=32)
    with tempfile.TemporaryDirectory(prefix="train-step-") as folder:
        measure(models, config, Path(folder))


def measure(models: TrainingModels, config: TrainConfig, folder: Path) -> None:
    """Take the steps and print what they cost."""
    started = time.monotonic()
    accelerator = Accelerator(mixed_precision=config.precision)
    training = AdapterTraining(models, RandomImages(config.image_size), config, accelerator, folder)
    parameters = list(training.adapter.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    print(f"adapter: {count / 1e6:.1f} million parameters, {memory()}, {seconds(started)}", flush=True)
    before = [parameter.detach().flatten()[:8].clone() for parameter in parameters]

    def loss_of_step(index: int, _generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return training.loss(training.batches[index]), {}

    for step in range(config.steps):
        started = time.monotonic()
        logs = training.loop.one_step(loss_of_step)
        training.close()
        print(f"step {step + 1}: loss {logs['loss']:.4f}, {seconds(started)}, {memory()}", flush=True)
    pairs = zip(before, parameters, strict=True)
    changed = sum(not torch.equal(old, new.detach().flatten()[:8]) for old, new in pairs)
    print(f"{changed} of {len(before)} adapter tensors changed")


class RandomImages:
    """Noise with a caption."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return 8

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """One image of noise, and latents for it."""
        latents = torch.randn(4, self.size // 8, self.size // 8, generator=generator)
        return Sample(torch.rand(3, self.size, self.size, generator=generator), f"image {index}", latents=latents)


class RandomEncoder:
    """A VisionEncoder of ViT-H/14's sizes that has no blocks: tokens are projected patches."""

    def __init__(self) -> None:
        self.spec: EncoderSpec = VIT_H
        self.mean: tuple[float, ...] = (0.5, 0.5, 0.5)
        self.std: tuple[float, ...] = (0.25, 0.25, 0.25)
        self.conv = nn.Conv2d(3, VIT_H.hidden_size, VIT_H.patch_size, VIT_H.patch_size).requires_grad_(False)
        grid = VIT_H.image_size // VIT_H.patch_size
        self.places = torch.randn(1 + grid * grid, VIT_H.hidden_size)

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, N, D)."""
        return self.conv(pixel_values).flatten(2).transpose(1, 2)

    def class_token(self, like: Tensor) -> Tensor:
        """(D,)."""
        return self.places[0].to(like)

    def positions(self, like: Tensor) -> Tensor:
        """(1 + N, D)."""
        return self.places.to(like)

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens, twice."""
        return tokens, tokens

    def pool(self, last_hidden: Tensor) -> Tensor:
        """(B, P)."""
        return last_hidden[:, 0, : VIT_H.projection_size]


def random_models(sizes: dict[str, Any], vision: bool) -> TrainingModels:
    """Random weights, scaled so that numbers stay in range."""
    unet = random_unet(sizes)

    def encode_text(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        width = sizes["cross_attention_dim"]
        pooled = sizes["projection_class_embeddings_input_dim"] - 6 * sizes["addition_time_embed_dim"]
        return torch.randn(len(captions), TOKENS, width), torch.randn(len(captions), pooled)

    def encode_latents(image: Tensor) -> Tensor:
        return torch.randn(len(image), 4, image.shape[2] // 8, image.shape[3] // 8)

    encoder: VisionEncoder = random_vit_h() if vision else RandomEncoder()
    return TrainingModels("sdxl", unet, encoder, encode_text, encode_latents, DDIMScheduler())


@torch.no_grad()
def random_unet(sizes: dict[str, Any]) -> UNet2DConditionModel:
    """Filled from one block of noise: drawing billions of numbers takes minutes."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**sizes)
    nn.Module.to(unet, torch.bfloat16)
    unet.to_empty(device="cpu")
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    for name, parameter in unet.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        scale = parameter[0].numel() ** -0.5
        flat = parameter.view(-1)
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)] * scale)
    return unet.eval().requires_grad_(False)


def random_vit_h() -> VisionEncoder:
    """ViT-H/14 as open_clip builds it, bfloat16."""
    import open_clip

    visual = open_clip.create_model("ViT-H-14", precision="bf16").visual
    return OpenClipVit(visual.requires_grad_(False))


def seconds(started: float) -> str:
    """Time since then."""
    return f"{time.monotonic() - started:.1f} s"


def memory() -> str:
    """The most memory this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()
