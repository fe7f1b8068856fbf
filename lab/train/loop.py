"""A training loop that can be killed at any moment and goes on to the bit.

Every random number of step n comes from a generator seeded by (seed, n, process): there is no generator state to save,
and what a step sees does not depend on how often the run was interrupted. Precision, processes and accumulation are
accelerate's business, the rate torch's, the average diffusers'.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from .losses import GRADIENT, LOSS, Losses
from .schedule import Schedule as Schedule
from .state import TrainingStateError as TrainingStateError
from .state import check_same_run, load_state, save_state

LOG = "losses.jsonl"
FUSED = ("cpu", "cuda", "mps", "xpu")  # where torch has AdamW as one kernel

Logs = Mapping[str, Tensor | float]
LossOfStep = Callable[[int, torch.Generator], tuple[Tensor, Logs]]
"""Micro-batch index and its generator -> the loss, and what else to log: tensors stay on the device until they are read."""


def step_generator(seed: int, step: int, process: int = 0) -> torch.Generator:
    """The CPU generator of one micro-batch in one process."""
    digest = hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class TrainingLoop:
    """Optimizes modules by a loss; keeps its state in a folder.

    Args:
        folder: receives `state.pt` and `state.previous.pt` (weights, optimizer, average, step) and `losses.jsonl`.
        modules: what is trained, by name; float32, whatever precision it is computed in.
        schedule: how long and how fast. Of a run begun earlier it may be another one where that changes nothing that is
            done: other `save_every` and `log_every`, and whatever leaves the rates so far as they were.
        identity: what must be equal for a state to be this run's: data, preset, sizes.
        accelerator: places the modules and averages gradients; its precision and processes are used as they are.

    Raises:
        TrainingStateError: the folder holds the state of another run.
        ValueError: weights to train that are not float32.
    """

    def __init__(
        self,
        folder: Path,
        modules: Mapping[str, nn.Module],
        schedule: Schedule,
        identity: Mapping[str, Any],
        accelerator: Accelerator,
    ) -> None:
        self.folder = folder
        self.schedule = schedule
        self.accelerator = accelerator
        self.identity = json.loads(json.dumps({**identity, **asdict(schedule)}, default=str))
        self.step = 0
        self.seconds = 0.0  # spent on the steps done, over all starts
        self.modules: dict[str, Any] = {name: accelerator.prepare_model(module) for name, module in modules.items()}
        self.parameters = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        _check_precision(self.modules)
        optimizer = torch.optim.AdamW(
            self.parameters,
            schedule.learning_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
            fused=self.parameters[0].device.type in FUSED,
        )
        decay = schedule.ema_decay
        self.average = EMAModel(self.parameters, decay, foreach=True) if decay else None
        self.losses = Losses(folder / LOG, accelerator)
        folder.mkdir(parents=True, exist_ok=True)
        self._restore(optimizer)
        self.rates = LambdaLR(optimizer, schedule.factor, last_epoch=self.step - 1)
        self.optimizer = accelerator.prepare_optimizer(optimizer)

    def run(
        self,
        loss_of_step: LossOfStep,
        after_step: Callable[[int], None] | None = None,
        stop_at: int | None = None,
        title: str = "training",
        until: float = math.inf,
    ) -> None:
        """Go on to the last step, saving on the way; returns at once when there is nothing left to do.

        Args:
            loss_of_step: of a micro-batch.
            after_step: told of each step that is done.
            stop_at: the last step of this call.
            title: of the bar.
            until: moment of `time.monotonic` after which no step is begun. Of several processes the first one's clock counts.
        """
        schedule = self.schedule
        end = min(schedule.steps, schedule.steps if stop_at is None else stop_at)
        hidden = not self.accelerator.is_local_main_process
        bar = tqdm(total=schedule.steps, initial=self.step, desc=title, mininterval=10, disable=hidden)
        while self.step < end and not self._is_over(until):
            started = time.monotonic()
            values = self.one_step(loss_of_step)
            self.step += 1
            self.losses.add(self.step, self.seconds + time.monotonic() - started, values)
            if self.step % schedule.log_every == 0 or self.step == end:
                bar.set_postfix({name: f"{value:.4f}" for name, value in self.losses.read().items()})
            self.seconds += time.monotonic() - started
            bar.update()
            if self.step % schedule.save_every == 0 or self.step == end:
                self.save()
            if after_step is not None:
                after_step(self.step)
        if self.step < end:
            self.save()
        bar.close()

    def _is_over(self, until: float) -> bool:
        """Whether the time is up, for all processes alike."""
        if until == math.inf:
            return False
        return bool(broadcast_object_list([time.monotonic() >= until])[0])

    def one_step(self, loss_of_step: LossOfStep) -> dict[str, Tensor | float]:
        """One optimizer step, which `run` counts, logs and saves; returns the means of what its micro-batches logged.

        Nothing of it is read back from the device.
        """
        accelerator, accumulate = self.accelerator, self.schedule.accumulate
        accelerator.gradient_accumulation_steps = accumulate
        accelerator.step = 0  # accelerate counts micro-batches: an earlier run may have been stopped between two
        parts: list[Logs] = []
        for index in range(self.step * accumulate, (self.step + 1) * accumulate):
            generator = step_generator(self.schedule.seed, index, accelerator.process_index)
            with accelerator.accumulate(*self.modules.values()):
                loss, logs = loss_of_step(index, generator)
                accelerator.backward(loss)  # divided by the micro-batches
            parts.append({LOSS: loss.detach(), **logs})
        norm = accelerator.clip_grad_norm_(self.parameters, self.schedule.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.rates.step()
        if self.average is not None:
            self.average.step(self.parameters)
        return {**{name: sum(part[name] for part in parts) / accumulate for name in parts[0]}, GRADIENT: norm}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules with their averaged weights inside this context; without an average, as they are.

        Raises:
            TrainingStateError: steps led to these weights whose loss or gradient was not finite.
        """
        self.losses.read()
        if self.average is None:
            yield
            return
        self.average.store(self.parameters)
        self.average.copy_to(self.parameters)
        try:
            yield
        finally:
            self.average.restore(self.parameters)

    def unwrapped(self, name: str) -> Any:
        """A module without what accelerate put around it."""
        return self.accelerator.unwrap_model(self.modules[name])

    def save(self) -> None:
        """Write the state, if all that led to it was finite; the one before it is kept as `state.previous.pt`.

        Raises:
            TrainingStateError: a step's loss or gradient was not finite.
            NotWrittenError: a full disk, for example.
        """
        self.losses.read()
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "identity": json.dumps(self.identity),
            "step": self.step,
            "seconds": self.seconds,
            "modules": {name: self.unwrapped(name).state_dict() for name in self.modules},
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        save_state(self.folder, state)

    def _restore(self, optimizer: torch.optim.Optimizer) -> None:
        found = load_state(self.folder, self.accelerator)
        if found is not None:
            file, state = found
            check_same_run(file, state, self.identity, self.schedule)
            for name in self.modules:
                self.unwrapped(name).load_state_dict(state["modules"][name])
            optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
                self.average.to(self.accelerator.device)
            if self.accelerator.scaler is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.step, self.seconds = state["step"], state["seconds"]
        for group in optimizer.param_groups:
            group["initial_lr"] = self.schedule.learning_rate  # what the rates are shares of, of this start
        self.losses.forget_after(self.step)


def _check_precision(modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.dtype != torch.float32:
                raise ValueError(
                    f"{name} has weights to train in {parameter.dtype}, expected torch.float32: leave the precision of what "
                    "is computed to the accelerator"
                )
