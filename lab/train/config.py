"""What a training run is: every setting in one frozen model, presets, TOML files and command line overrides."""

from __future__ import annotations

import argparse
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tomli_w
from pydantic import Field, field_validator, model_validator

from pfv_core.adapter.model import AdapterKind
from pfv_core.attention.control import Gate
from pfv_core.reference.vit import HideMode

from .masks import MaskKind
from .settings import AUGMENT as AUGMENT
from .settings import ConfigError as ConfigError
from .settings import Count, Flag, Integer, Number, Share, Weights, check_weights
from .settings import RunConfig as RunConfig
from .strict_id_config import PRESETS as STRICT_ID

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DATASET = "dataset"
VISIBLE = "visible"
HIDE_KINDS = (DATASET, *(kind.value for kind in MaskKind if kind is not MaskKind.FULL))
REGION_KINDS = (DATASET, VISIBLE, *(kind.value for kind in MaskKind if kind is not MaskKind.NONE))


class TrainConfig(RunConfig):
    """The settings of an adapter's run.

    Attributes:
        kind: image projection of the adapter: linear, resampler, eq3.
        num_tokens: image prompt tokens c; the compression.
        latent_width, inner_width, depth, feedforward: sizes of the projection, 0 where its kind has none.
        start_from: an adapter file to go on from; empty = a new adapter.
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
        augment_share: of the samples with an image prompt, see `settings.RunConfig`.
        cache_tokens: a folder for the tokens of references that are the same in every epoch, half precision; empty = none.
    """

    kind: AdapterKind = AdapterKind.EQ3
    num_tokens: Count = 16
    latent_width: Integer = 1280
    inner_width: Integer = 0
    depth: Integer = 0
    feedforward: Integer = 0
    start_from: str = ""
    drop_image_share: Share = 0.05
    drop_both_share: Share = 0.05
    mask_share: Share = 0.5
    hide_kinds: Weights = {  # noqa: RUF012, pydantic copies it
        "rectangle": 1.0,
        "ellipse": 1.0,
        "strokes": 1.0,
        "half_plane": 1.0,
        "patches": 1.0,
        "blob": 1.0,
    }
    hide_mode: HideMode = HideMode.DROP
    hide_threshold: Share = 0.0
    region_share_masked: Share = 1.0
    region_share_unmasked: Share = 0.0
    region_kinds: Weights = {VISIBLE: 1.0}  # noqa: RUF012, pydantic copies it
    gates: Weights = {Gate.QUERY.value: 1.0}  # noqa: RUF012, pydantic copies it
    text_share: Share = 0.0
    image_scale: Number = 1.0
    cache_tokens: str = ""

    @field_validator("hide_kinds")
    @classmethod
    def _hides(cls, value: Weights) -> Weights:
        return check_weights(value, HIDE_KINDS)

    @field_validator("region_kinds")
    @classmethod
    def _rules(cls, value: Weights) -> Weights:
        return check_weights(value, REGION_KINDS)

    @field_validator("gates")
    @classmethod
    def _gated(cls, value: Weights) -> Weights:
        return check_weights(value, [gate.value for gate in Gate])

    @model_validator(mode="after")
    def _dropped(self) -> TrainConfig:
        dropped = self.drop_image_share + self.drop_text_share + self.drop_both_share
        if dropped > 1.0:
            raise ValueError(
                f"drop_image_share, drop_text_share and drop_both_share sum to {dropped:g}, expected 1 or less"
            )
        return self

    def without_trace(self) -> set[str]:
        """The settings, beside the schedule's, that may differ between two starts of a run."""
        return super().without_trace() | {"cache_tokens"}


