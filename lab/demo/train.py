"""Trains the tiny stack from scratch; can be killed at any moment and started again.

    python -m lab.demo.train --work FOLDER [--stage NAME] [--out FOLDER] [--seed N] [--precision no|bf16] [--begin FOLDER]
        [--steps N]

Stages, each resting on those before it; without --stage all but the last run in turn:

autoencoder  pictures to latents and back
encoders     text and pictures, by CLIP's contrast
hint         the ControlNet's eye: what reads a depth picture, alone
unet_half    the U-Net on pictures of half the size, where a sample costs a quarter
together     U-Net and ControlNet at once, at full size
further      the same from the weights in --begin on, such as those that the repository ships; another --seed sees other samples

Weights go to --out in half precision, with what made them in their metadata; those that only a later stage reads go to --work.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import ControlNetModel
from safetensors import safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import CLIPVisionModelWithProjection

from ..files import save_atomically
from ..machine import machine
from ..train.cache import fingerprint
from ..train.loop import LossOfStep, Schedule, TrainingLoop
from . import stack
from .captions import caption, product_phrase, table_phrase, varied_caption, wall_phrase
from .scene_data import SceneData, scene_data
from .studio.scene import ATTRIBUTES, Scene, labels

NUM_SCENES = 6144  # rendered; each serves as its mirror image too
STAGES = ("autoencoder", "encoders", "hint", "unet_half", "together")
FURTHER = "further"
AT_ONCE = {"unet": "unet", "text": "text_encoder", "controlnet": "controlnet"}  # what is trained -> its file
CROP = 128  # pixels: the autoencoder learns from parts of pictures
HALF = stack.IMAGE_SIZE // 2
# What the pooled text says reaches the U-Net beside its cross-attentions, where no image prompt can follow: in this
# share of the samples it says nothing.
SILENT_SHARE = 0.5
# Where things stand is decided in the noisiest timesteps: this share of the samples of `together` is drawn from there.
PLACED_SHARE, PLACED_FROM = 0.5, 0.8
RIM_WEIGHT = 4.0  # of latent cells that the product's outline runs through
DEPTH_SHARE = 0.75  # of the samples of `together` that come with their depth; the others keep the U-Net whole without


class BeginError(RuntimeError):
    """What a stage goes on from is not there, or is where it would write; the message says what to give."""


@dataclass(frozen=True)
class Recipe:
    """How each stage is trained: schedule and batch size."""

    autoencoder: Schedule
    encoders: Schedule
    hint: Schedule
    unet_half: Schedule
    together: Schedule
    further: Schedule
    batch_sizes: dict[str, int]


def recipe(seed: int) -> Recipe:
    """The one the shipped weights were made with; `further` is what would follow."""
    common: dict[str, Any] = {"seed": seed, "weight_decay": 0.0, "save_every": 100}
    denoising = common | {"betas": (0.9, 0.99), "ema_decay": 0.998, "final_rate": 0.02}
    return Recipe(
        autoencoder=Schedule(800, 1e-3, warmup=30, decay_from=0.4, final_rate=0.02, ema_decay=0.99, **common),
        encoders=Schedule(1500, 1e-3, warmup=150, decay_from=0.4, final_rate=0.02, **common),
        hint=Schedule(500, 2e-3, warmup=50, decay_from=0.4, final_rate=0.02, **common),
        unet_half=Schedule(900, 1.2e-3, warmup=100, decay_from=0.5, **denoising | {"final_rate": 0.3}),
        together=Schedule(1500, 8e-4, warmup=100, decay_from=0.4, **denoising),
        further=Schedule(1500, 4e-4, warmup=100, decay_from=0.4, **denoising),
        batch_sizes={"autoencoder": 16, "encoders": 64, "hint": 16, "unet_half": 64, "together": 20, FURTHER: 20},
    )


class Trainer:
    """One run: where its states and its weights go, and its data."""

    def __init__(
        self,
        work: Path,
        out: Path,
        how: Recipe,
        seed: int = 0,
        num_scenes: int = NUM_SCENES,
        precision: str = "no",
        begin: Path | None = None,
    ) -> None:
        self.work = work
        self.out = out
        self.seed = seed
        self.recipe = how
        self.begin = begin
        self.begun_from = ""  # of the stage in training
        self.accelerator = Accelerator(mixed_precision=precision)
        self.data: SceneData = scene_data(work, num_scenes, stack.IMAGE_SIZE)

    @property
    def device(self) -> torch.device:
        """Where the models are."""
        device: torch.device = self.accelerator.device
        return device

    def begin_with(self, model: nn.Module, name: str) -> None:
        """Give a model the weights of that name to begin with, where the run has such a file."""
        file = None if self.begin is None else self.begin / f"{name}.safetensors"
        if file is not None and file.is_file():
            stack.load_weights(model, file)
            self.begun_from = _content_of(file)

    def loop(self, stage: str, modules: dict[str, nn.Module], **more: str) -> TrainingLoop:
        """The loop of a stage, at the step it had reached; `more` is what else decides the weights that come out."""
        identity = {
            **more,
            "stage": stage,
            "scenes": self.data.identity,
            "batch_size": self.recipe.batch_sizes[stage],
            "precision": self.accelerator.mixed_precision,
        }
        return TrainingLoop(self.work / stage, modules, getattr(self.recipe, stage), identity, self.accelerator)

    def train(self, stage: str, loop: TrainingLoop, loss_of_step: LossOfStep) -> None:
        """Go through the steps of a stage in the run's precision."""

        def in_precision(step: int, generator: torch.Generator) -> Any:
            with self.accelerator.autocast():
                return loss_of_step(step, generator)

        loop.run(in_precision, title=stage)

    def rows(self, stage: str, generator: torch.Generator) -> Tensor:
        """(B,) scenes of a step."""
        return torch.randint(len(self.data.scenes), (self.recipe.batch_sizes[stage],), generator=generator)

    def scenes(self, rows: Tensor) -> list[Scene]:
        """The scenes of those rows."""
        return [self.data.scenes[row] for row in rows.tolist()]

    def passed_on(self, stage: str) -> Path:
        """Folder of a stage's weights that only a later one reads."""
        return self.work / stage

    def export(self, stage: str, loop: TrainingLoop, folder: Path, **models: nn.Module) -> None:
        """Write the weights of a finished stage."""
        metadata = {
            "made_by": "python -m lab.demo.train",
            "stage": stage,
            "seed": str(self.seed),
            "steps": str(getattr(self.recipe, stage).steps),
            "batch_size": str(self.recipe.batch_sizes[stage]),
            "scenes": str(len(self.data.scenes)),  # with their mirror images
            "seconds": str(round(loop.seconds)),
            "precision": str(self.accelerator.mixed_precision),
            "machine": machine(self.device),
            "license": "Apache-2.0",
        }
        if self.begun_from:
            metadata["begun_from"] = self.begun_from
        for name, model in models.items():
            stack.save_weights(model, folder / f"{name}.safetensors", metadata)
            self.accelerator.print(f"wrote {folder / name}.safetensors")

    def trained(self, name: str, folder: Path | None = None) -> Any:
        """A model of an earlier stage, frozen; from the folder of the weights, or another one."""
        return stack.load_model(name, folder or self.out).to(self.device)


