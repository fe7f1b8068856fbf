"""What a training step of the SDXL preset costs, and how much of it is this repository's own code.

    python -m benchmarks.train_step [--size sdxl|narrow|tiny] [--batch-size N] [--rounds N] [--SETTING VALUE ...]

From the repository's root. Without options: on a CUDA device SDXL's sizes at 512 px and batch 8, as the preset trains; on a
CPU the narrow stand-in at batch 1, see `random_models`. Weights, pictures and captions are random; nothing is downloaded.

First whole steps are timed, as they run. Then each part of further steps is timed by itself, with the device waited for at
its ends: what is left of a step is our own code. That waiting hides nothing, so the share is an upper bound of what our code
adds to a step, in which a device works while the processor prepares. On a CUDA device the transfers and readings that make
the processor wait for it are counted too, by the line that they come from. On a CPU seconds are those of this process, all
its threads together: what others take of the machine is not in them.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from lab.diffusers import prompts
from lab.train.adapter_training import AdapterTraining
from lab.train.batches import read_ahead
from lab.train.config import TrainConfig, add_arguments, config_of_arguments
from lab.train.data import Sample
from lab.train.load import DTYPES

from .random_models import BY_NAME, random_models

NETWORKS = ("U-Net, forward", "U-Net, backward", "encoders", "optimizer and average")
ADAPTER, REGIONS, BATCH, REST = "adapter, forward", "regions on the layers' grids", "the next batch", "everything else"


class Clock:
    """Seconds of the parts of a step, each without the parts inside it.

    Args:
        device: waited for where a part begins and ends.
        now: seconds; None = what `seconds_on` the device says.
    """

    def __init__(self, device: torch.device, now: Callable[[], float] | None = None) -> None:
        self.seconds: Counter[str] = Counter()
        self.running = False
        self._now = now or (lambda: seconds_on(device))
        self._open: list[tuple[str, float]] = []

    def times(self, owner: Any, name: str, part: str) -> None:
        """Count the calls of a method of an object, module or class to a part."""
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(part):
                return call(*args, **kwargs)

        setattr(owner, name, timed)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside is counted to a part, and to no part around it."""
        if not self.running:
            yield
            return
        self._count()
        self._open.append((name, self._now()))
        try:
            yield
        finally:
            self._count()
            self._open.pop()
            if self._open:
                self._open[-1] = self._open[-1][0], self._now()

    def _count(self) -> None:
        if self._open:
            name, since = self._open[-1]
            self.seconds[name] += self._now() - since


def seconds_on(device: torch.device) -> float:
    """The clock's when a CUDA device is done with all that it was given; else this process's."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def main() -> None:
    """Build, step, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--size", choices=BY_NAME, default="sdxl" if cuda else "narrow", help="of the models")
    parser.add_argument(
        "--rounds", type=int, default=10 if cuda else 3, help="steps of each kind, after one that warms up"
    )
    add_arguments(parser)
    parser.set_defaults(steps=1_000_000, batch_size=8 if cuda else 1, validate_every=0, validation_images=0)
    arguments = parser.parse_args()
    config = config_of_arguments(arguments)
    if not isinstance(config, TrainConfig):
        parser.error(f"preset {config.preset} trains no adapter: benchmarks.refadgen has a step of RefAdGen")
    if config.steps < num_steps(arguments.rounds):
        parser.error(
            f"--steps is {config.steps}, expected {num_steps(arguments.rounds)} or more: so many are taken; see --rounds"
        )
    accelerator = Accelerator(mixed_precision=config.precision)
    started = time.monotonic()
    models = random_models(BY_NAME[arguments.size], DTYPES[config.precision], accelerator.device)
    name = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads"
    print(
        f"torch {torch.__version__}, {accelerator.device}, {name}; {config.precision}, {config.image_size} px, batch",
        end=" ",
    )
    print(f"{config.batch_size}; {arguments.size} models built in {time.monotonic() - started:.0f} s", flush=True)
    with tempfile.TemporaryDirectory(prefix="train-step-") as folder:
        training = AdapterTraining(models, RandomImages(config.image_size), config, accelerator, Path(folder))
        measure(training, config, arguments.rounds)


def num_steps(rounds: int) -> int:
    """One that warms up, the whole ones, those whose parts are timed, and one whose waits are counted."""
    return 2 + 2 * rounds


