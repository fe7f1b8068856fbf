"""Trains from the command line what a preset is for: an adapter, RefAdGen, or a Strictly-ID ControlNet.

    python -m lab.train --preset sdxl --checkpoint MODEL --vision WEIGHTS --data FOLDER --out FOLDER [--SETTING VALUE ...]
    accelerate launch -m lab.train ...

The same command in the same folder goes on where it stopped. --data is a folder of images (each with name.txt or
name.json, and name.mask.png where there is a mask), a folder of webdataset shards, or one shard: docs/training_data.md has how
they are made, and `python -m lab.train.check` says what they hold.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs

from pfv_core.adapter.checkpoint import AdapterFileError

from ..files import NotWrittenError
from .adapter_training import AdapterTraining
from .config import ConfigError, RefAdGenConfig, RunConfig, TrainConfig, add_arguments, config_of_arguments
from .data import DataError
from .image_files import FileDataset, open_dataset
from .load import DTYPES, VISION_SOURCE, load_models
from .loop import TrainingStateError
from .models import ModelsError
from .refadgen_training import RefAdGenTraining
from .strict_id_config import ControlConfig
from .strict_id_training import StrictIDTraining
from .training import Training

TRAININGS: dict[type[RunConfig], type[Training[Any, Any]]] = {
    TrainConfig: AdapterTraining,
    RefAdGenConfig: RefAdGenTraining,
    ControlConfig: StrictIDTraining,
}
"""What a preset's kind of settings trains."""
PATIENCE = timedelta(hours=12)
"""For which processes wait for the first, which alone looks through the data, writes states and draws validations."""
TOLD = (ConfigError, DataError, ModelsError, NotWrittenError, TrainingStateError, AdapterFileError, FileNotFoundError)
"""Errors whose message says everything: no traceback."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        "python -m lab.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of images, folder of shards, or one shard")
    parser.add_argument(
        "--validation-data", type=Path, help="images for validations; default: some of --data, held out"
    )
    parser.add_argument("--index", type=Path, help="folder for the index of the data; default: .pfv_index beside them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--checkpoint", type=Path, required=True, help="base model: diffusers folder or single file")
    parser.add_argument("--vision", type=Path, help=f"image encoder, for presets that take one; {VISION_SOURCE}")
    parser.add_argument("--configs", type=Path, help="configs and tokenizers, for a single-file --checkpoint")
    parser.add_argument("--stop-at", type=int, help="a step to stop at before the end")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    try:
        config = config_of_arguments(given)
        accelerator = new_accelerator(config, given.out)
        with accelerator.main_process_first():  # it writes the index, which the others read
            dataset = open_dataset(given.data, config.image_size, given.index)
            shown = _validation_data(given, config)
        models = load_models(
            config.base,
            given.checkpoint,
            given.vision,
            configs=given.configs,
            dtype=DTYPES[config.precision],
            device=accelerator.device,
        )
        training = TRAININGS[type(config)](models, dataset, config, accelerator, given.out, shown)
        file = training.train(given.stop_at)
    except TOLD as error:
        sys.exit(f"error: {error}")
    accelerator.print(f"wrote {file}")
    accelerator.end_training()


def _validation_data(given: argparse.Namespace, config: RunConfig) -> FileDataset | None:
    return (
        None if given.validation_data is None else open_dataset(given.validation_data, config.image_size, given.index)
    )


def new_accelerator(config: RunConfig, folder: Path) -> Accelerator:
    """What a run computes on, with its tracker begun.

    Raises:
        ConfigError: a precision that the device has not, a tracker that there is not, or that is not installed.
    """
    installed = [str(tracker) for tracker in get_available_trackers()]
    if config.tracker and config.tracker not in installed:
        raise ConfigError(
            f"tracker is {config.tracker!r}, installed of accelerate's are {installed}: install it, or another"
        )
    try:
        accelerator = Accelerator(
            mixed_precision=config.precision,
            log_with=config.tracker or None,
            project_dir=str(folder),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    settings = {
        name: str(value) if isinstance(value, dict) else value for name, value in config.model_dump(mode="json").items()
    }
    accelerator.init_trackers(TRAININGS[type(config)].name, settings)
    return accelerator


if __name__ == "__main__":
    main()
