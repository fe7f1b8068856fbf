"""One run of whatever is trained beside a frozen U-Net: its loop, batches, caches, files and validations.

What it trains, and by which loss, a subclass says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..files import save_atomically
from ..machine import machine
from .batches import Batch, Batches, read_ahead
from .cache import TensorCache, cached
from .config import ConfigError, RunConfig, write_config
from .data import DataError, Dataset, Only, Without, held_out, seeded
from .loop import TrainingLoop
from .models import TrainingModels, prepare_unet
from .noise import NoiseSchedule
from .validation import Validation

CHECKPOINTS = "checkpoints"
SETTINGS = "config.toml"

Config = TypeVar("Config", bound=RunConfig)
AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Training(ABC, Generic[Config, AnyBatch]):
    """One run.

    Args:
        models: everything frozen, on the accelerator's device.
        dataset: samples by number; all of one size, `config.image_size` where they come from files.
        config: every setting.
        accelerator: device, precision and processes; made with `mixed_precision=config.precision`.
        folder: of the run, see `train`.
        shown: images for validations; None = `validation_images` of the dataset, which are held out of the training.

    Raises:
        ConfigError: models of another base, another precision, a file to start from that does not fit.
        DataError: too few samples, parts of them missing.
        TrainingStateError: the folder holds another run.
    """

    name: ClassVar[str]
    """Of what is trained: in the state, and of its files."""

    def __init__(
        self,
        models: TrainingModels,
        dataset: Dataset,
        config: Config,
        accelerator: Accelerator,
        folder: Path,
        shown: Dataset | None = None,
    ) -> None:
        _check(models, config, accelerator)
        self.models = models
        self.config = config
        self.accelerator = accelerator
        self.folder = folder
        self.noise = NoiseSchedule.of(models.scheduler, config.prediction, config.min_snr_gamma)
        for given in (dataset, shown):
            if given is not None:
                self.check_data(given)
        trained, self.shown = _split(dataset, shown, config)
        self.batches = self.new_batches(trained)
        identity = {
            **config.identity,
            "models": dict(models.identity),
            "dataset": getattr(dataset, "identity", f"{len(dataset)} samples"),
            "held_out": len(dataset) - len(trained),
            "samples_per_step": config.batch_size * accelerator.num_processes,
        }
        self.loop = TrainingLoop(folder, {self.name: self.new_module()}, config.schedule, identity, accelerator)
        self._latent_cache = self.cache(config.cache_latents, "latents", precision="the weights'")
        self._during_backward = ExitStack()
        self._skipped: dict[str, None] = {}
        prepare_unet(
            models.unet,
            gradient_checkpointing=config.gradient_checkpointing,
            channels_last=config.channels_last,
            compiled=config.compile,
        )

    @abstractmethod
    def check_data(self, dataset: Dataset) -> None:
        """DataError where a dataset knows that it lacks what this training takes."""

    @abstractmethod
    def new_batches(self, dataset: Dataset) -> Batches[AnyBatch, Any, Config]:
        """The micro-batches of this process."""

    @abstractmethod
    def new_module(self) -> nn.Module:
        """What is trained, as it begins; its float32 parameters that take gradients."""

    @abstractmethod
    def loss(self, batch: AnyBatch) -> Tensor:
        """The loss of a micro-batch. What is put into the U-Net for it goes into `until_next`."""

    @abstractmethod
    def new_validation(self) -> Validation[Any, Any]:
        """What measures and draws."""

    @abstractmethod
    def write(self, file: Path, metadata: dict[str, str]) -> None:
        """Write what is trained, whose weights are now the averaged ones, as the nodes load it."""

    @property
    def module(self) -> Any:
        """What is trained, without what accelerate put around it."""
        return self.loop.unwrapped(self.name)

    @property
    def saved_dtype(self) -> torch.dtype:
        """Of trained files."""
        return torch.float16 if self.config.save_precision == "fp16" else torch.float32

    def train(self, stop_at: int | None = None) -> Path:
        """Train, going on where an earlier run in the same folder stopped.

        The folder receives state.pt and losses.jsonl (see `loop`), config.toml, checkpoints/, validation/ and the finished
        file, called as what is trained.

        Args:
            stop_at: a step to stop at before the end; the folder then holds all that the next call needs.

        Returns:
            The trained file: the finished one, or after `stop_at` the one of that step in checkpoints/.
        """
        if self.accelerator.is_main_process:
            save_atomically(self.folder / SETTINGS, lambda file: _write_text(file, write_config(self.config)))
        self.run(stop_at)
        finished = self.loop.step >= self.config.steps
        file = self.folder / f"{self.name}.safetensors" if finished else self._checkpoint(self.loop.step)
        self.save(file)
        self.accelerator.wait_for_everyone()
        return file

    def run(self, stop_at: int | None = None) -> None:
        """Train on from where the folder's state is; to the end, or to a step before it."""
        micro = self.config.accumulate
        end = min(self.config.steps, self.config.steps if stop_at is None else stop_at)
        batches = read_ahead(
            self.batches, self.loop.step * micro, end * micro, self.config.workers, self.accelerator.device
        )

        def loss_of_step(index: int, _generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
            batch = next(batches)
            assert batch.step == index
            self._note_skipped(batch)
            return self.loss(batch), {}

        validation = self.new_validation()
        if self.config.validate_every and self.accelerator.is_main_process:
            validation.look(self.loop.step)  # what cannot be used is said now

        def after_step(step: int) -> None:
            self.close()
            if step % self.config.checkpoint_every == 0 and step < self.config.steps:
                self._save_checkpoint(step)
            if self.config.validate_every and step % self.config.validate_every == 0:
                self._validate(validation, step)

        try:
            self.loop.run(loss_of_step, after_step, stop_at, self.name)
        finally:
            self.close()
        if self._skipped:
            self.accelerator.print(
                f"{len(self._skipped)} broken samples were skipped, see {self._skipped_file()}. The first: "
                f"{next(iter(self._skipped))}"
            )

    def close(self) -> None:
        """Take what the last batch put into the U-Net out of it; `run` does it after every step."""
        self._during_backward.close()

    def until_next(self) -> ExitStack:
        """For what the next batch puts into the U-Net; that of the last one is taken out.

        What recomputes the forward pass in the backward one finds it still there: it stays until the next batch or the end
        of the step.
        """
        self.close()
        return self._during_backward

    @torch.no_grad()
    def latents(self, batch: AnyBatch) -> Tensor:
        """(B, 4, h, w) float32 clean latents."""
        device = self.accelerator.device
        if batch.latents is not None:
            return batch.latents.to(device, non_blocking=True)
        return self.encoded(batch.image, batch.keys)

    @torch.no_grad()
    def encoded(self, image: Tensor, keys: list[str]) -> Tensor:
        """(B, 3, H, W) images and their content hashes, empty where nothing may be cached -> (B, 4, h, w) float32 latents.

        In the precision of the autoencoder's weights, whatever a step computes in: SDXL's overflows in half precision.
        """
        device = self.accelerator.device

        def make(items: list[int]) -> list[Tensor]:
            with torch.autocast(device.type, enabled=False):
                return list(self.models.encode_latents(image[items].to(device, non_blocking=True)).float())

        found = cached(self._latent_cache, keys, make)
        return torch.stack([latent.to(device, non_blocking=True) for latent in found])

    def noised(self, batch: AnyBatch, clean: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 4, h, w) noise and (B,) timesteps of a batch whose clean latents are given, on their device."""
        generators = [seeded(self.config.seed, position, "noise") for position in batch.positions]
        timesteps = [torch.randint(len(self.noise), (), generator=generator) for generator in generators]
        noise = [torch.randn(clean.shape[1:], generator=generator) for generator in generators]
        if offset := self.config.noise_offset:
            noise = [
                one + offset * torch.randn(len(one), 1, 1, generator=generator)
                for one, generator in zip(noise, generators, strict=True)
            ]
        return (
            torch.stack(noise).to(clean.device, non_blocking=True),
            torch.stack(timesteps).to(clean.device, non_blocking=True),
        )

    def cache(self, place: str, kind: str, half: bool = False, **settings: Any) -> TensorCache | None:
        """Of what the frozen models make of an image; None where the settings name no folder for it.

        Args:
            place: the folder, empty = none.
            kind: of its content.
            half: whether it is kept in half precision.
            **settings: whatever changes the content besides models and size.
        """
        if not place:
            return None
        about = {"base": self.config.base, "image_size": self.config.image_size, "models": dict(self.models.identity)}
        return TensorCache(Path(place), kind, about | settings, half=half)

    def save(self, file: Path) -> None:
        """Write what is trained, averaged. TrainingStateError, and no file, where a loss was not finite."""
        if not self.accelerator.is_main_process:
            return
        metadata = {
            "preset": self.config.preset,
            "step": str(self.loop.step),
            "samples_per_step": str(self.config.batch_size * self.accelerator.num_processes * self.config.accumulate),
            "seed": str(self.config.seed),
            "machine": machine(self.accelerator.device),
            "config": write_config(self.config.published()),
        }
        if self.config.licence:
            metadata["licence"] = self.config.licence
        with self.loop.averaged():
            save_atomically(file, lambda unfinished: self.write(unfinished, metadata))

    def _validate(self, validation: Validation[Any, Any], step: int) -> None:
        if self.accelerator.is_main_process:
            with self.loop.averaged():
                validation.run(self.module, step)
        self.accelerator.wait_for_everyone()

    def _checkpoint(self, step: int) -> Path:
        return self.folder / CHECKPOINTS / f"{self.name}_{step:08d}.safetensors"

    def _save_checkpoint(self, step: int) -> None:
        file = self._checkpoint(step)
        self.save(file)
        if self.accelerator.is_main_process:
            for old in sorted(file.parent.glob(f"{self.name}_*.safetensors"))[: -self.config.keep_checkpoints]:
                old.unlink()

    def _skipped_file(self) -> Path:
        return self.folder / f"skipped_{self.accelerator.process_index}.txt"

    def _note_skipped(self, batch: Batch) -> None:
        new = {message: None for message in batch.skipped if message not in self._skipped}
        if new:
            self._skipped |= new
            self._skipped_file().write_text("\n".join(self._skipped) + "\n", encoding="utf-8")


def _check(models: TrainingModels, config: RunConfig, accelerator: Accelerator) -> None:
    if models.base != config.base:
        raise ConfigError(f"the models are of base {models.base}, the settings are for {config.base}: give the same")
    if accelerator.mixed_precision != config.precision:
        raise ConfigError(
            f"the accelerator runs in precision {accelerator.mixed_precision}, the settings say {config.precision}: give "
            "the same to accelerate and in the settings"
        )
    if config.precision == "fp16" and accelerator.scaler is None:
        raise ConfigError(
            f"precision is fp16 on {accelerator.device.type}, which has none to train in: take no, or bf16"
        )


def _split(dataset: Dataset, shown: Dataset | None, config: RunConfig) -> tuple[Dataset, Dataset]:
    """What is trained on, and what is shown and measured in validations: nothing is both."""
    count = config.validation_images
    if shown is None:
        numbers = held_out(len(dataset), count, config.seed)
        return Without(dataset, numbers), Only(dataset, numbers)
    if len(shown) < count:
        raise DataError(
            f"the validation data have {len(shown)} images, validation_images is {count}: add some, or lower it"
        )
    return dataset, Only(shown, range(count))


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
