"""Frozen models of a few thousand parameters with fixed weights, and datasets of coloured squares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from lab.train.config import RefAdGenConfig, TrainConfig, preset
from lab.train.data import Beside, Sample, seeded
from lab.train.models import TrainingModels
from lab.train.prompt_batches import PromptBatches
from lab.train.strict_id_config import ControlConfig
from lab.train.visibility import Visibility
from pfv_core.reference.vit import EncoderSpec

SIZE = 32
CONTEXT = 16
WIDTH = 16
PATCH = 8


class TinyVit(nn.Module):
    """A VisionEncoder of one mixing layer per block."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = EncoderSpec(SIZE, PATCH, 2, WIDTH, 12)
        self.mean, self.std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
        self.conv = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.place = nn.Parameter(torch.randn(1 + (SIZE // PATCH) ** 2, WIDTH))
        self.first = nn.Parameter(torch.randn(WIDTH))
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.projection = nn.Linear(WIDTH, 12, bias=False)

    def embed_patches(self, pixel_values: Tensor) -> Tensor:
        return self.conv(pixel_values.to(self.conv.weight)).flatten(2).transpose(1, 2)

    def class_token(self, like: Tensor) -> Tensor:
        return self.first.to(like)

    def positions(self, like: Tensor) -> Tensor:
        return self.place.to(like)

    def run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        before = tokens
        for block in self.blocks:
            before, tokens = tokens, tokens + torch.tanh(block(tokens + tokens.mean(1, keepdim=True)))
        return tokens, before

    def pool(self, last_hidden: Tensor) -> Tensor:
        return self.projection(last_hidden[:, 0])


def plain_unet(context: int, **features: Any) -> UNet2DConditionModel:
    """SD1.5's kind, or another one by its features, at the smallest size."""
    return UNet2DConditionModel(
        sample_size=SIZE // 8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(1, 2),
        cross_attention_dim=context,
        **features,
    )


def tiny_unet(context: int = CONTEXT) -> UNet2DConditionModel:
    """SDXL's features."""
    return plain_unet(
        context,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=context + 6 * 8,
    )


def tiny_models(base: str = "sdxl", prediction: str = "epsilon", context: int = CONTEXT) -> TrainingModels:
    """The same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet, vision = tiny_unet(context), TinyVit()
        words = torch.randn(128, context)
        pixels_to_latents = torch.randn(4, 3)
    unet.set_attn_processor(AttnProcessor())
    for module in (unet, vision):
        module.eval().requires_grad_(False)

    def encode_text(captions: list[str]) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([[ord(letter) % 128 for letter in f"{caption:<6}"[:6]] for caption in captions])
        return words[ids], words[ids].mean(1)

    def encode_latents(image: Tensor) -> Tensor:
        small = nn.functional.avg_pool2d(image, 8) * 2 - 1
        return torch.einsum("oc,bchw->bohw", pixels_to_latents, small)

    def decode_latents(latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents[:, :3] / 2 + 0.5, scale_factor=8)

    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction, clip_sample=False
    )
    return TrainingModels(base, unet, vision, encode_text, encode_latents, scheduler, decode_latents, {"unet": "tiny"})


class Squares:
    """A coloured square (the product) on another colour."""

    identity = "squares"

    def __init__(self, length: int = 12, size: int = SIZE) -> None:
        self.length = length
        self.size = size

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        colors = torch.rand(2, 3, generator=seeded(7, index, "colors"))
        product = torch.zeros(self.size, self.size)
        product[8:20, 8:20] = 1
        image = torch.where(product > 0, colors[0].view(3, 1, 1), colors[1].view(3, 1, 1))
        return Sample(image, f"{index}", product, 1 - product, name=f"square {index}", key=f"square {index}")


class Products(Squares):
    """The same with the square alone, on grey, as the picture of the product."""

    identity = "products"

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        ad = super().sample(index, generator)
        product = torch.where(ad.product_mask > 0, ad.image, 0.5)
        return replace(ad, product=product, product_key=f"product {index}")


class Subjects(Squares):
    """The same beside a subject of known rows, whose pose is a plain picture in the colour that the other one has."""

    identity = "subjects"

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        scene = super().sample(index, generator)
        pose = Beside(scene.image[:, :1, :1].expand(3, self.size, self.size).contiguous(), f"pose {index}")
        return replace(scene, pose=pose, subject=(4.0, 12.0 + index))


class Changed:
    """Another dataset with parts of each sample changed."""

    def __init__(self, dataset: Squares, **changes: object) -> None:
        self.dataset = dataset
        self.changes: dict[str, Any] = changes
        self.identity = f"{dataset.identity}, changed"

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        return replace(self.dataset.sample(index, generator), **self.changes)


TINY_RUN = {
    "image_size": SIZE,
    "batch_size": 4,
    "steps": 6,
    "learning_rate": 1e-3,
    "save_every": 2,
    "precision": "no",
    "save_precision": "fp32",
    "gradient_checkpointing": False,
    "workers": 0,
    "checkpoint_every": 2,
    "keep_checkpoints": 2,
    "validate_every": 0,
    "validation_images": 2,
    "validation_steps": 2,
}


def tiny_refadgen(**changes: object) -> RefAdGenConfig:
    """A run of RefAdGen of seconds."""
    settings = {**TINY_RUN, "warmup": 0, "decay_from": 1.0, **changes}
    return preset("refadgen_sdxl").replace(**settings)


def tiny_strict_id(**changes: object) -> ControlConfig:
    """A run of a Strictly-ID ControlNet of seconds."""
    return preset("strict_id_sdxl").replace(
        **{**TINY_RUN, "accumulate": 1, "ema_decay": 0.9, "balance_from": 0, **changes}
    )


def tiny_config(**changes: object) -> TrainConfig:
    """A run of seconds."""
    small = TrainConfig(
        preset="sdxl",
        base="sdxl",
        num_tokens=3,
        latent_width=8,
        ema_decay=0.9,
        hide_kinds={"dataset": 1.0, "patches": 1.0},
        region_kinds={"visible": 1.0, "half_plane": 1.0},
        region_share_unmasked=0.5,
        gates={"query": 1.0, "output": 1.0},
        **TINY_RUN,
    )
    return small.replace(**changes)


def tiny_batches(dataset=None, process: int = 0, num_processes: int = 1, **changes: object) -> PromptBatches:
    """The micro-batches of a run of all samples of a dataset."""
    config = tiny_config(**changes)
    visibility = Visibility(EncoderSpec(SIZE, PATCH, 2, WIDTH, 12), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), config)
    return PromptBatches(dataset or Squares(), config, visibility, process, num_processes)
