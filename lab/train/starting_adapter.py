"""The adapter that a run begins with."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.adapter.model import Adapter, AdapterConfig

from ..diffusers.new_adapter import adapter_config, new_adapter
from .config import ConfigError, TrainConfig
from .models import TrainingModels, vision_of


def starting_adapter(models: TrainingModels, config: TrainConfig) -> Adapter:
    """A new adapter of the config's kind, or the one of `config.start_from`, trainable.

    Raises:
        ConfigError: a file of another base, kind, size or encoder.
    """
    own = adapter_config(
        models.unet,
        kind=config.kind,
        base=config.base,
        encoder=vision_of(models).spec,
        num_tokens=config.num_tokens,
        latent_width=config.latent_width,
        inner_width=config.inner_width,
        depth=config.depth,
        feedforward=config.feedforward,
    )
    adapter = new_adapter(models.unet, own, config.seed)
    if config.start_from:
        loaded = load_adapter(Path(config.start_from))
        _check_fits(loaded.config, own, config.start_from)
        adapter.load_state_dict(loaded.state_dict())
    return adapter.train().requires_grad_(True)


def _check_fits(found: AdapterConfig, own: AdapterConfig, file: str) -> None:
    names = [field.name for field in fields(AdapterConfig) if field.name != "metadata"]
    different = [name for name in names if getattr(found, name) != getattr(own, name)]
    if different:
        first = different[0]
        raise ConfigError(
            f"start_from {file} does not fit this run: its {first} is {_shown(getattr(found, first))}, here it is "
            f"{_shown(getattr(own, first))} ({', '.join(different)} differ). Give an adapter of this preset, or leave it out"
        )


def _shown(value: Any) -> str:
    text = str(getattr(value, "value", value))
    return text if len(text) < 60 else f"{text[:60]}..."