def train_autoencoder(run: Trainer) -> None:
    """L1, squared error and the L1 of gradients, on latents with a little noise, of parts of the pictures."""
    autoencoder = stack.UnshuffledAutoencoder()
    run.begin_with(autoencoder, "autoencoder")
    loop = run.loop("autoencoder", {"autoencoder": autoencoder.kl})

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        image = _cropped(run.data.images(run.rows("autoencoder", generator)), generator).to(run.device)
        kl = loop.modules["autoencoder"]
        latents = loop.unwrapped("autoencoder").encode(F.pixel_unshuffle(image * 2 - 1, stack.UNSHUFFLE)).latent_dist
        mean = latents.mode().float()
        noise = torch.randn(mean.shape, generator=generator).to(run.device)
        decoded = kl.decode(mean + 0.05 * noise).sample.float()
        made = F.pixel_shuffle(decoded, stack.UNSHUFFLE) / 2 + 0.5
        spread = 1e-3 * (mean.square().mean() - 1).square()  # keeps the latents near unit size
        return _image_loss(made, image) + spread, {"psnr": -10 * (made - image).detach().square().mean().log10()}

    run.train("autoencoder", loop, loss_of_step)
    with loop.averaged():
        _measure_latents(run, autoencoder.to(run.device))
        run.export("autoencoder", loop, run.out, autoencoder=autoencoder)


