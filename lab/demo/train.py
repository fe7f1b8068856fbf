"""Trains the tiny stack from scratch; can be killed at any moment and started again.

    python -m lab.demo.train --work FOLDER [--stage NAME] [--out FOLDER] [--seed N]

Stages, each resting on those before it: autoencoder, decoder, encoders, unet, controlnet. Without --stage all run in turn.
Weights go to --out in half precision, with what made them in their metadata.
"""

from __future__ import annotations

import argparse
import platform
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import ControlNetModel, UNet2DConditionModel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from ..files import save_atomically
from ..train.loop import Schedule, TrainingLoop
from . import stack
from .captions import caption, product_phrase, table_phrase, varied_caption, wall_phrase
from .scene_data import SceneData, scene_data
from .scenes import ATTRIBUTES, Scene, labels

NUM_SCENES = 24_576
STAGES = ("autoencoder", "decoder", "encoders", "unet", "controlnet")


@dataclass(frozen=True)
class Recipe:
    """How each stage is trained: schedule and batch size."""

    autoencoder: Schedule
    decoder: Schedule
    encoders: Schedule
    unet: Schedule
    controlnet: Schedule
    batch_sizes: dict[str, int]


def recipe(seed: int) -> Recipe:
    """The one the shipped weights were made with."""
    common: dict[str, Any] = {"seed": seed, "weight_decay": 0.0, "save_every": 100}
    return Recipe(
        autoencoder=Schedule(1000, 2e-3, warmup=50, decay_from=0.4, final_rate=0.02, ema_decay=0.99, **common),
        decoder=Schedule(600, 1e-3, warmup=20, decay_from=0.3, final_rate=0.02, ema_decay=0.99, **common),
        encoders=Schedule(2000, 1e-3, warmup=150, decay_from=0.4, final_rate=0.02, **common),
        unet=Schedule(
            2000, 1.2e-3, betas=(0.9, 0.99), warmup=200, decay_from=0.45, final_rate=0.02, ema_decay=0.998, **common
        ),
        controlnet=Schedule(500, 1e-3, warmup=50, decay_from=0.5, final_rate=0.05, ema_decay=0.99, **common),
        batch_sizes={"autoencoder": 16, "decoder": 16, "encoders": 64, "unet": 48, "controlnet": 32},
    )


class Trainer:
    """One run: where its states and its weights go, and its data."""

    def __init__(self, work: Path, out: Path, how: Recipe, seed: int = 0, num_scenes: int = NUM_SCENES) -> None:
        self.work = work
        self.out = out
        self.seed = seed
        self.recipe = how
        self.accelerator = Accelerator()
        self.data: SceneData = scene_data(work, num_scenes, stack.IMAGE_SIZE)
        self.num_scenes = num_scenes

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        device: torch.device = self.accelerator.device
        return device

    def loop(self, stage: str, modules: dict[str, nn.Module]) -> TrainingLoop:
        """The loop of a stage, at the step it had reached."""
        identity = {"stage": stage, "num_scenes": self.num_scenes, "batch_size": self.recipe.batch_sizes[stage]}
        return TrainingLoop(self.work / stage, modules, getattr(self.recipe, stage), identity, self.accelerator)

    def rows(self, stage: str, generator: torch.Generator) -> Tensor:
        """(B,) scenes of a step."""
        return torch.randint(self.num_scenes, (self.recipe.batch_sizes[stage],), generator=generator)

    def scenes(self, rows: Tensor) -> list[Scene]:
        """The scenes of those rows."""
        return [self.data.scenes[row] for row in rows.tolist()]

    def export(self, stage: str, loop: TrainingLoop, **models: nn.Module) -> None:
        """Write the weights of a finished stage."""
        metadata = {
            "made_by": "python -m lab.demo.train",
            "seed": str(self.seed),
            "steps": str(getattr(self.recipe, stage).steps),
            "batch_size": str(self.recipe.batch_sizes[stage]),
            "scenes": str(self.num_scenes),
            "seconds": str(round(loop.seconds)),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {self.device.type}",
            "license": "Apache-2.0",
        }
        for name, model in models.items():
            stack.save_weights(model, self.out / f"{name}.safetensors", metadata)
            self.accelerator.print(f"wrote {self.out / name}.safetensors")

    def trained(self, name: str) -> Any:
        """A model of an earlier stage, frozen."""
        return stack.load_model(name, self.out).to(self.device)


