"""What a training run is: every setting in one frozen dataclass, presets, TOML files and command line overrides."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pfv_core.adapter.model import AdapterKind
from pfv_core.attention.control import Gate
from pfv_core.reference.vit import HideMode

from .augment import Degradation
from .masks import MaskKind
from .schedule import Schedule

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATASET = "dataset"
VISIBLE = "visible"
HIDE_KINDS = (DATASET, *(kind.value for kind in MaskKind if kind is not MaskKind.FULL))
REGION_KINDS = (DATASET, VISIBLE, *(kind.value for kind in MaskKind if kind is not MaskKind.NONE))
PRECISIONS = ("no", "bf16", "fp16")
SAVE_PRECISIONS = ("fp16", "fp32")
PREDICTIONS = ("model", "epsilon", "v_prediction")
BROKEN = ("error", "skip")
AUGMENT = {"augment_share", "augment_noise", "augment_shadow", "augment_warp", "augment_view"}


class ConfigError(ValueError):
    """A setting that does not exist or makes no sense; the message names it."""


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run. Mappings name choices and their relative weights.

    Attributes:
        preset: name of the preset it began as.
        base: family of U-Nets, written into the adapter: sdxl, sd15.
        kind: image projection of the adapter: linear, resampler, eq3.
        num_tokens: image prompt tokens c; the compression.
        latent_width, inner_width, depth, feedforward: sizes of the projection, 0 where its kind has none.
        start_from: an adapter file to go on from; empty = a new adapter.
        image_size: side of the square images, pixels; shortest side resized to it, then a centre crop.
        broken_images: error = stop, naming the file; skip = take the next image, and count them.
        batch_size: images for each process and micro-batch.
        steps: optimizer steps.
        learning_rate, weight_decay: AdamW's.
        warmup, decay_from, final_rate, accumulate, max_grad_norm, ema_decay, seed, save_every, log_every: see
            `schedule.Schedule`.
        drop_image_share: samples whose image prompt is replaced by the negative one (nothing but text, no region), 0..1.
        drop_text_share: other samples, whose caption is emptied, 0..1.
        drop_both_share: others again, with both: the negative of guidance, 0..1.
        mask_share: samples, of those with an image prompt, of whose reference something is hidden, 0..1.
        hide_kinds: what is hidden: dataset (the sample's product mask) or a random mask of a kind of `masks`.
        hide_mode: zero or drop hidden patches (see `pfv_core.reference.vit.HideMode`).
        hide_threshold: tolerated hidden share of a patch, 0..1.
        region_share_masked, region_share_unmasked: samples that have a region, of those with and without hidden parts.
        region_kinds: where the image prompt rules: visible (what is not hidden), dataset (the sample's own region), or
            a random mask of a kind of `masks`.
        gates: gate of the step (see `pfv_core.attention.formula`).
        text_share: what the text keeps inside a region, 0..1; without a region it keeps all.
        image_scale: lambda of Eq. 4 during training.
        augment_share: samples whose reference is degraded (see `augment`), of those with an image prompt, 0..1; 0 = none. The
            target stays as it is.
        augment_noise, augment_shadow, augment_warp, augment_view: how far at most, see `augment.Degradation`.
        prediction: what the U-Net predicts: model = what its own scheduler says, epsilon, v_prediction.
        min_snr_gamma: of min-SNR weighting; 0 = none.
        precision: no (float32), bf16, or fp16 for cards without bf16; the adapter's own weights are float32 in each.
        gradient_checkpointing, channels_last, compile: how the U-Net computes, see `models.prepare_unet`.
        tracker: one of accelerate's, tensorboard for one, is told of every step; it logs into the run's folder. Empty = none.
        cache_latents: a folder for the images' latents; empty = none is kept.
        cache_tokens: a folder for the tokens of references that are the same in every epoch, half precision; empty = none.
        workers: processes that prepare batches; 0 = the training process does.
        save_precision: of adapter files: fp16 or fp32.
        checkpoint_every, keep_checkpoints: steps between adapter files, and how many stay.
        validate_every: steps between validations; 0 = none.
        validation_images: images that are held out of the training for validations, or taken from data of their own.
        validation_steps, validation_guidance: sampling of the validation pictures.
    """

    preset: str
    base: str
    kind: str = AdapterKind.EQ3.value
    num_tokens: int = 16
    latent_width: int = 1280
    inner_width: int = 0
    depth: int = 0
    feedforward: int = 0
    start_from: str = ""
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
    drop_image_share: float = 0.05
    drop_text_share: float = 0.05
    drop_both_share: float = 0.05
    mask_share: float = 0.5
    hide_kinds: Mapping[str, float] = field(
        default_factory=lambda: {
            "rectangle": 1.0,
            "ellipse": 1.0,
            "strokes": 1.0,
            "half_plane": 1.0,
            "patches": 1.0,
            "blob": 1.0,
        }
    )
    hide_mode: str = HideMode.DROP.value
    hide_threshold: float = 0.0
    region_share_masked: float = 1.0
    region_share_unmasked: float = 0.0
    region_kinds: Mapping[str, float] = field(default_factory=lambda: {VISIBLE: 1.0})
    gates: Mapping[str, float] = field(default_factory=lambda: {Gate.QUERY.value: 1.0})
    text_share: float = 0.0
    image_scale: float = 1.0
    augment_share: float = 0.0
    augment_noise: float = 0.08
    augment_shadow: float = 0.5
    augment_warp: float = 2.0
    augment_view: float = 10.0
    prediction: str = "model"
    min_snr_gamma: float = 0.0
    precision: str = "bf16"
    gradient_checkpointing: bool = True
    channels_last: bool = False
    compile: bool = False
    tracker: str = ""
    cache_latents: str = ""
    cache_tokens: str = ""
    workers: int = 4
    save_precision: str = "fp16"
    checkpoint_every: int = 5000
    keep_checkpoints: int = 3
    validate_every: int = 5000
    validation_images: int = 4
    validation_steps: int = 30
    validation_guidance: float = 7.5

    def __post_init__(self) -> None:
        _check(self)

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
        leave_no_trace = {
            "batch_size",  # what counts is the sum over the processes
            "broken_images",  # a run that met a broken one goes on without it
            "cache_latents",
            "cache_tokens",
            "save_precision",
            "workers",
            "keep_checkpoints",
            "checkpoint_every",
            "validate_every",
            "validation_images",  # how many are held out is for whoever holds them out to say
            "validation_steps",
            "validation_guidance",
            "gradient_checkpointing",
            "tracker",
            *dataclasses.asdict(self.schedule),
        }
        if self.augment_share == 0.0:
            leave_no_trace |= AUGMENT  # so that a run without it goes on whatever these are
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in leave_no_trace}

    @property
    def degradation(self) -> Degradation:
        """How far references are degraded at most."""
        return Degradation(self.augment_noise, self.augment_shadow, self.augment_warp, self.augment_view)

    def replace(self, **changes: Any) -> TrainConfig:
        """The same settings but for some; values may be text as a command line gives it.

        Raises:
            ConfigError: no such setting, or a value it cannot have.
        """
        types = get_type_hints(TrainConfig)
        unknown = sorted(changes.keys() - types.keys())
        if unknown:
            raise ConfigError(f"no such setting: {', '.join(unknown)}. There are {', '.join(types)}")
        return dataclasses.replace(
            self, **{name: _converted(name, value, types[name]) for name, value in changes.items()}
        )