def measure(training: AdapterTraining, config: TrainConfig, rounds: int) -> None:
    """Take the steps and print what they cost."""
    device = training.accelerator.device
    steps = Steps(training, num_steps(rounds))
    for name, module in (("U-Net", training.models.unet), ("adapter", training.adapter)):
        print(f"{name}: {sum(parameter.numel() for parameter in module.parameters()) / 1e6:.1f} million parameters")
    steps.take()  # warms up
    whole = [steps.take() for _ in range(rounds)]
    clock = clock_of(training, steps)
    clock.running = True
    parted = sum(steps.take() for _ in range(rounds)) / rounds
    clock.running = False
    parts = {name: seconds / rounds for name, seconds in clock.seconds.items()}
    parts[REST] = parted - sum(parts.values())
    print(
        f"a step: {1e3 * statistics.median(whole):.1f} ms (median of {rounds}); with its parts timed: {1e3 * parted:.1f} ms"
    )
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        print(f"  {name:<30} {1e3 * seconds:9.2f} ms  {100 * seconds / parted:6.2f} %")
    own = sum(seconds for name, seconds in parts.items() if name not in (*NETWORKS, ADAPTER))
    strict = own + parts[ADAPTER]
    print(f"our own code: {1e3 * own:.2f} ms, {100 * own / parted:.2f} % of a step")
    print(f"with the adapter's forward pass, itself a network: {1e3 * strict:.2f} ms, {100 * strict / parted:.2f} %")
    if device.type == "cuda":
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
        for line, count in waits(steps).most_common():
            print(f"  waits for the device: {count} at {line}")


class Steps:
    """Steps of a training, one by one, as its loop takes them."""

    def __init__(self, training: AdapterTraining, count: int) -> None:
        config = training.config
        self.training = training
        self._batches = read_ahead(
            training.batches, 0, count * config.accumulate, config.workers, training.accelerator.device
        )

    def batch(self) -> Any:
        """The next one."""
        return next(self._batches)

    def take(self) -> float:
        """Seconds of a step, to its end on the device."""
        loop, device = self.training.loop, self.training.accelerator.device
        started = seconds_on(device)
        values = loop.one_step(self._loss)
        loop.step += 1
        loop.losses.add(loop.step, 0.0, values)
        self.training.close()
        return seconds_on(device) - started

    def _loss(self, _index: int, _generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return self.training.loss(self.batch()), {}


def clock_of(training: AdapterTraining, steps: Steps) -> Clock:
    """A clock on every part of a training's step; from here on it stays there."""
    forward, backward, encoders, optimizer = NETWORKS
    clock = Clock(training.accelerator.device)
    models, loop = training.models, training.loop
    clock.times(models.unet, "forward", forward)
    clock.times(training.accelerator, "backward", backward)
    for owner, name in ((models.vision, "embed_patches"), (models.vision, "run_blocks"), (models.vision, "pool")):
        clock.times(owner, name, encoders)
    text, latents = models.encode_text, models.encode_latents
    object.__setattr__(models, "encode_text", _timed(clock, text, encoders))
    object.__setattr__(models, "encode_latents", _timed(clock, latents, encoders))
    for owner, name in (
        (loop.optimizer, "step"),
        (loop.optimizer, "zero_grad"),
        (training.accelerator, "clip_grad_norm_"),
    ):
        clock.times(owner, name, optimizer)
    if loop.average is not None:
        clock.times(loop.average, "step", optimizer)
    clock.times(loop.unwrapped("adapter"), "forward", ADAPTER)
    clock.times(prompts.Passes, "_on", REGIONS)
    clock.times(steps, "batch", BATCH)
    return clock


def waits(steps: Steps) -> Counter[str]:
    """Where, and how often, a step makes the processor wait for a CUDA device."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        steps.take()
        torch.cuda.set_sync_debug_mode("default")
    return Counter(f"{one.filename}:{one.lineno}" for one in caught if "synchronizing" in str(one.message))


class RandomImages:
    """Noise with a caption."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return 1 << 20

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """One image of noise."""
        return Sample(torch.rand(3, self.size, self.size, generator=generator), f"a red cup on a wooden table, {index}")


def _timed(clock: Clock, call: Callable[..., Any], part: str) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        with clock.part(part):
            return call(*args)

    return timed


if __name__ == "__main__":
    main()
