"""Settings that every training has, whatever it trains; each kind of training adds its own (`config`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from .augment import Degradation
from .schedule import Schedule

PRECISIONS = ("no", "bf16", "fp16")
SAVE_PRECISIONS = ("fp16", "fp32")
PREDICTIONS = ("model", "epsilon", "v_prediction")
BROKEN = ("error", "skip")
PLACES = ("start_from", "cache_latents", "cache_tokens")  # settings that are files or folders
AUGMENT = {"augment_share", "augment_noise", "augment_shadow", "augment_warp", "augment_view"}

Run = TypeVar("Run", bound="RunConfig")


class ConfigError(ValueError):
    """A setting that does not exist or makes no sense; the message names it."""


@dataclass(frozen=True)
class RunConfig:
    """The settings of any run. Mappings name choices and their relative weights.

    Attributes:
        preset: name of the preset it began as.
        base: family of U-Nets, written into the trained file: sdxl, sd15.
        image_size: side of the square images, pixels; shortest side resized to it, then a centre crop.
        broken_images: error = stop, naming the file; skip = take the next image, and count them.
        batch_size: images for each process and micro-batch.
        steps: optimizer steps.
        learning_rate, weight_decay: AdamW's.
        warmup, decay_from, final_rate, accumulate, max_grad_norm, ema_decay, seed, save_every, log_every: see
            `schedule.Schedule`.
        drop_text_share: samples whose caption is emptied, 0..1.
        augment_share: samples whose reference is degraded (see `augment`), 0..1; 0 = none. The target stays as it is.
        augment_noise, augment_shadow, augment_warp, augment_view: how far at most, see `augment.Degradation`.
        prediction: what the U-Net predicts: model = what its own scheduler says, epsilon, v_prediction.
        min_snr_gamma: of min-SNR weighting; 0 = none.
        noise_offset: deviation of a number that is added to all pixels of a latent channel's noise alike; 0 = none.
        precision: no (float32), bf16, or fp16 for cards without bf16; trained weights are float32 in each.
        gradient_checkpointing, channels_last, compile: how the U-Net computes, see `models.prepare_unet`.
        tracker: one of accelerate's, tensorboard for one, is told of every step; it logs into the run's folder. Empty = none.
        cache_latents: a folder for the images' latents; empty = none is kept.
        workers: processes that prepare batches; 0 = the training process does.
        save_precision: of trained files: fp16 or fp32.
        licence: of the trained weights, written into their file; empty = none is named.
        checkpoint_every, keep_checkpoints: steps between trained files, and how many stay.
        validate_every: steps between validations; 0 = none.
        validation_images: images that are held out of the training for validations, or taken from data of their own.
        validation_steps, validation_guidance: sampling of the validation pictures.
    """

    preset: str
    base: str
    image_size: int = 512
    broken_images: str = "error"
    batch_size: int = 8
    steps: int = 1_000_000
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: int = 0
    decay_from: float = 1.0
    final_rate: float = 0.0
    accumulate: int = 1
    max_grad_norm: float = 1.0
    ema_decay: float = 0.9999
    seed: int = 0
    save_every: int = 1000
    log_every: int = 20
    drop_text_share: float = 0.05
    augment_share: float = 0.0
    augment_noise: float = 0.08
    augment_shadow: float = 0.5
    augment_warp: float = 2.0
    augment_view: float = 10.0
    prediction: str = "model"
    min_snr_gamma: float = 0.0
    noise_offset: float = 0.0
    precision: str = "bf16"
    gradient_checkpointing: bool = True
    channels_last: bool = False
    compile: bool = False
    tracker: str = ""
    cache_latents: str = ""
    workers: int = 4
    save_precision: str = "fp16"
    licence: str = ""
    checkpoint_every: int = 5000
    keep_checkpoints: int = 3
    validate_every: int = 5000
    validation_images: int = 4
    validation_steps: int = 30
    validation_guidance: float = 7.5

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """ConfigError, naming the setting, where one cannot be."""
        for name, allowed in self.choices().items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, expected one of {list(allowed)}")
        for name in self.shares():
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 to 1")
        for name in self.counts():
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 1 or more")
        if self.validation_images < (1 if self.validate_every else 0):
            raise ConfigError(
                f"validation_images is {self.validation_images} and validate_every {self.validate_every}: hold out 1 or more, "
                "or set both to 0"
            )
        try:
            self.degradation  # noqa: B018  (it checks its limits)
        except ValueError as error:
            raise ConfigError(f"augment_{error}") from error
        if self.image_size < 8 or self.image_size % 8:
            raise ConfigError(f"image_size is {self.image_size}, expected a multiple of 8 pixels")

    def choices(self) -> dict[str, Iterable[str]]:
        """Settings that are one of a few words."""
        return {
            "broken_images": BROKEN,
            "prediction": PREDICTIONS,
            "precision": PRECISIONS,
            "save_precision": SAVE_PRECISIONS,
        }

    def shares(self) -> tuple[str, ...]:
        """Settings from 0 to 1."""
        return ("drop_text_share", "augment_share", "noise_offset")

    def counts(self) -> tuple[str, ...]:
        """Settings of 1 or more."""
        every = ("save_every", "log_every", "checkpoint_every", "keep_checkpoints")
        return ("batch_size", "steps", "accumulate", *every)

    def without_trace(self) -> set[str]:
        """The settings, beside the schedule's, that may differ between two starts of a run."""
        unused = AUGMENT if self.augment_share == 0.0 else set()  # so that a run without it goes on whatever these are
        if self.noise_offset == 0.0:
            unused = unused | {"noise_offset"}
        return unused | {
            "batch_size",  # what counts is the sum over the processes
            "broken_images",  # a run that met a broken one goes on without it
            "cache_latents",
            "save_precision",
            "licence",
            "workers",
            "keep_checkpoints",
            "checkpoint_every",
            "validate_every",
            "validation_images",  # how many are held out is for whoever holds them out to say
            "validation_steps",
            "validation_guidance",
            "gradient_checkpointing",
            "tracker",
        }

    @property
    def schedule(self) -> Schedule:
        """What the training loop needs of it."""
        names = {field.name for field in dataclasses.fields(Schedule)} & {
            field.name for field in dataclasses.fields(self)
        }
        return Schedule(**{name: getattr(self, name) for name in names})

    @property
    def identity(self) -> dict[str, Any]:
        """The settings beside the schedule's that decide which weights come out: a run resumes only where all are equal."""
        free = self.without_trace() | dataclasses.asdict(self.schedule).keys()
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in free}

    @property
    def degradation(self) -> Degradation:
        """How far references are degraded at most."""
        return Degradation(self.augment_noise, self.augment_shadow, self.augment_warp, self.augment_view)

    def published(self: Run) -> Run:
        """The same as a trained file tells it to whoever gets it: of files and folders the names alone, not where they lie."""
        return self.replace(**{name: PurePath(getattr(self, name)).name for name in PLACES if getattr(self, name, "")})

    def replace(self: Run, **changes: Any) -> Run:
        """The same settings but for some; values may be text as a command line gives it.

        Raises:
            ConfigError: no such setting, or a value it cannot have.
        """
        types = get_type_hints(type(self))
        unknown = sorted(changes.keys() - types.keys())
        if unknown:
            raise ConfigError(
                f"no such setting: {', '.join(unknown)}. Of preset {self.preset} there are {', '.join(types)}"
            )
        return dataclasses.replace(
            self, **{name: converted(name, value, types[name]) for name, value in changes.items()}
        )