def preset(name: str) -> TrainConfig:
    """A preset by name; ConfigError, with the names there are, if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}, expected one of {sorted(PRESETS)}")
    return PRESETS[name]


def read_config(file: Path) -> TrainConfig:
    """A preset, named by the key `preset`, with the settings of a TOML file.

    Raises:
        ConfigError: not TOML, no preset, an unknown setting, a value it cannot have.
        FileNotFoundError: no such file.
    """
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not a TOML file: {error}") from error
    if "preset" not in settings:
        raise ConfigError(f"{file} names no preset: add a line such as preset = {next(iter(PRESETS))!r}")
    try:
        return preset(settings["preset"]).replace(**settings)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--preset`, `--config` and one option for every other setting."""
    parser.add_argument("--preset", choices=sorted(PRESETS), help="where settings begin (default: sdxl)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings; its key preset is needed")
    group = parser.add_argument_group("settings, each in place of the preset's; see lab/train/config.py")
    for setting in dataclasses.fields(TrainConfig):
        if setting.name != "preset":
            group.add_argument(
                f"--{setting.name.replace('_', '-')}", default=None, metavar=_metavar(setting.name), dest=setting.name
            )


def config_of_arguments(arguments: argparse.Namespace) -> TrainConfig:
    """Preset or file, then the options given on the command line.

    Raises:
        ConfigError: as `read_config` and `TrainConfig.replace`; both --preset and --config.
    """
    if arguments.config is not None and arguments.preset is not None:
        raise ConfigError("--config and --preset are both given: the file names its preset, leave --preset out")
    begin = preset(arguments.preset or "sdxl") if arguments.config is None else read_config(arguments.config)
    names = [setting.name for setting in dataclasses.fields(TrainConfig) if setting.name != "preset"]
    given = {name: getattr(arguments, name) for name in names}
    return begin.replace(**{name: value for name, value in given.items() if value is not None})


