"""A training loop that can be killed at any moment and goes on to the bit.

Every random number of step n comes from a generator seeded by (seed, n, process): there is no generator state to save,
and what a step sees does not depend on how often the run was interrupted. Distribution is accelerate's business.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..files import save_atomically

STATE = "state.pt"
LOG = "losses.jsonl"
_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    pickle.UnpicklingError,
)  # cut short, or another file

LossOfStep = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""Micro-batch index and its generator -> the loss, and what else to log."""


class TrainingStateError(RuntimeError):
    """A checkpoint that does not belong to this run, or cannot be written; the message says what to do."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Attributes:
        steps: optimizer steps.
        learning_rate: peak of AdamW's.
        weight_decay: AdamW's.
        betas: AdamW's.
        warmup: steps of linear growth from 0.
        decay_from: share of the steps after which the rate falls linearly, to `final_rate` of the peak; 1 = constant.
        final_rate: see decay_from.
        accumulate: micro-batches for each optimizer step.
        max_grad_norm: gradients are scaled down to this norm.
        ema_decay: of the exponential moving average of the weights; 0 = none.
        seed: of everything random.
        save_every: steps between checkpoints.
    """

    steps: int
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: int = 0
    decay_from: float = 1.0
    final_rate: float = 0.0
    accumulate: int = 1
    max_grad_norm: float = 1.0
    ema_decay: float = 0.0
    seed: int = 0
    save_every: int = 200

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        rate = self.learning_rate
        if step < self.warmup:
            rate *= (step + 1) / self.warmup
        start = self.decay_from * self.steps
        if step > start:
            rate *= 1 - (1 - self.final_rate) * (step - start) / (self.steps - start)
        return rate