def check_weights(name: str, weights: Mapping[str, float], allowed: Iterable[str]) -> None:
    """ConfigError unless choices with their relative weights are some of those allowed."""
    unknown = sorted(weights.keys() - set(allowed))
    if unknown:
        raise ConfigError(f"{name} has {', '.join(unknown)}, expected some of {list(allowed)}")
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ConfigError(f"{name} is {dict(weights)}, expected at least one weight above 0")


def kind_of(kind: Any) -> str:
    """What a setting of a type is given as, in words."""
    return "NAME=WEIGHT,..." if get_origin(kind) is not None else str(kind.__name__).upper()


def converted(name: str, value: Any, kind: Any) -> Any:
    """A value of TOML or of the command line as the setting's type; ConfigError where it is none."""
    try:
        if get_origin(kind) is not None:
            return _weights(value, get_args(kind)[1])
        if kind is bool:
            return _boolean(value)
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError
        if kind is int and isinstance(value, float):
            raise ValueError
        return kind(value)
    except (ValueError, TypeError, AttributeError, KeyError):
        raise ConfigError(f"{name} is {value!r}, expected {kind_of(kind)}") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]


def _weights(value: Any, kind: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {str(name): kind(weight) for name, weight in value.items()}
    pairs = (part.partition("=") for part in value.split(","))
    return {name.strip(): kind(weight or 1) for name, _, weight in pairs}
