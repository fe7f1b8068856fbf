"""Trains an adapter from the command line.

    python -m lab.train --preset sdxl --checkpoint MODEL --vision WEIGHTS --data FOLDER --out FOLDER [--SETTING VALUE ...]
    accelerate launch -m lab.train ...

The same command in the same folder goes on where it stopped. --data is a folder of images (each with name.txt or
name.json, and name.mask.png where there is a mask), a folder of webdataset shards, or one shard.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from pfv_core.adapter.checkpoint import AdapterFileError

from ..files import NotWrittenError
from .adapter_training import train_adapter
from .config import ConfigError, TrainConfig, add_arguments, config_of_arguments
from .data import DataError, open_dataset
from .loop import TrainingStateError
from .models import VISION_SOURCE, ModelsError, TrainingModels, load_demo, load_models

TOLD = (ConfigError, DataError, ModelsError, NotWrittenError, TrainingStateError, AdapterFileError, FileNotFoundError)
"""Errors whose message says everything: no traceback."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        "python -m lab.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images, folder of shards, or one shard")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--checkpoint", type=Path, help="base model: diffusers folder or single file")
    parser.add_argument("--vision", type=Path, help=f"image encoder; {VISION_SOURCE}")
    parser.add_argument("--configs", type=Path, help="configs and tokenizers, for a single-file --checkpoint")
    parser.add_argument("--stop-at", type=int, help="a step to stop at before the end")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    try:
        config = config_of_arguments(given)
        dataset = open_dataset(given.data, config.image_size)
        accelerator = Accelerator(mixed_precision=config.precision)
        models = _models(given, config, accelerator.device)
        file = train_adapter(models, dataset, config, accelerator, given.out, given.stop_at)
    except TOLD as error:
        sys.exit(f"error: {error}")
    accelerator.print(f"wrote {file}")
    accelerator.end_training()


def _models(given: argparse.Namespace, config: TrainConfig, device: torch.device) -> TrainingModels:
    if config.base == "demo":
        return load_demo(given.checkpoint, device)
    if given.checkpoint is None or given.vision is None:
        raise ConfigError(f"preset {config.preset} needs --checkpoint (the {config.base} model) and --vision")
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return load_models(config.base, given.checkpoint, given.vision, configs=given.configs, dtype=dtype, device=device)


if __name__ == "__main__":
    main()