def write_config(config: TrainConfig) -> str:
    """The settings as TOML that `read_config` reads back."""
    lines = []
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            pairs = ", ".join(f"{key} = {float(weight)!r}" for key, weight in value.items())
            lines.append(f"{name} = {{ {pairs} }}")
        else:
            lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _metavar(name: str) -> str:
    kind = get_type_hints(TrainConfig)[name]
    return "NAME=WEIGHT,..." if get_origin(kind) is not None else str(kind.__name__).upper()


def _converted(name: str, value: Any, kind: Any) -> Any:
    """A value of TOML or of the command line as the setting's type."""
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
        raise ConfigError(f"{name} is {value!r}, expected {_metavar(name)}") from None


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]


def _weights(value: Any, kind: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {str(name): kind(weight) for name, weight in value.items()}
    pairs = (part.partition("=") for part in value.split(","))
    return {name.strip(): kind(weight or 1) for name, _, weight in pairs}


def _check(config: TrainConfig) -> None:
    choices = {
        "kind": [kind.value for kind in AdapterKind],
        "hide_mode": [mode.value for mode in HideMode],
        "broken_images": BROKEN,
        "prediction": PREDICTIONS,
        "precision": PRECISIONS,
        "save_precision": SAVE_PRECISIONS,
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ConfigError(f"{name} is {getattr(config, name)!r}, expected one of {list(allowed)}")
    _check_weights("hide_kinds", config.hide_kinds, HIDE_KINDS)
    _check_weights("region_kinds", config.region_kinds, REGION_KINDS)
    _check_weights("gates", config.gates, [gate.value for gate in Gate])
    for name in (
        "drop_image_share",
        "drop_text_share",
        "drop_both_share",
        "mask_share",
        "hide_threshold",
        "region_share_masked",
        "region_share_unmasked",
        "text_share",
        "augment_share",
    ):
        if not 0.0 <= getattr(config, name) <= 1.0:
            raise ConfigError(f"{name} is {getattr(config, name)}, expected 0 to 1")
    for name in (
        "num_tokens",
        "batch_size",
        "steps",
        "accumulate",
        "save_every",
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
    ):
        if getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}, expected 1 or more")
    dropped = config.drop_image_share + config.drop_text_share + config.drop_both_share
    if dropped > 1.0:
        raise ConfigError(
            f"drop_image_share, drop_text_share and drop_both_share sum to {dropped:g}, expected 1 or less"
        )
    if config.validation_images < (1 if config.validate_every else 0):
        raise ConfigError(
            f"validation_images is {config.validation_images} and validate_every {config.validate_every}: hold out 1 or more, "
            "or set both to 0"
        )
    try:
        config.degradation  # noqa: B018  (it checks its limits)
    except ValueError as error:
        raise ConfigError(f"augment_{error}") from error
    if config.image_size < 8 or config.image_size % 8:
        raise ConfigError(f"image_size is {config.image_size}, expected a multiple of 8 pixels")


def _check_weights(name: str, weights: Mapping[str, float], allowed: tuple[str, ...] | list[str]) -> None:
    unknown = sorted(weights.keys() - set(allowed))
    if unknown:
        raise ConfigError(f"{name} has {', '.join(unknown)}, expected some of {list(allowed)}")
    if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
        raise ConfigError(f"{name} is {dict(weights)}, expected at least one weight above 0")


PRESETS: dict[str, TrainConfig] = {
    # The paper's section 4: SDXL, 512 px, 8 images for each of 8 GPUs, 1 million steps, AdamW 1e-4, 5 % text only, masks
    # in half of the rest, Eq. 6 as printed. It gives no c and no width: those of the public adapter-plus files are used. It
    # drops no text; the public training of IP-Adapter drops the text in 5 % and both in 5 %, so that guidance has a negative.
    "sdxl": TrainConfig(preset="sdxl", base="sdxl"),
    "sd15": TrainConfig(preset="sd15", base="sd15", latent_width=768),
}
