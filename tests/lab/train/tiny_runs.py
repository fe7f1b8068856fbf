"""Runs of seconds of everything that is trained beside a frozen U-Net, each started in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lab.train.adapter_training import AdapterTraining
from lab.train.config import RunConfig
from lab.train.data import Dataset
from lab.train.models import TrainingModels
from lab.train.refadgen_training import RefAdGenTraining
from lab.train.strict_id_training import StrictIDTraining
from lab.train.training import Training

from .tiny_models import Products, Squares, Subjects, tiny_config, tiny_models, tiny_refadgen, tiny_strict_id

Start = Callable[..., Any]


@dataclass(frozen=True)
class Method:
    """Something that is trained.

    Attributes:
        training: its kind of run.
        settings: of a tiny one.
        dataset: what a tiny one is trained on.
        every_part: settings with which every part of it learns at every step, and every sample alike.
    """

    training: type[Training[Any, Any]]
    settings: Callable[..., RunConfig]
    dataset: Callable[[], Dataset]
    every_part: Mapping[str, object] = field(default_factory=dict)

    def starter(self, place: Path) -> Start:
        """Starts runs in folders of this place."""

        def start(
            models: TrainingModels | None = None,
            dataset: Dataset | None = None,
            name: str = "run",
            shown: Dataset | None = None,
            accelerator: Accelerator | None = None,
            **changes: object,
        ) -> Training[Any, Any]:
            return self.training(
                models or tiny_models(),
                dataset or self.dataset(),
                self.settings(**changes),
                accelerator or Accelerator(cpu=True),
                place / name,
                shown,
            )

        return start


ADAPTER = Method(AdapterTraining, tiny_config, Squares, {"gates": "output=1"})
REFADGEN = Method(RefAdGenTraining, tiny_refadgen, Products)
STRICT_ID = Method(StrictIDTraining, tiny_strict_id, Subjects, {"drop_appearance_share": 0.0})
METHODS = {method.training.name: method for method in (ADAPTER, REFADGEN, STRICT_ID)}


def state(module: nn.Module) -> dict[str, Tensor]:
    """A copy of its weights."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def loss_of(training: Training[Any, Any], batch: Any) -> float:
    """Of a micro-batch, nothing trained."""
    return float(training.loss(batch).detach())


def losses(training: Training[Any, Any]) -> list[float]:
    """Of every step that its folder holds."""
    return [json.loads(line)["loss"] for line in (training.folder / "losses.jsonl").read_text().splitlines()]


@torch.no_grad()
def opened(training: Any) -> Any:
    """A Strictly-ID run whose zero convolutions have values, as after some steps: whatever it is given then counts."""
    torch.manual_seed(3)
    for name, parameter in training.module.controlnet.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            parameter.normal_(std=0.3)
    training.module.controlnet.controlnet_cond_embedding.conv_in.weight[:, 3:].normal_(std=0.3)
    return training
