"""Trains the tiny stack from scratch; can be killed at any moment and started again.

    python -m lab.demo.train --work FOLDER [--stage NAME] [--out FOLDER] [--seed N] [--precision no|bf16] [--begin FOLDER]
        [--steps N] [--batch-size N] [--minutes N]

Stages, each resting on those before it; without --stage all but the last two run in turn:

autoencoder  pictures to latents and back
encoders     text and pictures, by CLIP's contrast
hint         the ControlNet's eye: what reads a depth picture, alone
unet_half    the U-Net on pictures of half the size, where a sample costs a quarter
together     U-Net and ControlNet at once, at full size
further      the same from the weights in --begin on, such as those that the repository ships; another --seed sees other samples
controlnet   the ControlNet alone from the weights in --begin on, beside the adapter's image prompts

Weights go to --out in half precision, with what made them in their metadata; those that only a later stage reads go to --work.
With --minutes a stage of the last two ends in time, at whatever step it is, and writes what it has: on a machine that is lent for
minutes. What it wrote is what the next run begins with. Where not all scenes are drawn by then it says so; the same command goes
on there. Encoding the scenes is not bounded.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from . import stack
from .drawn_once import OutOfTimeError
from .train_controlnet import train_controlnet
from .train_encoders import train_autoencoder, train_encoders, train_hint
from .train_unet import train_further, train_together, train_unet_half
from .trainer import BEGINS_WITH, CONTROLNET, FURTHER, STAGES, BeginError, Trainer, checked_begin, recipe

TRAIN: dict[str, Callable[[Trainer], None]] = {
    "autoencoder": train_autoencoder,
    "encoders": train_encoders,
    "hint": train_hint,
    "unet_half": train_unet_half,
    "together": train_together,
    FURTHER: train_further,
    CONTROLNET: train_controlnet,
}


def train_stage(run: Trainer, stage: str) -> None:
    """Train one stage; its initial weights are the seed's, whatever ran before it."""
    torch.manual_seed(run.seed)
    run.begun_from = ""
    TRAIN[stage](run)


def main(arguments: list[str] | None = None) -> None:
    """Run the stages asked for."""
    later = " or ".join(BEGINS_WITH)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for rendered scenes and training states")
    parser.add_argument("--out", type=Path, default=stack.WEIGHTS, help="folder for the weights")
    parser.add_argument("--stage", choices=tuple(TRAIN), help="only this one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("no", "bf16"), default="no", help="bf16: where the processor has it")
    parser.add_argument("--begin", type=Path, help="folder of weights to begin with")
    parser.add_argument("--steps", type=int, help=f"of the stage {later} (default: {_steps()})")
    parser.add_argument("--batch-size", type=int, help=f"of the stage {later} (default: {_batch_sizes()})")
    parser.add_argument(
        "--minutes", type=float, help=f"of the stage {later}, from the start of the command, drawing and all"
    )
    given = parser.parse_args(arguments)
    until = math.inf if given.minutes is None else time.monotonic() + 60 * given.minutes
    torch.set_flush_denormal(True)
    how = recipe(given.seed)
    if given.stage in BEGINS_WITH:
        try:
            checked_begin(given.stage, given.begin, given.out)
        except BeginError as error:  # before anything is drawn
            parser.error(str(error))
    for name, least in (("steps", 1), ("batch_size", 1), ("minutes", 0)):
        value = getattr(given, name)
        if value is not None and (given.stage not in BEGINS_WITH or value < least):
            parser.error(f"--{name.replace('_', '-')} is a number of {least} or more, and of --stage {later} alone")
    if given.steps is not None:
        how = replace(how, **{given.stage: replace(getattr(how, given.stage), steps=given.steps)})
    if given.batch_size is not None:
        how = replace(how, batch_sizes=how.batch_sizes | {given.stage: given.batch_size})
    try:
        run = Trainer(
            given.work,
            given.out,
            how,
            given.seed,
            precision=given.precision,
            begin=given.begin,
            until=until,
        )
    except OutOfTimeError as error:
        parser.exit(1, f"{error}\n")
    for stage in [given.stage] if given.stage else STAGES:
        train_stage(run, stage)


def _steps() -> str:
    return " or ".join(str(getattr(recipe(0), stage).steps) for stage in BEGINS_WITH)


def _batch_sizes() -> str:
    return " or ".join(str(recipe(0).batch_sizes[stage]) for stage in BEGINS_WITH)


if __name__ == "__main__":
    main()
