"""An adapter's validation: what its image prompts change, with and without a region."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pfv_core.attention.control import PromptControl

from ..diffusers.prompts import RegionalPrompt
from ..diffusers.sample import ImagePrompt
from ..diffusers.unet import image_prompts
from .config import TrainConfig
from .data import Dataset, Sample, seeded
from .models import TrainingModels, vision_of
from .references import ImagePrompts, References
from .validation import Validation, View
from .visibility import Visibility

GREY = 0.5


@dataclass(frozen=True)
class PromptView(View):
    """What an adapter's validation looks at beside what every `View` has.

    Attributes:
        keep_mask: (B, H, W) bool, True = the image encoder may see it.
        features: per image what the adapter takes.
    """

    keep_mask: Tensor
    features: list[Tensor]


class PromptValidation(Validation[TrainConfig, PromptView]):
    """The figures: the loss without image prompt, and with one of the visible part. The columns of the picture: image, what the
    encoder sees of it, text only, text and image, text and image with the visible part as region.

    Args:
        models, references, config: of the run.
        shown: the images.
        folder: of the run.
    """

    def __init__(
        self, models: TrainingModels, shown: Dataset, references: References, config: TrainConfig, folder: Path
    ) -> None:
        super().__init__(models, shown, config, folder)
        self.references = references
        self._visibility = Visibility.of(config, vision_of(models))

    def view(self, samples: Sequence[Sample], common: View) -> PromptView:
        """The images with parts hidden, which stay the same."""
        hidden = [
            self._visibility.hide(sample, seeded(self.config.seed, n, "hidden")) for n, sample in enumerate(samples)
        ]
        keep_mask = torch.stack([mask for mask, _ in hidden])
        pixels, patches = self._visibility.seen(common.image, keep_mask)
        features = self.references.encode(pixels, patches, [key for _, key in hidden])
        return PromptView(**vars(common), keep_mask=keep_mask, features=features)

    def losses(self, trained: ImagePrompts, view: PromptView) -> dict[str, float]:
        """Without an image prompt, and with one."""
        prompt = RegionalPrompt(trained(view.features), PromptControl(self.config.image_scale))
        return {
            "loss_without_image": self.loss(view, self._prompts(view, [])),
            "loss_with_image": self.loss(view, self._prompts(view, [prompt])),
        }

    def columns(self, trained: ImagePrompts, view: PromptView) -> list[Tensor]:
        """Image, what is seen of it, and three drawn."""
        positive, negative = (
            trained.image_prompt(view.features),
            trained.image_prompt([self.references.negative()]),
        )
        everywhere = ImagePrompt(trained.adapter, positive, negative, PromptControl(self.config.image_scale))
        gate = max(self.config.gates, key=lambda name: self.config.gates[name])
        control = PromptControl(self.config.image_scale, self.config.text_share, gate)
        bounded = ImagePrompt(trained.adapter, positive, negative, control, view.keep_mask.float())
        drawn = [self.draw(view, prompts) for prompts in ([], [everywhere], [bounded])]
        return [view.image, self._seen(view), *drawn]

    def _prompts(self, view: PromptView, prompts: list[RegionalPrompt]) -> AbstractContextManager[None]:
        return image_prompts(self.models.unet, prompts, (view.clean.shape[2], view.clean.shape[3]))

    def _seen(self, view: PromptView) -> Tensor:
        """The images with what is under hidden patches in grey."""
        patch_mask = self._visibility.patch_mask(view.keep_mask)
        return torch.where(patch_mask.hidden_pixels()[:, None], GREY, view.image)
