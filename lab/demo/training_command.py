"""What the commands that train something beside the demo's U-Net share: their arguments, and what they train with."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ..train.models import TrainingModels
from ..train.settings import PRECISIONS
from . import stack
from .denoising import cached_latents
from .scene_data import SceneData, scene_data
from .trainer import NUM_SCENES
from .training_models import training_models

WHOLE = "whole"  # the variant that leaves nothing out

SETTINGS: dict[str, Any] = {
    "base": "demo",
    "licence": "Apache-2.0",
    "image_size": stack.IMAGE_SIZE,
    "batch_size": 16,
    "ema_decay": 0.99,
    "save_every": 100,
    "gradient_checkpointing": False,
    "channels_last": True,
    "workers": 0,
    "checkpoint_every": 500,
    "validate_every": 500,
    "validation_steps": 20,
    "validation_guidance": 3.0,
}
"""Of every run of a neighbour's method."""


@dataclass(frozen=True)
class Prepared:
    """What a run is made of.

    Attributes:
        accelerator: in the precision asked for.
        models: the demo's, frozen.
        data: its training scenes.
        latents: (2 N, 4, h, w) half precision, of all of them.
        work: folder for what is drawn and for training states.
    """

    accelerator: Accelerator
    models: TrainingModels
    data: SceneData
    latents: Tensor
    work: Path


def parser(description: str | None, variants: Iterable[str]) -> argparse.ArgumentParser:
    """The command line of a neighbour's method."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--work", type=Path, required=True, help="folder for rendered scenes and training states")
    made.add_argument("--weights", type=Path, default=stack.WEIGHTS, help="folder of the trained stack")
    made.add_argument("--out", type=Path, required=True, help="folder for the trained file")
    made.add_argument("--variant", choices=list(variants), default=WHOLE)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--precision", choices=PRECISIONS, default="no", help="of what is computed; no = float32")
    return made


def prepare(arguments: argparse.Namespace) -> Prepared:
    """Draw and encode what is not there yet, and load the models."""
    torch.set_flush_denormal(True)
    accelerator = Accelerator(mixed_precision=arguments.precision)
    data = scene_data(arguments.work, NUM_SCENES, stack.IMAGE_SIZE)
    autoencoder = stack.load_model("autoencoder", arguments.weights).to(accelerator.device)
    latents = cached_latents(arguments.work, autoencoder, data)
    models = training_models(arguments.weights, accelerator.device)
    return Prepared(accelerator, models, data, latents, arguments.work)


def name_of(method: str, arguments: argparse.Namespace) -> str:
    """Of a run's folder and of its file."""
    return f"{method}_{arguments.variant}_seed{arguments.seed}"


def deliver(file: Path, arguments: argparse.Namespace, name: str, accelerator: Accelerator) -> None:
    """Copy the trained file to where it was asked for."""
    if accelerator.is_main_process:
        arguments.out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, arguments.out / f"{name}.safetensors")
        accelerator.print(f"wrote {arguments.out / name}.safetensors")
