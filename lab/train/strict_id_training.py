"""Training of Strictly-ID: a ControlNet conditioned on the cut-out product, with its branches; all else is frozen.

The product is cut out of the picture that is to be made, so the ControlNet learns to draw what stands around it, in the size that
the scale map says, in the pose and with the appearance of its pictures (Eq. 2).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from pfv_core.research.control_branches import BranchInput, BranchInputs
from pfv_core.research.strict_id_file import StrictIDConfig, StrictIDFileError

from ..diffusers.strict_id import StrictIDNet, controlled, load_into, new_strict_id, save_strict_id_net
from .cache import TensorCache, cached
from .data import Dataset
from .models import TrainingModels, dtype_of, unet_conditions, vision_of
from .parts import MASK, POSE, SUBJECT
from .settings import ConfigError
from .strict_id_batches import ControlBatch, ControlBatches
from .strict_id_config import ControlConfig
from .strict_id_inputs import last_tokens
from .strict_id_validation import ControlValidation
from .training import Training
from .visibility import sight_of


class StrictIDTraining(Training[ControlConfig, ControlBatch]):
    """One run of a Strictly-ID ControlNet; see `Training`."""

    name = "strict_id"

    def check_data(self, dataset: Dataset) -> None:
        """DataError where a dataset knows that it lacks masks or poses."""
        if hasattr(dataset, "require"):
            dataset.require(MASK, "mask, white = product,", "add them, or leave these images out")
            dataset.require(POSE, "pose", "add them, or leave these images out")
            if self.config.subject_weight != 1:
                dataset.require(SUBJECT, "subject mask", "add them, or set subject_weight 1")

    def new_batches(self, dataset: Dataset) -> ControlBatches:
        """The micro-batches of this process."""
        processes = self.accelerator.process_index, self.accelerator.num_processes
        return ControlBatches(dataset, self.config, sight_of(vision_of(self.models)), *processes)

    def new_module(self) -> nn.Module:
        """A copy of the U-Net's encoder with new branches, or the file to start from."""
        net = started(self.untrained_net(), self.models, self.config)
        if self.config.gradient_checkpointing:
            net.controlnet.enable_gradient_checkpointing()
        if self.config.channels_last:
            net.controlnet.to(memory_format=torch.channels_last)
        return net

    def untrained_net(self) -> StrictIDNet:
        """A copy of the U-Net's encoder with new branches."""
        return new_strict_id(self.models.unet, vision_of(self.models).spec, self.config.seed)

    def new_validation(self) -> ControlValidation:
        """Text alone beside the ControlNet, with and without an appearance."""
        return ControlValidation(self.models, self.shown, self.config, self.folder)

    def loss(self, batch: ControlBatch) -> Tensor:
        """Mean weighted error of the U-Net's prediction over a batch, with the ControlNet's residuals in it."""
        models, unet, config = self.models, self.models.unet, self.config
        clean = self.latents(batch)
        noise, timesteps = self.noised(batch, clean)
        noisy = self.noise.noisy(clean, noise, timesteps)
        with torch.no_grad(), self.accelerator.autocast():
            context, pooled = models.encode_text(batch.captions)
            inputs = self.inputs(batch)
        hint = batch.hint.to(clean.device, non_blocking=True)
        self.until_next().enter_context(controlled(unet, self.loop.modules[self.name], hint, inputs))
        conditions = unet_conditions(unet, context, pooled, batch.time_ids)
        with self.accelerator.autocast():
            predicted = unet(noisy.to(dtype_of(unet)), timesteps, **conditions).sample
        places = None if batch.subject is None else 1 + (config.subject_weight - 1) * batch.subject.to(clean.device)
        return self.noise.loss(predicted, clean, noise, timesteps, places).mean()

    def inputs(self, batch: ControlBatch) -> BranchInputs:
        """What the branches are given."""
        vision, device = vision_of(self.models), self.accelerator.device
        everything = torch.ones_like(batch.appearance_patches)
        poses = cached(
            self._tokens,
            batch.pose_keys,
            lambda items: list(last_tokens(vision, batch.poses[items], everything[items])),
        )
        appearances = last_tokens(vision, batch.appearances, batch.appearance_patches)
        return BranchInputs(
            BranchInput(torch.stack([tokens.to(device) for tokens in poses]), batch.pose_weight),
            BranchInput(appearances, batch.appearance_weight),
            *self.config.balance(batch.step // self.config.accumulate),
        )

    def write(self, file: Path, metadata: dict[str, str]) -> None:
        """Write ControlNet and branches, balanced as in the last step that led to them."""
        net: StrictIDNet = self.module
        config = self.config
        std_norm, gamma = config.balance(max(self.loop.step - 1, 0))
        about = StrictIDConfig(
            base=config.base,
            sizes=net.branches.sizes,
            encoder=vision_of(self.models).spec,
            std_norm=std_norm,
            gamma=gamma,
            metadata=metadata,
        )
        save_strict_id_net(file, net, about, self.saved_dtype)

    @property
    def _tokens(self) -> TensorCache | None:
        return self.cache(self.config.cache_tokens, "pose tokens", half=True)


def started(net: StrictIDNet, models: TrainingModels, config: ControlConfig) -> StrictIDNet:
    """A new net, or the one of `config.start_from` in its place, trainable.

    Raises:
        ConfigError: a file of another base, size or encoder, or another kind of file.
    """
    if config.start_from:
        vision = vision_of(models)
        try:
            found = load_into(net, Path(config.start_from), vision.spec)
        except (StrictIDFileError, ValueError) as error:
            raise ConfigError(f"start_from {config.start_from} does not fit this run: {error}") from error
        if found.base != config.base:
            raise ConfigError(
                f"start_from {config.start_from} does not fit this run: it was trained on {found.base}, here it is {config.base}"
            )
    return net.train().requires_grad_(True)