def train_autoencoder(run: Trainer) -> None:
    """L1, squared error and the L1 of gradients, on latents with a little noise."""
    autoencoder = stack.UnshuffledAutoencoder()
    loop = run.loop("autoencoder", {"autoencoder": autoencoder.kl})

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        image = run.data.images(run.rows("autoencoder", generator)).to(run.device)
        kl = loop.modules["autoencoder"]
        latents = loop.unwrapped("autoencoder").encode(F.pixel_unshuffle(image * 2 - 1, stack.UNSHUFFLE)).latent_dist
        mean = latents.mode()
        noise = torch.randn(mean.shape, generator=generator).to(run.device)
        decoded = kl.decode(mean + 0.05 * noise).sample
        loss, psnr = _image_loss(F.pixel_shuffle(decoded, stack.UNSHUFFLE) / 2 + 0.5, image)
        spread = 1e-3 * (mean.square().mean() - 1).square()  # keeps the latents near unit size
        return loss + spread, {"psnr": psnr}

    loop.run(loss_of_step, title="autoencoder")
    with loop.averaged():
        _measure_latents(run, autoencoder.to(run.device))
        run.export("autoencoder", loop, autoencoder=autoencoder)


def _image_loss(made: Tensor, image: Tensor) -> tuple[Tensor, float]:
    """Absolute and squared error, the absolute error of gradients; and dB."""
    difference = made - image
    squared = difference.square().mean()
    gradients = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
    return difference.abs().mean() + 4 * squared + gradients, float(-10 * squared.detach().log10())


def train_decoder(run: Trainer) -> None:
    """The autoencoder's decoder for longer, on the finished encoder's latents: sharper pictures of the same latents."""
    autoencoder = run.trained("autoencoder")
    autoencoder.kl.decoder.requires_grad_(True)
    loop = run.loop("decoder", {"autoencoder": autoencoder})

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        image = run.data.images(run.rows("decoder", generator)).to(run.device)
        with torch.no_grad():
            latents = autoencoder.encode(image)
        noise = torch.randn(latents.shape, generator=generator).to(run.device)
        loss, psnr = _image_loss(autoencoder.decode(latents + 0.05 * noise), image)
        return loss, {"psnr": psnr}

    loop.run(loss_of_step, title="decoder")
    with loop.averaged():
        run.export("decoder", loop, autoencoder=loop.unwrapped("autoencoder"))


@torch.no_grad()
def _measure_latents(run: Trainer, autoencoder: stack.UnshuffledAutoencoder) -> None:
    rows = torch.arange(min(1024, run.num_scenes)).split(64)
    latents = torch.cat([autoencoder.encode(run.data.images(batch).to(run.device)) for batch in rows])
    autoencoder.mean.copy_(latents.mean((0, 2, 3), keepdim=True))
    autoencoder.deviation.copy_(latents.std((0, 2, 3), keepdim=True))


class Probes(nn.Module):
    """Linear readings that tell the encoders what is worth knowing; thrown away after the training."""

    def __init__(self) -> None:
        super().__init__()

        def heads(width: int) -> nn.ModuleDict:
            return nn.ModuleDict({name: nn.Linear(width, len(values)) for name, values in ATTRIBUTES.items()})

        self.of_image = heads(stack.CONTEXT_DIM)
        self.of_text = heads(stack.CONTEXT_DIM)
        self.of_patch = heads(stack.VISION["hidden_size"])
        self.pixels = nn.Linear(stack.VISION["hidden_size"], 3 * 4 * 4)
        self.scale = nn.Parameter(torch.tensor(2.0))


def train_encoders(run: Trainer) -> None:
    """CLIP's contrast between image and caption, with linear readings of what a patch and a whole image show.

    In half of the images some patches are hidden as PFV hides them: half of the time the product, else at random.
    """
    modules: dict[str, nn.Module] = {
        "vision": stack.new_vision_encoder(),
        "text": stack.new_text_encoder(),
        "probes": Probes(),
    }
    loop = run.loop("encoders", modules)
    clip_tokenizer = stack.tokenizer()

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows = run.rows("encoders", generator)
        scenes = run.scenes(rows)
        image = run.data.images(rows)
        product, wall = run.data.products(rows), run.data.walls(rows)
        keep = _random_keep(product, generator).to(run.device)
        target = {name: values.to(run.device) for name, values in labels(scenes).items()}
        captions = [_full_caption(scene, random.Random(f"{run.seed}/{step}/{i}")) for i, scene in enumerate(scenes)]
        ids = stack.tokenize(captions, clip_tokenizer).to(run.device)
        probes = loop.modules["probes"]

        patches, image_embeds = _encode(loop.modules["vision"], stack.pixel_values(image).to(run.device), keep)
        text_embeds = loop.modules["text"](ids).text_embeds
        contrast = _contrast(image_embeds, text_embeds, probes.scale)
        seen = ("wall_color", "pattern", "table")  # whatever is hidden, these show somewhere
        of_image = _readings_loss(probes.of_image, image_embeds, {name: target[name] for name in seen})
        of_text = _readings_loss(probes.of_text, text_embeds, target)
        of_patch = _patch_loss(probes, patches, keep, _patch_shares(product, wall).to(run.device), target)
        small = F.interpolate(image, (32, 32), mode="area").to(run.device)
        pixels = F.mse_loss(probes.pixels(patches).mul(keep[..., None]), _blocks(small, 4) * keep[..., None])
        loss = contrast + 0.5 * of_image + 0.5 * of_text + of_patch + 10 * pixels
        return loss, {
            "contrast": float(contrast.detach()),
            "of_image": float(of_image.detach()),
            "of_text": float(of_text.detach()),
            "of_patch": float(of_patch.detach()),
            "pixels": float(pixels.detach()),
        }

    loop.run(loss_of_step, title="encoders")
    run.export("encoders", loop, vision_encoder=loop.unwrapped("vision"), text_encoder=loop.unwrapped("text"))


