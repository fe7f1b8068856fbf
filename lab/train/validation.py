"""Pictures and figures of an adapter during its training, on images and noise that stay the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from pfv_core.adapter.model import Adapter
from pfv_core.attention.control import PromptControl

from ..diffusers.prompts import RegionalPrompt
from ..diffusers.sample import ImagePrompt, sample_latents
from ..diffusers.unet import image_prompts
from ..files import save_atomically
from .batches import time_ids
from .config import TrainConfig
from .data import DataError, Dataset, Sample, seeded
from .models import TrainingModels, unet_conditions
from .noise import NoiseSchedule
from .references import ImagePrompts, References
from .visibility import Visibility

FOLDER = "validation"
LOG = "validation.jsonl"
TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)  # where on the noise schedule the loss is measured
GREY = 0.5


class Validation:
    """Measures and draws on images that are never trained on, into `validation/` of the run's folder.

    Args:
        models, references, config: of the run.
        shown: the images.
        folder: of the run.
    """

    def __init__(
        self, models: TrainingModels, shown: Dataset, references: References, config: TrainConfig, folder: Path
    ) -> None:
        self.models = models
        self.references = references
        self.config = config
        self.folder = folder / FOLDER
        self.noise = NoiseSchedule.of(models.scheduler, config.prediction)
        self._shown = shown
        self._visibility = Visibility.of(config, models.vision)

    @torch.no_grad()
    def run(self, adapter: Adapter, step: int) -> dict[str, float]:
        """Write `<step>.png`, where the models can draw, and a line of `validation.jsonl`; returns that line.

        The columns of the picture: image, what the encoder sees of it, text only, text and image, text and image with the
        visible part as region. The figures: the loss without image prompt, and with one of the visible part.
        """
        view = self._view()
        line = {"step": step, "images": len(view.image), **self._losses(adapter, view)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.models.decode_latents is not None:
            sheet = contact_sheet(self._columns(adapter, view))
            save_atomically(self.folder / f"{step:08d}.png", lambda unfinished: sheet.save(unfinished, "PNG"))
        return line

    def _view(self) -> View:
        config = self.config
        samples = self._samples()
        numbers = range(len(samples))
        hidden = [
            self._visibility.hide(s, seeded(config.seed, n, "hidden")) for n, s in zip(numbers, samples, strict=True)
        ]
        image = torch.stack([sample.image for sample in samples])
        keep_mask = torch.stack([mask for mask, _ in hidden])
        pixels, patches = self._visibility.seen(image, keep_mask)
        device = self.models.unet.device
        clean = self.models.encode_latents(image.to(device)).float()
        noise = [torch.randn(clean.shape[1:], generator=seeded(config.seed, n, "pictures")) for n in numbers]
        return View(
            image=image,
            keep_mask=keep_mask,
            time_ids=torch.tensor([time_ids(sample) for sample in samples]),
            text=self.models.encode_text([sample.caption for sample in samples]),
            negative_text=self.models.encode_text([""]),
            clean=clean,
            noise=torch.stack(noise).to(clean),
            features=self.references.encode(pixels, patches, [key for _, key in hidden]),
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

    def _losses(self, adapter: Adapter, view: View) -> dict[str, float]:
        prompt = RegionalPrompt(ImagePrompts(adapter)(view.features), PromptControl(self.config.image_scale))
        return {
            "loss_without_image": self._loss(view, []),
            "loss_with_image": self._loss(view, [prompt]),
        }

    def _loss(self, view: View, prompts: list[RegionalPrompt]) -> float:
        unet = self.models.unet
        conditions = unet_conditions(unet, *view.text, view.time_ids)
        losses = []
        with image_prompts(unet, prompts, (view.clean.shape[2], view.clean.shape[3])):
            for share in TIMES:
                timesteps = torch.full((len(view.clean),), int(share * len(self.noise)), device=view.clean.device)
                noisy = self.noise.noisy(view.clean, view.noise, timesteps)
                predicted = unet(noisy.to(unet.dtype), timesteps, **conditions).sample
                losses.append(self.noise.loss(predicted, view.clean, view.noise, timesteps).mean())
        return float(torch.stack(losses).mean())

    def _columns(self, adapter: Adapter, view: View) -> list[Tensor]:
        """Each (B, 3, H, W), 0..1."""
        prompts = ImagePrompts(adapter)
        positive, negative = prompts.image_prompt(view.features), prompts.image_prompt([self.references.negative()])
        everywhere = ImagePrompt(adapter, positive, negative, PromptControl(self.config.image_scale))
        gate = max(self.config.gates, key=lambda name: self.config.gates[name])
        control = PromptControl(self.config.image_scale, self.config.text_share, gate)
        bounded = ImagePrompt(adapter, positive, negative, control, view.keep_mask.float())
        drawn = [self._draw(view, prompts) for prompts in ([], [everywhere], [bounded])]
        return [view.image, self._seen(view), *drawn]

    def _draw(self, view: View, prompts: list[ImagePrompt]) -> Tensor:
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
            image_prompts=prompts,
        )
        return self.models.decode_latents(latents)

    def _seen(self, view: View) -> Tensor:
        """The images with what is under hidden patches in grey."""
        patch_mask = self._visibility.patch_mask(view.keep_mask)
        return torch.where(patch_mask.hidden_pixels()[:, None], GREY, view.image)


@dataclass(frozen=True)
class View:
    """What a validation looks at; B images.

    Attributes:
        image: (B, 3, H, W), 0..1.
        keep_mask: (B, H, W) bool, True = the image encoder may see it.
        time_ids: (B, 6) sizes, see `batches.Batch`.
        text, negative_text: context and pooled embedding of the captions, and of the empty one.
        clean: (B, 4, h, w) latents of the images.
        noise: (B, 4, h, w) unit normal.
        features: per image what the adapter takes.
    """

    image: Tensor
    keep_mask: Tensor
    time_ids: Tensor
    text: tuple[Tensor, Tensor]
    negative_text: tuple[Tensor, Tensor]
    clean: Tensor
    noise: Tensor
    features: list[Tensor]


def contact_sheet(columns: Sequence[Tensor], gap: int = 4) -> Image.Image:
    """Columns of (B, 3, H, W) images, 0..1, side by side on white; one row for each of the B."""
    padded = [F.pad(column.float().cpu().clamp(0, 1), (gap, gap, gap, gap), value=1.0) for column in columns]
    sheet = torch.cat([torch.cat(list(column), 1) for column in padded], 2)
    return Image.fromarray((sheet.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy())  # CHW -> HWC
