"""Training of an adapter: image projection, latents (compression), `to_k_ip` and `to_v_ip`; everything else is frozen.

The reference of every sample is the sample itself, as in the public IP-Adapter training: PFV hides parts of it, the
adapter puts what is left into every cross-attention, MEPA bounds where, and the U-Net's own loss says how well.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from pfv_core.adapter.checkpoint import save_adapter
from pfv_core.adapter.model import Adapter, AdapterKind
from pfv_core.attention.control import PromptControl

from ..diffusers.prompts import RegionalPrompt
from ..diffusers.unet import image_prompts
from ..files import save_atomically
from .batches import Batch, Batches, read_ahead
from .cache import TensorCache, cached
from .config import ConfigError, TrainConfig, write_config
from .data import DataError, Dataset, Only, Without, held_out, seeded
from .loop import TrainingLoop
from .models import TrainingModels, dtype_of, prepare_unet, unet_conditions
from .noise import NoiseSchedule
from .references import ImagePrompts, References
from .rows import require_masks
from .starting_adapter import starting_adapter
from .validation import Validation
from .visibility import Visibility

ADAPTER = "adapter.safetensors"
CHECKPOINTS = "checkpoints"
SETTINGS = "config.toml"


class AdapterTraining:
    """One run: its loop, its batches and its loss.

    Args:
        models: everything frozen.
        dataset: the samples.
        config: every setting.
        accelerator: device, precision and processes; its precision must be the config's.
        folder: of the run, see `train_adapter`.
        shown: images for validations; None = `validation_images` of the dataset, which are held out of the training.

    Raises:
        ConfigError: models of another base, another precision, an adapter to start from that does not fit.
        DataError: too few samples, masks missing.
        TrainingStateError: the folder holds another run.
    """

    def __init__(
        self,
        models: TrainingModels,
        dataset: Dataset,
        config: TrainConfig,
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
        require_masks(dataset, config)
        trained, self.shown = _split(dataset, shown, config)
        self.batches = Batches(
            trained,
            config,
            Visibility.of(config, models.vision),
            accelerator.process_index,
            accelerator.num_processes,
        )
        adapter = starting_adapter(models, config)
        identity = {
            **config.identity,
            "models": dict(models.identity),
            "dataset": getattr(dataset, "identity", f"{len(dataset)} samples"),
            "held_out": len(dataset) - len(trained),
            "samples_per_step": config.batch_size * accelerator.num_processes,
        }
        self.loop = TrainingLoop(folder, {"adapter": ImagePrompts(adapter)}, config.schedule, identity, accelerator)
        self.references = References(models, config, _cache(config, models, "tokens"))
        self._latent_cache = _cache(config, models, "latents")
        self._during_backward = ExitStack()
        self._skipped: dict[str, None] = {}
        prepare_unet(
            models.unet,
            gradient_checkpointing=config.gradient_checkpointing,
            channels_last=config.channels_last,
            compiled=config.compile,
        )

    @property
    def adapter(self) -> Adapter:
        """What is trained."""
        prompts = self.loop.unwrapped("adapter")
        assert isinstance(prompts, ImagePrompts)
        return prompts.adapter

    def run(self, stop_at: int | None = None, title: str = "adapter") -> None:
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

        validation = Validation(self.models, self.shown, self.references, self.config, self.folder)

        def after_step(step: int) -> None:
            self.close()
            if step % self.config.checkpoint_every == 0 and step < self.config.steps:
                self._save_checkpoint(step)
            if self.config.validate_every and step % self.config.validate_every == 0:
                self._validate(validation, step)

        try:
            self.loop.run(loss_of_step, after_step, stop_at, title)
        finally:
            self.close()
        if self._skipped:
            self.accelerator.print(
                f"{len(self._skipped)} broken samples were skipped, see {self._skipped_file()}. The first: "
                f"{next(iter(self._skipped))}"
            )

    def loss(self, batch: Batch) -> Tensor:
        """Mean weighted error of the U-Net's prediction over a batch, with the adapter's image prompts in it.

        What recomputes the forward pass in the backward one finds the image prompts still in the U-Net: they stay until the
        next batch or the end of the step.
        """
        models = self.models
        clean = self.latents(batch)
        noise, timesteps = (drawn.to(clean.device, non_blocking=True) for drawn in self._noise(batch, clean.shape[1:]))
        noisy = self.noise.noisy(clean, noise, timesteps)
        with torch.no_grad(), self.accelerator.autocast():
            context, pooled = models.encode_text(batch.captions)
            features = self.features(batch)
        keys_values = self.loop.modules["adapter"](features)
        control = PromptControl(self.config.image_scale, batch.text_share, batch.gate)
        prompt = RegionalPrompt(keys_values, control, batch.region)
        self.close()
        self._during_backward.enter_context(image_prompts(models.unet, [prompt], (clean.shape[2], clean.shape[3])))
        conditions = unet_conditions(models.unet, context, pooled, batch.time_ids)
        with self.accelerator.autocast():
            predicted = models.unet(noisy.to(dtype_of(models.unet)), timesteps, **conditions).sample
        return self.noise.loss(predicted, clean, noise, timesteps).mean()

    @torch.no_grad()
    def latents(self, batch: Batch) -> Tensor:
        """(B, 4, h, w) float32 clean latents."""
        device = self.accelerator.device
        if batch.latents is not None:
            return batch.latents.to(device, non_blocking=True)

        def make(items: list[int]) -> list[Tensor]:
            return list(self.models.encode_latents(batch.image[items].to(device, non_blocking=True)).float())

        found = cached(self._latent_cache, batch.keys, make)
        return torch.stack([latent.to(device, non_blocking=True) for latent in found])

    def features(self, batch: Batch) -> list[Tensor]:
        """What the adapter takes of each sample: its encoded reference, or the negative where the image is dropped."""
        shown = batch.has_image.nonzero().flatten().tolist()
        keys = [batch.token_keys[i] for i in shown]
        encoded = self.references.encode(batch.pixels[shown], batch.patches[shown], keys) if shown else []
        features = [self.references.negative()] * len(batch.positions)
        for item, tokens in zip(shown, encoded, strict=True):
            features[item] = tokens
        return features

    def _noise(self, batch: Batch, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """(B, 4, h, w) unit normal noise and (B,) timesteps."""
        generators = [seeded(self.config.seed, position, "noise") for position in batch.positions]
        timesteps = [torch.randint(len(self.noise), (), generator=generator) for generator in generators]
        return torch.stack([torch.randn(shape, generator=g) for g in generators]), torch.stack(timesteps)

    def close(self) -> None:
        """Take the image prompts of the last batch out of the U-Net; `run` does it after every step."""
        self._during_backward.close()

    def _validate(self, validation: Validation, step: int) -> None:
        if self.accelerator.is_main_process:
            with self.loop.averaged():
                validation.run(self.adapter, step)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, step: int) -> None:
        file = self.folder / CHECKPOINTS / f"adapter_{step:08d}.safetensors"
        self.save_adapter(file)
        if self.accelerator.is_main_process:
            for old in sorted(file.parent.glob("adapter_*.safetensors"))[: -self.config.keep_checkpoints]:
                old.unlink()

    def save_adapter(self, file: Path) -> None:
        """Write the averaged adapter, as the nodes load it. TrainingStateError, and no loss, where it cannot be."""
        if not self.accelerator.is_main_process:
            return
        dtype = torch.float16 if self.config.save_precision == "fp16" else torch.float32
        metadata = {
            "preset": self.config.preset,
            "step": str(self.loop.step),
            "samples_per_step": str(self.config.batch_size * self.accelerator.num_processes * self.config.accumulate),
            "seed": str(self.config.seed),
            "encoder": self.models.vision.spec.name,
            "config": write_config(self.config),
        }
        with self.loop.averaged():
            saved = Adapter(self.adapter.config)
            saved.load_state_dict(self.adapter.state_dict())
        saved = saved.to(dtype)
        save_atomically(file, lambda unfinished: save_adapter(unfinished, saved, metadata))

    def _skipped_file(self) -> Path:
        return self.folder / f"skipped_{self.accelerator.process_index}.txt"

    def _note_skipped(self, batch: Batch) -> None:
        new = {message: None for message in batch.skipped if message not in self._skipped}
        if new:
            self._skipped |= new
            self._skipped_file().write_text("\n".join(self._skipped) + "\n", encoding="utf-8")


def train_adapter(
    models: TrainingModels,
    dataset: Dataset,
    config: TrainConfig,
    accelerator: Accelerator,
    folder: Path,
    stop_at: int | None = None,
    shown: Dataset | None = None,
) -> Path:
    """Train an adapter, going on where an earlier call in the same folder stopped.

    Args:
        models: everything frozen, on the accelerator's device.
        dataset: samples by number; all of one size, `config.image_size` where they come from files.
        config: every setting.
        accelerator: made with `mixed_precision=config.precision`.
        folder: receives state.pt and losses.jsonl (see `loop`), config.toml, checkpoints/, validation/ and the finished
            adapter.safetensors.
        stop_at: a step to stop at before the end; the folder then holds all that the next call needs.
        shown: images for validations, see `AdapterTraining`.

    Returns:
        The adapter's file: the finished one, or after `stop_at` the one of that step in checkpoints/.

    Raises:
        ConfigError, DataError, TrainingStateError: see `AdapterTraining`.
    """
    training = AdapterTraining(models, dataset, config, accelerator, folder, shown)
    if accelerator.is_main_process:
        save_atomically(folder / SETTINGS, lambda file: _write_text(file, write_config(config)))
    training.run(stop_at)
    finished = training.loop.step >= config.steps
    file = folder / ADAPTER if finished else folder / CHECKPOINTS / f"adapter_{training.loop.step:08d}.safetensors"
    training.save_adapter(file)
    accelerator.wait_for_everyone()
    return file


def _check(models: TrainingModels, config: TrainConfig, accelerator: Accelerator) -> None:
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


def _split(dataset: Dataset, shown: Dataset | None, config: TrainConfig) -> tuple[Dataset, Dataset]:
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


def _cache(config: TrainConfig, models: TrainingModels, kind: str) -> TensorCache | None:
    """Of latents or tokens; None where the settings name no folder for them."""
    place = config.cache_tokens if kind == "tokens" else config.cache_latents
    if not place:
        return None
    settings: dict[str, Any] = {"base": config.base, "image_size": config.image_size, "models": dict(models.identity)}
    if kind == "tokens":
        hiding = {"hide_mode": config.hide_mode, "hide_threshold": config.hide_threshold}
        settings |= {**hiding, "pooled": AdapterKind(config.kind) is AdapterKind.LINEAR}
    return TensorCache(Path(place), kind, settings, half=kind == "tokens")


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")