def _encode(vision: CLIPVisionModelWithProjection, pixels: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Penultimate patch tokens (B, N, D) and projected embedding (B, P); hidden patches embed to zero (Eq. 2)."""
    model = vision.vision_model
    patches = model.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2) * keep[..., None]
    class_token = model.embeddings.class_embedding.expand(len(pixels), 1, -1)
    tokens = torch.cat([class_token, patches], 1) + model.embeddings.position_embedding.weight
    hidden = model.pre_layrnorm(tokens)
    for layer in model.encoder.layers[:-1]:
        hidden = _first(layer(hidden, None))
    last = _first(model.encoder.layers[-1](hidden, None))
    return hidden[:, 1:], vision.visual_projection(model.post_layernorm(last[:, 0]))


def _first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def _random_keep(product: Tensor, generator: torch.Generator) -> Tensor:
    """(B, N) float, 1 = the patch is seen."""
    count, patch = len(product), stack.IMAGE_SIZE * stack.VISION["patch_size"] // stack.VISION["image_size"]
    touched = F.max_pool2d(product.unsqueeze(1), patch).flatten(1) > 0
    share = torch.rand(count, 1, generator=generator) * 0.6
    at_random = torch.rand(touched.shape, generator=generator) < share
    kind = torch.rand(count, 1, generator=generator)
    hidden = torch.where(kind < 0.25, touched, torch.where(kind < 0.5, at_random, torch.zeros_like(touched)))
    return 1 - hidden.float()


def _patch_shares(product: Tensor, wall: Tensor) -> Tensor:
    """(B, N, 3) shares of product, wall and table in each patch."""
    patch = stack.IMAGE_SIZE * stack.VISION["patch_size"] // stack.VISION["image_size"]
    shares = torch.stack([product, wall, 1 - product - wall], 1)
    return F.avg_pool2d(shares, patch).flatten(2).transpose(1, 2)


def _readings_loss(heads: nn.ModuleDict, embeds: Tensor, target: dict[str, Tensor]) -> Tensor:
    return torch.stack([F.cross_entropy(heads[name](embeds), target[name]) for name in target]).sum()


def _patch_loss(probes: Probes, patches: Tensor, keep: Tensor, shares: Tensor, target: dict[str, Tensor]) -> Tensor:
    """Each patch tells of what covers most of it."""
    loss = patches.new_zeros(())
    for name, part in (("product_color", 0), ("shape", 0), ("wall_color", 1), ("pattern", 1), ("table", 2)):
        rows, places = ((shares[..., part] > 0.5) & (keep > 0)).nonzero(as_tuple=True)
        loss = loss + F.cross_entropy(probes.of_patch[name](patches[rows, places]), target[name][rows])
    return loss


def _blocks(image: Tensor, side: int) -> Tensor:
    """(B, 3, h, w) -> (B, N, 3 * side^2)."""
    return F.unfold(image, side, stride=side).transpose(1, 2)


def _contrast(image_embeds: Tensor, text_embeds: Tensor, scale: Tensor) -> Tensor:
    logits = F.normalize(image_embeds, dim=-1) @ F.normalize(text_embeds, dim=-1).T * scale.exp().clamp(max=50)
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def _full_caption(scene: Scene, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return caption(scene)
    phrases = [product_phrase(scene), table_phrase(scene), wall_phrase(scene)]
    rng.shuffle(phrases)
    return ", ".join(phrases)


class Denoising:
    """What the stages on latents share: cached latents, noise, captions, the v-prediction loss."""

    def __init__(self, run: Trainer, stage: str) -> None:
        self.run = run
        self.stage = stage
        self.latents = cached_latents(run.work, run.trained("autoencoder"), run.data)
        self.scheduler = stack.new_scheduler()
        self.tokenizer = stack.tokenizer()

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Rows, noisy latents, timesteps, the velocity to predict, token ids."""
        rows = self.run.rows(self.stage, generator)
        clean = self.latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = torch.randint(1000, (len(rows),), generator=generator)
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        velocity = self.scheduler.get_velocity(clean, noise, timesteps)
        scenes = self.run.scenes(rows)
        captions = [
            varied_caption(scene, random.Random(f"{self.run.seed}/{step}/{i}")) for i, scene in enumerate(scenes)
        ]
        ids = stack.tokenize(captions, self.tokenizer)
        device = self.run.device
        return rows, noisy.to(device), timesteps.to(device), velocity.to(device), ids.to(device)


@torch.no_grad()
def cached_latents(work: Path, autoencoder: stack.UnshuffledAutoencoder, data: SceneData) -> Tensor:
    """(N, 4, h, w) half precision, of all scenes; encoded once into the folder `work`."""
    file = work / "latents.pt"
    if not file.is_file():
        device = next(autoencoder.parameters()).device
        batches = tqdm(torch.arange(len(data.scenes)).split(64), "encoding scenes", mininterval=10)
        latents = torch.cat([autoencoder.encode(data.images(rows).to(device)).half().cpu() for rows in batches])
        save_atomically(file, lambda unfinished: torch.save(latents, unfinished))
    loaded: Tensor = torch.load(file, weights_only=True)
    return loaded


def train_unet(run: Trainer) -> None:
    """Velocity prediction on captions of which parts are missing; the text encoder learns along."""
    text_encoder = stack.new_text_encoder()
    stack.load_weights(text_encoder, run.out / "text_encoder.safetensors")
    loop = run.loop("unet", {"unet": stack.new_unet(), "text": text_encoder})
    denoising = Denoising(run, "unet")

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        _, noisy, timesteps, velocity, ids = denoising.batch(step, generator)
        context, pooled = stack.encode_text(loop.modules["text"], ids)
        predicted = loop.modules["unet"](
            noisy, timesteps, context, added_cond_kwargs=stack.added_conditions(pooled)
        ).sample
        return F.mse_loss(predicted, velocity), {}

    loop.run(loss_of_step, title="unet")
    with loop.averaged():
        run.export("unet", loop, unet=loop.unwrapped("unet"), text_encoder=loop.unwrapped("text"))


def train_controlnet(run: Trainer) -> None:
    """The same loss through the frozen U-Net, with the scene's depth."""
    unet: UNet2DConditionModel = run.trained("unet")
    text_encoder: CLIPTextModelWithProjection = run.trained("text_encoder")
    controlnet: ControlNetModel = stack.new_controlnet(unet)
    controlnet.requires_grad_(True)
    loop = run.loop("controlnet", {"controlnet": controlnet})
    denoising = Denoising(run, "controlnet")

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        rows, noisy, timesteps, velocity, ids = denoising.batch(step, generator)
        with torch.no_grad():
            context, pooled = stack.encode_text(text_encoder, ids)
        conditions = stack.added_conditions(pooled)
        depth = run.data.depths(rows).to(run.device)
        down, middle = loop.modules["controlnet"](
            noisy, timesteps, context, depth, added_cond_kwargs=conditions, return_dict=False
        )
        predicted = unet(
            noisy,
            timesteps,
            context,
            added_cond_kwargs=conditions,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return F.mse_loss(predicted, velocity), {}

    loop.run(loss_of_step, title="controlnet")
    with loop.averaged():
        run.export("controlnet", loop, controlnet=loop.unwrapped("controlnet"))


TRAIN: dict[str, Callable[[Trainer], None]] = {
    "autoencoder": train_autoencoder,
    "decoder": train_decoder,
    "encoders": train_encoders,
    "unet": train_unet,
    "controlnet": train_controlnet,
}


def train_stage(run: Trainer, stage: str) -> None:
    """Train one stage; its initial weights are the seed's, whatever ran before it."""
    torch.manual_seed(run.seed)
    TRAIN[stage](run)


def main() -> None:
    """Run the stages asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for drawn scenes and training states")
    parser.add_argument("--out", type=Path, default=stack.WEIGHTS, help="folder for the weights")
    parser.add_argument("--stage", choices=STAGES, help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    run = Trainer(arguments.work, arguments.out, recipe(arguments.seed), arguments.seed)
    for stage in [arguments.stage] if arguments.stage else STAGES:
        train_stage(run, stage)


if __name__ == "__main__":
    main()