def step_generator(seed: int, step: int, process: int = 0) -> torch.Generator:
    """The CPU generator of one micro-batch in one process."""
    digest = hashlib.sha256(f"{seed}/{step}/{process}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


class TrainingLoop:
    """Optimizes modules by a loss; keeps its state in a folder.

    Args:
        folder: receives `state.pt` (weights, optimizer, average, step) and `losses.jsonl`.
        modules: what is trained, by name.
        schedule: how long and how fast.
        identity: what must be equal for a checkpoint to be this run's: data, preset, sizes.
        accelerator: places the modules and averages gradients; its precision and processes are used as they are.

    Raises:
        TrainingStateError: the folder holds the state of another run.
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
        self.identity = json.loads(json.dumps({**identity, "schedule": asdict(schedule)}, sort_keys=True, default=str))
        self.step = 0
        self.seconds = 0.0  # spent on the steps done, over all starts
        self.modules: dict[str, Any] = {name: accelerator.prepare_model(module) for name, module in modules.items()}
        self.parameters = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            self.parameters, schedule.learning_rate, betas=schedule.betas, weight_decay=schedule.weight_decay
        )
        self.optimizer = accelerator.prepare_optimizer(optimizer)
        self.average = [p.detach().clone() for p in self.parameters] if schedule.ema_decay else []
        folder.mkdir(parents=True, exist_ok=True)
        self._load()

    def run(
        self,
        loss_of_step: LossOfStep,
        after_step: Callable[[int], None] | None = None,
        stop_at: int | None = None,
        title: str = "training",
    ) -> None:
        """Go on to the last step (or `stop_at`), saving on the way; returns at once when there is nothing left to do."""
        end = min(self.schedule.steps, self.schedule.steps if stop_at is None else stop_at)
        bar = tqdm(
            total=self.schedule.steps,
            initial=self.step,
            desc=title,
            mininterval=10,
            disable=not self.accelerator.is_local_main_process,
        )
        while self.step < end:
            started = time.monotonic()
            logs = self.one_step(loss_of_step)
            self.step += 1
            self.seconds += time.monotonic() - started
            bar.update()
            if self.step % 20 == 0 or self.step == end:
                bar.set_postfix({name: f"{value:.4f}" for name, value in logs.items()})
            self._log({"step": self.step, "seconds": round(self.seconds, 1), **logs})
            if self.step % self.schedule.save_every == 0 or self.step == end:
                self.save()
            if after_step is not None:
                after_step(self.step)
        bar.close()

    def one_step(self, loss_of_step: LossOfStep) -> dict[str, float]:
        """One optimizer step, which `run` counts, logs and saves; returns the means of what its micro-batches logged."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        sums: dict[str, float] = {}
        for part in range(self.schedule.accumulate):
            index = self.step * self.schedule.accumulate + part
            generator = step_generator(self.schedule.seed, index, self.accelerator.process_index)
            with self._gradients_shared_at(last=part == self.schedule.accumulate - 1):
                loss, logs = loss_of_step(index, generator)
                self.accelerator.backward(loss / self.schedule.accumulate)
            for name, value in {"loss": float(loss.detach()), **logs}.items():
                sums[name] = sums.get(name, 0.0) + value / self.schedule.accumulate
        if not torch.isfinite(torch.tensor(sums["loss"])):
            raise TrainingStateError(
                f"the loss is {sums['loss']} at step {self.step}: the last good state is in {self.folder}; lower the "
                "learning rate, or look for broken images in the data"
            )
        self.accelerator.clip_grad_norm_(self.parameters, self.schedule.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._update_average()
        return sums

    @contextmanager
    def _gradients_shared_at(self, last: bool) -> Iterator[None]:
        """Processes average their gradients once for each optimizer step."""
        if last or self.accelerator.num_processes == 1:
            yield
            return
        with self.accelerator.no_sync(*self.modules.values()):
            yield

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self.average:
            return
        decay = min(self.schedule.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The modules with their averaged weights inside this context; without an average, as they are."""
        if not self.average:
            yield
            return
        live = [p.detach().clone() for p in self.parameters]
        self._copy(self.average)
        try:
            yield
        finally:
            self._copy(live)

    @torch.no_grad()
    def _copy(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def unwrapped(self, name: str) -> Any:
        """A module without what accelerate put around it."""
        return self.accelerator.unwrap_model(self.modules[name])

    def save(self) -> None:
        """Write the state; the one before it stays until the new one is whole."""
        self.accelerator.wait_for_everyone()
        if not self.accelerator.is_main_process:
            return
        state = {
            "identity": json.dumps(self.identity, sort_keys=True),
            "step": self.step,
            "seconds": self.seconds,
            "modules": {name: self.unwrapped(name).state_dict() for name in self.modules},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
        }
        save_atomically(self.folder / STATE, lambda file: torch.save(state, file))

    def _load(self) -> None:
        file = self.folder / STATE
        if not file.is_file():
            self._forget_log_after(0)
            return
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except _UNREADABLE as error:
            raise TrainingStateError(f"{file} cannot be read ({error}): delete it to start again") from error
        found = json.loads(state["identity"])
        if found != self.identity:
            raise TrainingStateError(
                f"{file} belongs to another run: {_differences(found, self.identity)}. Give the same settings, or "
                "another folder"
            )
        for name in self.modules:
            self.unwrapped(name).load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        for mine, saved in zip(self.average, state["average"], strict=True):
            mine.copy_(saved)
        self.step, self.seconds = state["step"], state["seconds"]
        self._forget_log_after(self.step)

    def _log(self, line: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        try:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise TrainingStateError(
                f"cannot write {self.folder / LOG}: {error}. The last good state is beside it; free some space and start again"
            ) from error

    def _forget_log_after(self, step: int) -> None:
        """Steps that ran after the last checkpoint will run, and be logged, again."""
        file = self.folder / LOG
        if not file.is_file() or not self.accelerator.is_main_process:
            return
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # the end of a line that was being written


def _differences(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return "; ".join(f"{name} is {found.get(name)!r} there and {expected.get(name)!r} here" for name in names)
