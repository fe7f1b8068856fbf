"""Pictures and figures of what is trained during its training, on images and noise that stay the same."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..diffusers.sample import ImagePrompt, sample_latents
from ..files import save_atomically
from .batches import time_ids
from .config import RunConfig
from .data import DataError, Dataset, Sample, seeded
from .models import TrainingModels, unet_conditions
from .noise import NoiseSchedule

FOLDER = "validation"
LOG = "validation.jsonl"
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # where on the noise schedule the loss is measured


@dataclass(frozen=True)
class View:
    """What a validation looks at; B images.

    Attributes:
        step: how many steps are done.
        image: (B, 3, H, W), 0..1.
        time_ids: (B, 6) sizes, see `batches.Batch`.
        text, negative_text: context and pooled embedding of the captions, and of the empty one.
        clean: (B, 4, h, w) latents of the images.
        noise: (B, 4, h, w) unit normal.
    """

    step: int
    image: Tensor
    time_ids: Tensor
    text: tuple[Tensor, Tensor]
    negative_text: tuple[Tensor, Tensor]
    clean: Tensor
    noise: Tensor


AnyView = TypeVar("AnyView", bound=View)
Config = TypeVar("Config", bound=RunConfig)


class Validation(ABC, Generic[Config, AnyView]):
    """Measures and draws on images that are never trained on, into `validation/` of the run's folder.

    Args:
        models, config: of the run.
        shown: the images.
        folder: of the run.
    """

    def __init__(self, models: TrainingModels, shown: Dataset, config: Config, folder: Path) -> None:
        self.models = models
        self.config = config
        self.folder = folder / FOLDER
        self.noise = NoiseSchedule.of(models.scheduler, config.prediction)
        self._shown = shown

    @abstractmethod
    def view(self, samples: Sequence[Sample], common: View) -> AnyView:
        """What is looked at of the images, with what every validation looks at."""

    @abstractmethod
    def losses(self, trained: Any, view: AnyView) -> dict[str, float]:
        """The figures of what is trained, by name."""

    @abstractmethod
    def columns(self, trained: Any, view: AnyView) -> list[Tensor]:
        """The columns of the picture, each (B, 3, H, W), 0..1."""

    @torch.no_grad()
    def look(self, step: int) -> AnyView:
        """What is looked at after so many steps. DataError where an image cannot be."""
        samples = self._samples()
        return self.view(samples, self._common(samples, step))

    @torch.no_grad()
    def run(self, trained: Any, step: int) -> dict[str, float]:
        """Write `<step>.png`, where the models can draw, and a line of `validation.jsonl`; returns that line."""
        view = self.look(step)
        line = {"step": step, "images": len(view.image), **self.losses(trained, view)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.models.decode_latents is not None:
            sheet = contact_sheet(self.columns(trained, view))
            save_atomically(self.folder / f"{step:08d}.png", lambda unfinished: sheet.save(unfinished, "PNG"))
        return line

    def loss(self, view: View, within: AbstractContextManager[Any]) -> float:
        """The mean loss of the U-Net's predictions, with what a context puts into it."""
        unet = self.models.unet
        conditions = unet_conditions(unet, *view.text, view.time_ids)
        losses = []
        with within:
            for share in TIMES:
                timesteps = torch.full((len(view.clean),), int(share * len(self.noise)), device=view.clean.device)
                noisy = self.noise.noisy(view.clean, view.noise, timesteps)
                predicted = unet(noisy.to(unet.dtype), timesteps, **conditions).sample
                losses.append(self.noise.loss(predicted, view.clean, view.noise, timesteps).mean())
        return float(torch.stack(losses).mean())

    def draw(self, view: View, image_prompts: Sequence[ImagePrompt] = ()) -> Tensor:
        """(B, 3, H, W) pictures of the captions."""
        assert self.models.decode_latents is not None
        scheduler = self.models.scheduler
        latents = sample_latents(
            self.models.unet,
            type(scheduler).from_config(scheduler.config, prediction_type=self.noise.prediction),
            view.noise,
            text=view.text,
            negative_text=view.negative_text,
            guidance_scale=self.config.validation_guidance,
            steps=self.config.validation_steps,
            image_size=(view.image.shape[2], view.image.shape[3]),
            image_prompts=image_prompts,
        )
        return self.models.decode_latents(latents)

    def _common(self, samples: Sequence[Sample], step: int) -> View:
        image = torch.stack([sample.image for sample in samples])
        clean = self.models.encode_latents(image.to(self.models.unet.device)).float()
        noise = [
            torch.randn(clean.shape[1:], generator=seeded(self.config.seed, n, "pictures")) for n in range(len(samples))
        ]
        return View(
            step=step,
            image=image,
            time_ids=torch.tensor([time_ids(sample) for sample in samples]),
            text=self.models.encode_text([sample.caption for sample in samples]),
            negative_text=self.models.encode_text([""]),
            clean=clean,
            noise=torch.stack(noise).to(clean),
        )

    def _samples(self) -> list[Sample]:
        """The images, without the broken ones where those may be skipped."""
        samples: list[Sample] = []
        for number in range(len(self._shown)):
            try:
                samples.append(self._shown.sample(number, seeded(self.config.seed, number, "shown")))
            except DataError:
                if self.config.broken_images != "skip":
                    raise
        if not samples:
            raise DataError(f"every one of the {len(self._shown)} images for validation is broken: replace one of them")
        return samples


def contact_sheet(columns: Sequence[Tensor], gap: int = 4) -> Image.Image:
    """Columns of (B, 3, H, W) images, 0..1, side by side on white; one row for each of the B."""
    padded = [F.pad(column.float().cpu().clamp(0, 1), (gap, gap, gap, gap), value=1.0) for column in columns]
    sheet = torch.cat([torch.cat(list(column), 1) for column in padded], 2)
    return Image.fromarray((sheet.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())  # CHW -> HWC
