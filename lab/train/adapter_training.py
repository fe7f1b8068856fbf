"""Training of an adapter: image projection, latents (compression), `to_k_ip` and `to_v_ip`; everything else is frozen.

The reference of every sample is the sample itself, as in the public IP-Adapter training: PFV hides parts of it, the
adapter puts what is left into every cross-attention, MEPA bounds where, and the U-Net's own loss says how well.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pfv_core.adapter.checkpoint import save_adapter
from pfv_core.adapter.model import Adapter, AdapterKind
from pfv_core.attention.control import PromptControl

from ..diffusers.prompts import RegionalPrompt
from ..diffusers.unet import image_prompts
from .cache import TensorCache
from .config import TrainConfig
from .data import Dataset
from .models import TrainingModels, dtype_of, unet_conditions, vision_of
from .prompt_batches import PromptBatch, PromptBatches
from .prompt_rows import require_masks
from .prompt_validation import PromptValidation
from .references import ImagePrompts, References
from .starting_adapter import starting_adapter
from .training import Training
from .visibility import Visibility


class AdapterTraining(Training[TrainConfig, PromptBatch]):
    """One run of an adapter; see `Training`."""

    name = "adapter"

    def __init__(
        self,
        models: TrainingModels,
        dataset: Dataset,
        config: TrainConfig,
        accelerator: Accelerator,
        folder: Path,
        shown: Dataset | None = None,
    ) -> None:
        super().__init__(models, dataset, config, accelerator, folder, shown)
        self.references = References(models, config, self._token_cache())

    @property
    def adapter(self) -> Adapter:
        """What is trained."""
        prompts = self.module
        assert isinstance(prompts, ImagePrompts)
        return prompts.adapter

    def check_data(self, dataset: Dataset) -> None:
        """DataError where a dataset knows that it lacks masks that a run hides by."""
        require_masks(dataset, self.config)

    def new_batches(self, dataset: Dataset) -> PromptBatches:
        """The micro-batches of this process."""
        visibility = Visibility.of(self.config, vision_of(self.models))
        processes = self.accelerator.process_index, self.accelerator.num_processes
        return PromptBatches(dataset, self.config, visibility, *processes)

    def new_module(self) -> nn.Module:
        """A new adapter, or the one to start from."""
        return ImagePrompts(starting_adapter(self.models, self.config))

    def new_validation(self) -> PromptValidation:
        """Text alone beside text with image prompts."""
        return PromptValidation(self.models, self.shown, self.references, self.config, self.folder)

    def loss(self, batch: PromptBatch) -> Tensor:
        """Mean weighted error of the U-Net's prediction over a batch, with the adapter's image prompts in it."""
        models = self.models
        clean = self.latents(batch)
        noise, timesteps = self.noised(batch, clean)
        noisy = self.noise.noisy(clean, noise, timesteps)
        with torch.no_grad(), self.accelerator.autocast():
            context, pooled = models.encode_text(batch.captions)
            features = self.features(batch)
        keys_values = self.loop.modules[self.name](features)
        control = PromptControl(self.config.image_scale, batch.text_share, batch.gate)
        prompt = RegionalPrompt(keys_values, control, batch.region)
        self.until_next().enter_context(image_prompts(models.unet, [prompt], (clean.shape[2], clean.shape[3])))
        conditions = unet_conditions(models.unet, context, pooled, batch.time_ids)
        with self.accelerator.autocast():
            predicted = models.unet(noisy.to(dtype_of(models.unet)), timesteps, **conditions).sample
        return self.noise.loss(predicted, clean, noise, timesteps).mean()

    def features(self, batch: PromptBatch) -> list[Tensor]:
        """What the adapter takes of each sample: its encoded reference, or the negative where the image is dropped."""
        shown = batch.has_image.nonzero().flatten().tolist()
        keys = [batch.token_keys[i] for i in shown]
        encoded = self.references.encode(batch.pixels[shown], batch.patches[shown], keys) if shown else []
        features = [self.references.negative()] * len(batch.positions)
        for item, tokens in zip(shown, encoded, strict=True):
            features[item] = tokens
        return features

    def write(self, file: Path, metadata: dict[str, str]) -> None:
        """Write the adapter."""
        saved = Adapter(self.adapter.config)
        saved.load_state_dict(self.adapter.state_dict())
        save_adapter(file, saved.to(self.saved_dtype), metadata | {"encoder": vision_of(self.models).spec.name})

    def _token_cache(self) -> TensorCache | None:
        config = self.config
        hiding = {"hide_mode": config.hide_mode, "hide_threshold": config.hide_threshold}
        pooled = config.kind is AdapterKind.LINEAR
        return self.cache(config.cache_tokens, "tokens", half=True, **hiding, pooled=pooled)
