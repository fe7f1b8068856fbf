"""Trains the tiny stack from scratch; can be killed at any moment and started again.

    python -m lab.demo.train --work FOLDER [--stage NAME] [--out FOLDER] [--seed N] [--precision no|bf16] [--begin FOLDER]
        [--steps N]

Stages, each resting on those before it; without --stage all but the last two run in turn:

autoencoder  pictures to latents and back
encoders     text and pictures, by CLIP's contrast
hint         the ControlNet's eye: what reads a depth picture, alone
unet_half    the U-Net on pictures of half the size, where a sample costs a quarter
together     U-Net and ControlNet at once, at full size
further      the same from the weights in --begin on, such as those that the repository ships; another --seed sees other samples
controlnet   the ControlNet alone from the weights in --begin on, beside the adapter's image prompts

Weights go to --out in half precision, with what made them in their metadata; those that only a later stage reads go to --work.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from . import stack
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


def main() -> None:
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
    arguments = parser.parse_args()
    torch.set_flush_denormal(True)
    how = recipe(arguments.seed)
    if arguments.stage in BEGINS_WITH:
        try:
            checked_begin(arguments.stage, arguments.begin, arguments.out)
        except BeginError as error:  # before anything is drawn
            parser.error(str(error))
    if arguments.steps is not None:
        if arguments.stage not in BEGINS_WITH or arguments.steps < 1:
            parser.error(f"--steps is a number of 1 or more, and of --stage {later} alone")
        how = replace(how, **{arguments.stage: replace(getattr(how, arguments.stage), steps=arguments.steps)})
    run = Trainer(
        arguments.work, arguments.out, how, arguments.seed, precision=arguments.precision, begin=arguments.begin
    )
    for stage in [arguments.stage] if arguments.stage else STAGES:
        train_stage(run, stage)


def _steps() -> str:
    return " or ".join(str(getattr(recipe(0), stage).steps) for stage in BEGINS_WITH)


if __name__ == "__main__":
    main()