def _cropped(image: Tensor, generator: torch.Generator) -> Tensor:
    """(B, C, CROP, CROP): of each picture a part of its own."""
    places = torch.randint(image.shape[-1] - CROP + 1, (len(image), 2), generator=generator).tolist()
    parts = [one[:, top : top + CROP, left : left + CROP] for one, (top, left) in zip(image, places, strict=True)]
    return torch.stack(parts)


def _image_loss(made: Tensor, image: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of gradients."""
    difference = made - image
    gradients = (difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()) / 2
    return difference.abs().mean() + 4 * difference.square().mean() + gradients


@torch.no_grad()
def _measure_latents(run: Trainer, autoencoder: stack.UnshuffledAutoencoder) -> None:
    rows = torch.arange(min(512, len(run.data.scenes))).split(32)
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

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        rows = run.rows("encoders", generator)
        scenes = run.scenes(rows)
        image = F.avg_pool2d(run.data.images(rows), 2)  # the encoder sees less still
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
            "contrast": contrast.detach(),
            "of_image": of_image.detach(),
            "of_text": of_text.detach(),
            "of_patch": of_patch.detach(),
            "pixels": pixels.detach(),
        }

    run.train("encoders", loop, loss_of_step)
    run.export("encoders", loop, run.out, vision_encoder=loop.unwrapped("vision"), text_encoder=loop.unwrapped("text"))


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
    count, patch = len(product), product.shape[1] * stack.VISION["patch_size"] // stack.VISION["image_size"]
    touched = F.max_pool2d(product.unsqueeze(1), patch).flatten(1) > 0
    share = torch.rand(count, 1, generator=generator) * 0.6
    at_random = torch.rand(touched.shape, generator=generator) < share
    kind = torch.rand(count, 1, generator=generator)
    hidden = torch.where(kind < 0.25, touched, torch.where(kind < 0.5, at_random, torch.zeros_like(touched)))
    return 1 - hidden.float()


def _patch_shares(product: Tensor, wall: Tensor) -> Tensor:
    """(B, N, 3) shares of product, wall and all else in each patch: the table, and what stands beside the product."""
    patch = product.shape[1] * stack.VISION["patch_size"] // stack.VISION["image_size"]
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


def train_hint(run: Trainer) -> None:
    """Features of a depth picture from which it can be read again, linearly: what a ControlNet must know of it.

    Trained through a U-Net the same layers take thousands of steps to learn where an outline runs.
    """
    hint = stack.new_controlnet(stack.new_unet()).controlnet_cond_embedding.to(memory_format=torch.channels_last)
    reading = nn.Conv2d(stack.UNET["block_out_channels"][0], 8 * 8, 1)
    loop = run.loop("hint", {"hint": hint, "reading": reading})

    def loss_of_step(_step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        depth = run.data.depths(run.rows("hint", generator)).to(run.device)
        read = loop.modules["reading"](loop.modules["hint"](depth.contiguous(memory_format=torch.channels_last)))
        return _image_loss(F.pixel_shuffle(read.float(), 8), depth[:, :1]), {}

    run.train("hint", loop, loss_of_step)
    run.export("hint", loop, run.passed_on("hint"), hint=loop.unwrapped("hint"))


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
        with run.accelerator.autocast():
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
    """(2 N, 4, size / 8, size / 8) half precision, of all scenes; encoded once into the folder `work`."""
    file = work / f"latents_{size}_{data.identity}_{fingerprint(autoencoder)[:12]}.pt"
    if not file.is_file():
        device = next(autoencoder.parameters()).device
        shrink = data.size // size
        latents = torch.empty(len(data.scenes), 4, size // 8, size // 8, dtype=torch.float16)
        for rows in tqdm(torch.arange(len(latents)).split(32), "encoding scenes", mininterval=10):
            latents[rows] = autoencoder.encode(F.avg_pool2d(data.images(rows), shrink).to(device)).half().cpu()
        save_atomically(file, lambda unfinished: torch.save(latents, unfinished))
    loaded: Tensor = torch.load(file, weights_only=True)
    return loaded


def train_unet_half(run: Trainer) -> None:
    """Velocity prediction on captions of which parts are missing; the text encoder learns along."""
    unet, text_encoder = stack.new_unet(), stack.new_text_encoder()
    run.begin_with(unet, "unet")
    stack.load_weights(text_encoder, run.out / "text_encoder.safetensors")
    unet.to(memory_format=torch.channels_last)
    loop = run.loop("unet_half", {"unet": unet, "text": text_encoder})
    denoising = Denoising(run, "unet_half", HALF)

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        noised = denoising.batch(step, generator)
        conditions = denoising.conditions(loop.modules["text"], noised.ids, generator)
        predicted = loop.modules["unet"](noised.latents, noised.timesteps, **conditions).sample
        return F.mse_loss(predicted.float(), noised.velocity), {}

    run.train("unet_half", loop, loss_of_step)
    with loop.averaged():
        folder = run.passed_on("unet_half")
        run.export("unet_half", loop, folder, unet=loop.unwrapped("unet"), text_encoder=loop.unwrapped("text"))


def train_together(run: Trainer) -> None:
    """U-Net and ControlNet at once, most at the noisiest timesteps and where the product's outline runs.

    A ControlNet beside a frozen U-Net can only push against outlines that the U-Net has made up.
    """
    begun = run.passed_on("unet_half")
    unet, text_encoder = (run.trained(name, begun) for name in ("unet", "text_encoder"))
    run.begun_from = _begun_from(begun / "unet.safetensors")
    controlnet: ControlNetModel = stack.new_controlnet(unet)
    stack.load_weights(controlnet.controlnet_cond_embedding, run.passed_on("hint") / "hint.safetensors")
    _train_at_once(run, "together", {"unet": unet, "text": text_encoder, "controlnet": controlnet})


def train_further(run: Trainer) -> None:
    """U-Net, text encoder and ControlNet as `together`, from finished ones on; the other weights stay what they are."""
    begin = checked_begin(run.begin, run.out)
    run.begun_from = " and ".join(_content_of(begin / f"{name}.safetensors") for name in AT_ONCE.values())
    _train_at_once(run, FURTHER, {own: run.trained(name, begin) for own, name in AT_ONCE.items()}, begin)


def checked_begin(begin: Path | None, out: Path) -> Path:
    """The folder that `further` goes on from.

    Raises:
        BeginError: none, a file is missing there, or the new weights would be written over them.
    """
    files = [f"{name}.safetensors" for name in ("autoencoder", *AT_ONCE.values())]
    if begin is None or not all((begin / file).is_file() for file in files):
        raise BeginError(
            f"stage {FURTHER} goes on from finished weights: give --begin FOLDER with {', '.join(files)} in it, such as "
            f"{stack.WEIGHTS}"
        )
    if begin.resolve() == out.resolve():
        raise BeginError(f"--begin and --out are both {out}: what it begins with must stay; give another --out")
    return begin


def _train_at_once(run: Trainer, stage: str, models: dict[str, Any], begin: Path | None = None) -> None:
    """Train U-Net, text encoder and ControlNet, whose eye stays as it is, and write them.

    Args:
        begin: folder of the autoencoder; None = that of the weights.
    """
    for name, model in models.items():
        model.requires_grad_(True)
        if name != "text":
            model.to(memory_format=torch.channels_last)
    models["controlnet"].controlnet_cond_embedding.requires_grad_(False)
    loop = run.loop(stage, models, **({} if begin is None else {"begun_from": run.begun_from}))
    denoising = Denoising(run, stage, autoencoder=begin)

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        noised = denoising.batch(step, generator, PLACED_SHARE)
        conditions = denoising.conditions(loop.modules["text"], noised.ids, generator)
        shown = torch.rand(len(noised.rows), generator=generator) < DEPTH_SHARE
        depth = run.data.depths(noised.rows).to(run.device, memory_format=torch.channels_last)
        down, middle = loop.modules["controlnet"](
            noised.latents, noised.timesteps, controlnet_cond=depth, **conditions, return_dict=False
        )
        given = shown.to(run.device)[:, None, None, None]
        predicted = loop.modules["unet"](
            noised.latents,
            noised.timesteps,
            **conditions,
            down_block_additional_residuals=[residual * given for residual in down],
            mid_block_additional_residual=middle * given,
        ).sample
        weights = 1 + (RIM_WEIGHT - 1) * _rims(run.data.products(noised.rows)).to(run.device)
        squared = (predicted.float() - noised.velocity).square()
        return (squared * weights).mean() / weights.mean(), {}

    run.train(stage, loop, loss_of_step)
    with loop.averaged():
        run.export(stage, loop, run.out, **{name: loop.unwrapped(own) for own, name in AT_ONCE.items()})


def _content_of(file: Path) -> str:
    """Name and content of a file of weights."""
    return f"{file.stem} of sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def _begun_from(file: Path) -> str:
    """What the weights of an earlier stage began with; empty = with none."""
    with safe_open(file, "pt") as weights:
        begun_from: str = (weights.metadata() or {}).get("begun_from", "")
    return begun_from


def _rims(product: Tensor) -> Tensor:
    """(B, H, W) coverage -> (B, 1, h, w) float, 1 = the latent cell holds a part of the product and a part of what is not."""
    planes = product[:, None]
    return ((F.max_pool2d(planes, 8) > 0.5) & (F.max_pool2d(1 - planes, 8) > 0.5)).float()


TRAIN: dict[str, Callable[[Trainer], None]] = {
    "autoencoder": train_autoencoder,
    "encoders": train_encoders,
    "hint": train_hint,
    "unet_half": train_unet_half,
    "together": train_together,
    FURTHER: train_further,
}


def train_stage(run: Trainer, stage: str) -> None:
    """Train one stage; its initial weights are the seed's, whatever ran before it."""
    torch.manual_seed(run.seed)
    run.begun_from = ""
    TRAIN[stage](run)


def main() -> None:
    """Run the stages asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered scenes and training states")
    parser.add_argument("--out", type=Path, default=stack.WEIGHTS, help="folder for the weights")
    parser.add_argument("--stage", choices=(*STAGES, FURTHER), help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="bf16: where the processor has it")
    parser.add_argument("--begin", type=Path, help="folder of weights to begin with")
    parser.add_argument("--steps", type=int, help=f"of the stage {FURTHER} (default: {recipe(0).further.steps})")
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    how = recipe(arguments.seed)
    if arguments.stage == FURTHER:
        try:
            checked_begin(arguments.begin, arguments.out)
        except BeginError as error:  # before anything is drawn
            parser.error(str(error))
    if arguments.steps is not None:
        if arguments.stage != FURTHER or arguments.steps < 1:
            parser.error(f"--steps is a number of 1 or more, and of --stage {FURTHER} alone")
        how = replace(how, further=replace(how.further, steps=arguments.steps))
    run = Trainer(
        arguments.work, arguments.out, how, arguments.seed, precision=arguments.precision, begin=arguments.begin
    )
    for stage in [arguments.stage] if arguments.stage else STAGES:
        train_stage(run, stage)


if __name__ == "__main__":
    main()
