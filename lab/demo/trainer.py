"""One run of the demo's base training: its schedule, its data, and where states and weights go."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor, nn

from ..machine import machine
from ..train.cache import fingerprint
from ..train.loop import LossOfStep, Schedule, TrainingLoop
from . import stack
from .scene_data import SceneData, scene_data
from .studio.scene import Scene

NUM_SCENES = 6144  # rendered; each serves as its mirror image too
STAGES = ("autoencoder", "encoders", "hint", "unet_half", "together")
FURTHER, CONTROLNET = "further", "controlnet"
BEGINS_WITH = {
    FURTHER: ("autoencoder", "unet", "text_encoder", "controlnet"),
    CONTROLNET: ("autoencoder", "text_encoder", "vision_encoder", "unet", "adapter", "controlnet"),
}
"""The finished weights that a stage goes on from."""


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
    controlnet: Schedule
    batch_sizes: dict[str, int]


def recipe(seed: int) -> Recipe:
    """The one the shipped weights were made with, and `further`, which would make another base."""
    common: dict[str, Any] = {"seed": seed, "weight_decay": 0.0, "save_every": 100}
    denoising = common | {"betas": (0.9, 0.99), "ema_decay": 0.998, "final_rate": 0.02}
    return Recipe(
        autoencoder=Schedule(800, 1e-3, warmup=30, decay_from=0.4, final_rate=0.02, ema_decay=0.99, **common),
        encoders=Schedule(1500, 1e-3, warmup=150, decay_from=0.4, final_rate=0.02, **common),
        hint=Schedule(500, 2e-3, warmup=50, decay_from=0.4, final_rate=0.02, **common),
        unet_half=Schedule(900, 1.2e-3, warmup=100, decay_from=0.5, **denoising | {"final_rate": 0.3}),
        together=Schedule(1500, 8e-4, warmup=100, decay_from=0.4, **denoising),
        further=Schedule(1500, 4e-4, warmup=100, decay_from=0.4, **denoising),
        controlnet=Schedule(2600, 4e-4, warmup=100, decay_from=0.4, **denoising),
        batch_sizes={
            "autoencoder": 16,
            "encoders": 64,
            "hint": 16,
            "unet_half": 64,
            "together": 20,
            FURTHER: 20,
            CONTROLNET: 20,
        },
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
        until: float = math.inf,
    ) -> None:
        self.work = work
        self.out = out
        self.seed = seed
        self.recipe = how
        self.begin = begin
        self.until = until  # when drawing and steps end, done or not; see `TrainingLoop.run`
        self.begun_from = ""  # of the stage in training
        self._read: list[str] = []  # by it so far
        self.accelerator = Accelerator(mixed_precision=precision)
        self.data: SceneData = scene_data(work, num_scenes, stack.IMAGE_SIZE, until)

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
            self.reads(name, model)
            self.begun_from = content_of(file)

    def reads(self, name: str, model: nn.Module) -> None:
        """A loaded model that the stage goes on from or learns beside: with other weights its training is another one."""
        self._read.append(f"{name} {fingerprint(model)[:12]}")

    def loop(self, stage: str, modules: dict[str, nn.Module]) -> TrainingLoop:
        """The loop of a stage, at the step it had reached, once all is read that decides the weights that come out."""
        read, self._read = sorted(set(self._read)), []
        identity = {
            "read": " and ".join(read),
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

        loop.run(in_precision, title=stage, until=self.until)

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
            "steps": str(loop.step),
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
        model = stack.load_model(name, folder or self.out)
        self.reads(name, model)
        return model.to(self.device)


def checked_begin(stage: str, begin: Path | None, out: Path) -> Path:
    """The folder that a stage of BEGINS_WITH goes on from.

    Raises:
        BeginError: none, a file is missing there, or the new weights would be written over them.
    """
    files = [f"{name}.safetensors" for name in BEGINS_WITH[stage]]
    if begin is None or not all((begin / file).is_file() for file in files):
        raise BeginError(
            f"stage {stage} goes on from finished weights: give --begin FOLDER with {', '.join(files)} in it, such as "
            f"{stack.WEIGHTS}"
        )
    if begin.resolve() == out.resolve():
        raise BeginError(f"--begin and --out are both {out}: what it begins with must stay; give another --out")
    return begin


def content_of(file: Path) -> str:
    """Name and content of a file of weights."""
    return f"{file.stem} of sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def begun_from(file: Path) -> str:
    """What the weights of an earlier stage began with; empty = with none."""
    with safe_open(file, "pt") as weights:
        said: str = (weights.metadata() or {}).get("begun_from", "")
    return said
