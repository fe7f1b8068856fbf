"""What commands share that take an optimizer step of a preset at full size: parts in processes of their own, frozen models of
random weights, and the host's model of the same layout.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from lab.train.models import TrainingModels
from lab.train.training import Training
from pfv_core.reference.vit import VisionEncoder

from .random_models import random_unet_of

WIDTH, DEPTH = 320, 10  # of the released models
NARROW = 64  # of the two processes
CONTEXT = {"sd15": 768, "sdxl": 2048}
TOKENS, POOLED = 77, 1280
SIDE = 256

Part = Callable[[argparse.Namespace], None]


def main(module: str, documentation: str | None, parts: Mapping[str, Part]) -> None:
    """Run `step`, `load` and, in one process and in two, `gradients` of a command, each in processes of its own."""
    options = _options(documentation, parts)
    if options.part:
        parts[options.part](options)
        return
    with tempfile.TemporaryDirectory(prefix="full-step-") as folder:
        options.folder = folder
        for part in ("step", "load"):
            _run(module, options, part)
        options.width = NARROW
        for processes in (1, 2):
            _run(module, options, "gradients", processes)
        one, two = (torch.load(Path(folder) / f"gradients_{count}.pt", weights_only=True) for count in (1, 2))
        apart = math.hypot(*(float((two[name] - value).norm()) for name, value in one.items()))
        norm = math.hypot(*(float(value.norm()) for value in one.values()))
        print(f"two processes and one, width {NARROW}: {len(one)} gradients, {apart / norm:.1e} of their norm apart")


def frozen_models(options: argparse.Namespace, dtype: torch.dtype, vision: VisionEncoder | None) -> TrainingModels:
    """A random U-Net in `dtype`; text encoder and autoencoder, which are frozen, are left out."""
    unet = random_unet_of(options.base, options.width, options.depth, dtype)
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(1, TOKENS, CONTEXT[options.base], generator=generator)
    pooled = torch.randn(1, POOLED if options.base == "sdxl" else 0, generator=generator)

    def encode_text(captions: Any) -> tuple[Tensor, Tensor]:
        return context.expand(len(captions), -1, -1), pooled.expand(len(captions), -1)

    def encode_latents(image: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(image, 8)[:, [0, 1, 2, 0]] * 2 - 1

    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    return TrainingModels(options.base, unet, vision, encode_text, encode_latents, scheduler)


def check_memory(needed: float) -> None:
    """End, saying so, where a step needs more GB than are free."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / 1e9
    if free < needed:
        sys.exit(
            f"a step needs about {needed:.0f} GB beside what is there, {free:.0f} are free: lower --width or --depth"
        )


def write_gradients(options: argparse.Namespace, training: Training[Any, Any]) -> None:
    """Those of a first step, as the optimizer would see them; the process ends with it."""
    training.accelerator.backward(training.loss(training.batches[0]))
    found = {name: value.grad for name, value in training.module.named_parameters() if value.requires_grad}
    if training.accelerator.is_main_process:
        torch.save(found, Path(options.folder) / f"gradients_{processes()}.pt")
    training.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)  # nobody waits for the process group's thread


def processes() -> int:
    """That work together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def host_model(options: argparse.Namespace) -> Any:
    """The host's random MODEL of the same layout, once the host runs in this process."""
    from .models import random_unet

    if options.depth != DEPTH:
        from pfv_mepa.tests.support.tiny_stack import topologies

        plan, depth = topologies.TOPOLOGIES["sdxl"], options.depth
        sides = {
            name: tuple(depth if blocks == DEPTH else blocks for blocks in getattr(plan, name))
            for name in ("transformer_depth", "transformer_depth_output")
        }
        topologies.TOPOLOGIES["sdxl"] = replace(plan, transformer_depth_middle=depth, **sides)
    return random_unet(options.base, torch.float32, options.width, 64, CONTEXT[options.base], POOLED)


def prompt(options: argparse.Namespace) -> list[Any]:
    """A random CONDITIONING for it."""
    pooled = {"pooled_output": torch.randn(1, POOLED)} if options.base == "sdxl" else {}
    return [[torch.randn(1, TOKENS, CONTEXT[options.base]), pooled]]


def peak() -> float:
    """GB that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts it in KiB


def _run(module: str, options: argparse.Namespace, part: str, count: int = 1) -> None:
    """A part in processes of its own, so that what one leaves is no other's memory."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
    given = {name: getattr(options, name) for name in ("base", "width", "depth", "host", "folder")}
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, *launch, "-m", module, *arguments, "--part", part], check=True)


def _options(documentation: str | None, parts: Mapping[str, Part]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=tuple(CONTEXT), default="sd15", help="(%(default)s)")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the first level; a multiple of 32 (%(default)s)")
    parser.add_argument("--depth", type=int, default=DEPTH, help="blocks of SDXL's deepest transformers (%(default)s)")
    parser.add_argument("--host", type=Path, default=Path.home() / "comfy" / "ComfyUI", help="ComfyUI's folder")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=tuple(parts), help=argparse.SUPPRESS)
    return parser.parse_args()
