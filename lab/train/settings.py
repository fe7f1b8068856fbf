"""Settings that every training has, whatever it trains; each kind of training adds its own (`config`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from .augment import Degradation
from .schedule import Schedule

Precision = Literal["no", "bf16", "fp16"]
SavePrecision = Literal["fp16", "fp32"]
Prediction = Literal["model", "epsilon", "v_prediction"]
Broken = Literal["error", "skip"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
PLACES = ("start_from", "cache_latents", "cache_tokens")  # settings that are files or folders
AUGMENT = {"augment_share", "augment_noise", "augment_shadow", "augment_warp", "augment_view"}

Run = TypeVar("Run", bound="RunConfig")


class ConfigError(ValueError):
    """A setting that does not exist or makes no sense; the message names it."""


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, float) or (isinstance(value, str) and "." in value):
        raise ValueError("expected a whole number")
    return _number(value)


def _flag(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in _FLAGS:
        return _FLAGS[value.lower()]
    if not isinstance(value, bool):
        raise ValueError(f"expected one of {', '.join(_FLAGS)}")
    return value


def _weights(value: Any) -> Any:
    """Text of a command line, NAME=WEIGHT,..., as the mapping that a file has."""
    if not isinstance(value, str):
        return value
    pairs = (part.partition("=") for part in value.split(","))
    return {name.strip(): weight or 1 for name, _, weight in pairs}


_FLAGS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
Flag = Annotated[bool, BeforeValidator(_flag)]
Integer = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, Field(allow_inf_nan=False), BeforeValidator(_number)]
Count = Annotated[Integer, Field(ge=1)]
Share = Annotated[Number, Field(ge=0, le=1)]
Weights = Annotated[dict[str, Annotated[Number, Field(ge=0)]], BeforeValidator(_weights)]
"""Choices and how often each is taken, relative to the others."""


class RunConfig(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str
    base: str
    image_size: Annotated[Integer, Field(ge=8, multiple_of=8)] = 512
    broken_images: Broken = "error"
    batch_size: Count = 8
    steps: Count = 1_000_000
    learning_rate: Annotated[Number, Field(gt=0)] = 1e-4
    weight_decay: Annotated[Number, Field(ge=0)] = 0.01
    warmup: Annotated[Integer, Field(ge=0)] = 0
    decay_from: Share = 1.0
    final_rate: Share = 0.0
    accumulate: Count = 1
    max_grad_norm: Annotated[float, Field(gt=0), BeforeValidator(_number)] = 1.0  # inf = gradients stay as they are
    ema_decay: Annotated[Number, Field(ge=0, lt=1)] = 0.9999
    seed: Integer = 0
    save_every: Count = 1000
    log_every: Count = 20
    drop_text_share: Share = 0.05
    augment_share: Share = 0.0
    augment_noise: Number = 0.08
    augment_shadow: Number = 0.5
    augment_warp: Number = 2.0
    augment_view: Number = 10.0
    prediction: Prediction = "model"
    min_snr_gamma: Annotated[Number, Field(ge=0)] = 0.0
    noise_offset: Share = 0.0
    precision: Precision = "bf16"
    gradient_checkpointing: Flag = True
    channels_last: Flag = False
    compile: Flag = False
    tracker: str = ""
    cache_latents: str = ""
    workers: Annotated[Integer, Field(ge=0)] = 4
    save_precision: SavePrecision = "fp16"
    licence: str = ""
    checkpoint_every: Count = 5000
    keep_checkpoints: Count = 3
    validate_every: Annotated[Integer, Field(ge=0)] = 5000
    validation_images: Annotated[Integer, Field(ge=0)] = 4
    validation_steps: Count = 30
    validation_guidance: Number = 7.5

    @model_validator(mode="after")
    def _checked(self: Run) -> Run:
        if self.validation_images < (1 if self.validate_every else 0):
            raise ValueError(
                f"validation_images is {self.validation_images} and validate_every {self.validate_every}: hold out 1 or more, "
                "or set both to 0"
            )
        try:
            self.degradation  # noqa: B018  (it checks its limits)
        except ValueError as error:
            raise ValueError(f"augment_{error}") from error
        return self

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
        names = {field.name for field in dataclasses.fields(Schedule)} & type(self).model_fields.keys()
        return Schedule(**{name: getattr(self, name) for name in names})

    @property
    def identity(self) -> dict[str, Any]:
        """The settings beside the schedule's that decide which weights come out: a run resumes only where all are equal."""
        free = self.without_trace() | dataclasses.asdict(self.schedule).keys()
        return {name: value for name, value in self.model_dump(mode="json").items() if name not in free}

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
        names = type(self).model_fields
        unknown = sorted(changes.keys() - names.keys())
        if unknown:
            raise ConfigError(
                f"no such setting: {', '.join(unknown)}. Of preset {self.preset} there are {', '.join(names)}"
            )
        try:
            return self.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            raise ConfigError("; ".join(_told(one) for one in error.errors())) from error


def _told(error: Mapping[str, Any]) -> str:
    """What is wrong with a setting, in one line."""
    said = str(error["ctx"]["error"]) if error["type"] == "value_error" else error["msg"]
    if not error["loc"]:
        return said  # of several settings, which it names
    return f"{'.'.join(map(str, error['loc']))} is {error['input']!r}: {said[0].lower()}{said[1:]}"


def check_weights(weights: Weights, allowed: Iterable[str]) -> Weights:
    """ValueError unless choices with their relative weights are some of those allowed."""
    unknown = sorted(weights.keys() - set(allowed))
    if unknown:
        raise ValueError(f"it has {', '.join(unknown)}, expected some of {list(allowed)}")
    if not any(weights.values()):
        raise ValueError("expected at least one weight above 0")
    return weights
