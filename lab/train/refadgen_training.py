"""Training of RefAdGen: the reference U-Net, the fusion's projections and the mask's input channel; all else is frozen.

The reference U-Net reads the product as it is, augmented, at the schedule's lowest noise level and with an empty prompt: its
keys and values join every self-attention of the generation U-Net (Eq. 1, lambda 1, everywhere), which gets the mask at its
input; its own loss says how well (Eq. 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusers.fusion import fused
from ..diffusers.refadgen import RefAdGen
from .config import RefAdGenConfig
from .data import Dataset, Sample
from .models import TrainingModels, dtype_of, unet_conditions
from .noise import NoiseSchedule
from .training import Training
from .triplets import TripletBatch, TripletBatches, Triplets, parts_of, require_triplets
from .validation import Validation, View
from .visibility import on_latents

TRAINED_FOR = {"reference_noise": "clean", "reference_prompt": ""}
"""What the file tells of how the product was read, beside what `pfv_core.research.refadgen` keeps."""


class RefAdGenTraining(Training[RefAdGenConfig, TripletBatch]):
    """One run of RefAdGen; see `Training`.

    Paper: RefAdGen, Eq. 1 and 2, table 2. **Deviation**: which weights are trained, see `pfv_core.research.refadgen`. The
    paper does not say with how much noise and with which text the reference U-Net reads the product.
    """

    name = "refadgen"

    def check_data(self, dataset: Dataset) -> None:
        """DataError where a dataset knows that parts of triplets are missing."""
        require_triplets(dataset)

    def new_batches(self, dataset: Dataset) -> TripletBatches:
        """The micro-batches of this process."""
        return TripletBatches(
            Triplets(dataset, self.config), self.accelerator.process_index, self.accelerator.num_processes
        )

    def new_module(self) -> nn.Module:
        """Copies of the frozen U-Net's parts, and a channel of zeros."""
        module = RefAdGen(self.models.unet, self.config.mask_channel)
        if self.config.gradient_checkpointing:
            module.reference.enable_gradient_checkpointing()
        if self.config.channels_last:
            module.reference.to(memory_format=torch.channels_last)
        return module

    def new_validation(self) -> TripletValidation:
        """Text alone beside text with the product."""
        return TripletValidation(self.models, self.shown, self.config, self.folder)

    def loss(self, batch: TripletBatch) -> Tensor:
        """Mean weighted error of the U-Net's prediction over a batch that sees its products and masks."""
        models, unet = self.models, self.models.unet
        clean = self.latents(batch)
        noise, timesteps = self.noised(batch, clean)
        with torch.no_grad(), self.accelerator.autocast():
            context, pooled = models.encode_text(batch.captions)
            read = readings(models, self.noise, self.encoded(batch.product, batch.product_keys), batch.image)
        latent_mask = batch.latent_mask.to(clean.device, non_blocking=True)
        keys_values, share = self.loop.modules[self.name](*read, latent_mask)
        self.until_next().enter_context(fused(unet, keys_values, input_share=share))
        conditions = unet_conditions(unet, context, pooled, batch.time_ids)
        noisy = self.noise.noisy(clean, noise, timesteps)
        with self.accelerator.autocast():
            predicted = unet(noisy.to(dtype_of(unet)), timesteps, **conditions).sample
        places = 1 + (self.config.product_weight - 1) * latent_mask
        return self.noise.loss(predicted, clean, noise, timesteps, places).mean()

    def write(self, file: Path, metadata: dict[str, str]) -> None:
        """Write all that was trained."""
        trained: RefAdGen = self.module
        trained.save(file, self.config.base, self.saved_dtype, metadata | TRAINED_FOR)


def readings(
    models: TrainingModels, noise: NoiseSchedule, product: Tensor, image: Tensor
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What a reference U-Net takes of products: as a host's pass on a clean picture has it.

    Args:
        models: the text encoder, and the U-Net whose conditions they are.
        noise: its schedule.
        product: (B, 4, h, w) latents.
        image: (B, 3, H, W) pictures of their size.

    Returns:
        Latents without noise scaled as the schedule's first timestep has them, that timestep, and the conditions of an empty
        prompt at the pictures' size, all float32.
    """
    timesteps = torch.zeros(len(product), dtype=torch.long, device=product.device)
    height, width = image.shape[2:]
    sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(len(product), -1)
    context, pooled = (part.float().expand(len(product), *part.shape[1:]) for part in models.encode_text([""]))
    conditions = unet_conditions(models.unet, context, pooled, sizes)
    conditions["encoder_hidden_states"] = context
    if "added_cond_kwargs" in conditions:
        conditions["added_cond_kwargs"]["text_embeds"] = pooled
    return noise.noisy(product, torch.zeros_like(product), timesteps), timesteps, conditions


@dataclass(frozen=True)
class TripletView(View):
    """What RefAdGen's validation looks at beside what every `View` has.

    Attributes:
        product: (B, 3, H, W) float, 0..1, unchanged.
        reading: what the reference U-Net takes of them.
        latent_mask: (B, h, w) float, 0..1.
    """

    product: Tensor
    reading: tuple[Tensor, Tensor, dict[str, Any]]
    latent_mask: Tensor


class TripletValidation(Validation[RefAdGenConfig, TripletView]):
    """The figures: the loss without the product, and with it. The columns of the picture: ad, product, text alone, text with the
    product and its mask."""

    def view(self, samples: Sequence[Sample], common: View) -> TripletView:
        """The products as they are, and where they stand."""
        products, masks = zip(*(parts_of(sample) for sample in samples), strict=True)
        product = torch.stack(products)
        latents = self.models.encode_latents(product.to(common.clean.device)).float()
        reading = readings(self.models, self.noise, latents, product)
        mask = on_latents(torch.stack(masks)).to(common.clean.device)
        return TripletView(**vars(common), product=product, reading=reading, latent_mask=mask)

    def losses(self, trained: RefAdGen, view: TripletView) -> dict[str, float]:
        """Without the product, and with it."""
        return {
            "loss_without_product": self.loss(view, nullcontext()),
            "loss_with_product": self.loss(view, self._seeing(trained, view)),
        }

    def columns(self, trained: RefAdGen, view: TripletView) -> list[Tensor]:
        """Ad, product, and two drawn."""
        plain = self.draw(view)
        with self._seeing(trained, view):
            return [view.image, view.product, plain, self.draw(view)]

    def _seeing(self, trained: RefAdGen, view: TripletView) -> AbstractContextManager[None]:
        keys_values, share = trained(*view.reading, view.latent_mask)
        return fused(self.models.unet, keys_values, input_share=share)