class RefAdGenConfig(RunConfig):
    """The settings of a run of RefAdGen.

    Attributes:
        mask_channel: whether the mask's input channel is trained; without it nothing says where the product stands.
        product_weight: how much the product's part of the picture counts in the loss, where the rest counts 1; 1 = Eq. 2.
        compile: not here: the fusion enters every self-attention anew in every step, and each would be compiled again.
    """

    mask_channel: Flag = True
    product_weight: Annotated[Number, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _uncompiled(self) -> RefAdGenConfig:
        if self.compile:
            raise ValueError(
                "compile is True, which a preset of RefAdGen cannot have: the fusion enters every self-attention anew in "
                "every step, and each would be compiled again. Leave it out"
            )
        return self


# RefAdGen's table 2: AdamW, rate 1e-5 falling linearly to 0 after 500 steps of warmup, weight decay 0.01, batch 3, noise
# offset 0.05, 8 epochs. On 90 % of 600,000 triplets with 2 GPUs of batch 3 those are 720,000 steps: give your own number.
# Of six variants of a triplet five are augmented. No average of the weights is named, so there is none. Not the paper's:
# squares of 512 px for 512 x 640; captions dropped in 5 %, so that guidance has a negative; our amounts of augmentation.
_REFADGEN: dict[str, Any] = {
    "batch_size": 3,
    "steps": 720_000,
    "learning_rate": 1e-5,
    "warmup": 500,
    "decay_from": 500 / 720_000,
    "ema_decay": 0.0,
    "noise_offset": 0.05,
    "augment_share": 5 / 6,
}

PRESETS: dict[str, RunConfig] = {
    # The paper's section 4: SDXL, 512 px, 8 images for each of 8 GPUs, 1 million steps, AdamW 1e-4, 5 % text only, masks
    # in half of the rest, Eq. 6 as printed. It gives no c and no width: those of the public adapter-plus files are used. It
    # drops no text; the public training of IP-Adapter drops the text in 5 % and both in 5 %, so that guidance has a negative.
    "sdxl": TrainConfig(preset="sdxl", base="sdxl"),
    "sd15": TrainConfig(preset="sd15", base="sd15", latent_width=768),
    "refadgen_sd15": RefAdGenConfig(preset="refadgen_sd15", base="sd15", **_REFADGEN),
    "refadgen_sdxl": RefAdGenConfig(preset="refadgen_sdxl", base="sdxl", **_REFADGEN),
    **STRICT_ID,
}


def preset(name: str) -> RunConfig:
    """A preset by name, of the kind of training that it is for; ConfigError, with the names there are, if there is none."""
    if name not in PRESETS:
        raise ConfigError(f"preset is {name!r}, expected one of {sorted(PRESETS)}")
    return PRESETS[name]


def read_config(file: Path) -> RunConfig:
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
    """`--preset`, `--config` and one option for every other setting of any preset."""
    parser.add_argument("--preset", choices=sorted(PRESETS), help="where settings begin (default: sdxl)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings; its key preset is needed")
    group = parser.add_argument_group("settings, each in place of the preset's; see lab/train/config.py")
    for name, kind in _settings().items():
        group.add_argument(f"--{name.replace('_', '-')}", default=None, metavar=_given_as(kind), dest=name)


def config_of_arguments(arguments: argparse.Namespace) -> RunConfig:
    """Preset or file, then the options given on the command line.

    Raises:
        ConfigError: as `read_config` and `RunConfig.replace`; both --preset and --config.
    """
    if arguments.config is not None and arguments.preset is not None:
        raise ConfigError("--config and --preset are both given: the file names its preset, leave --preset out")
    begin = preset(arguments.preset or "sdxl") if arguments.config is None else read_config(arguments.config)
    given = {name: getattr(arguments, name) for name in _settings()}
    return begin.replace(**{name: value for name, value in given.items() if value is not None})


def write_config(config: RunConfig) -> str:
    """The settings as TOML that `read_config` reads back."""
    return tomli_w.dumps(config.model_dump(mode="json"))


def _settings() -> dict[str, Any]:
    """Every setting of any preset, but for the preset's name, and its type."""
    kinds = dict.fromkeys(type(config) for config in PRESETS.values())
    every = {name: field.annotation for config in kinds for name, field in config.model_fields.items()}
    return {name: kind for name, kind in every.items() if name != "preset"}


def _given_as(kind: Any) -> str:
    """What a setting of a type is on the command line, in words."""
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if issubclass(get_origin(kind) or kind, dict):
        return "NAME=WEIGHT,..."
    return "|".join(one.value for one in kind) if issubclass(kind, Enum) else str(kind.__name__).upper()
