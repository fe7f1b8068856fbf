"""What steps log: kept where it was computed, read back many steps at a time, checked, and written a line each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from .state import TrainingStateError

LOSS, GRADIENT = "loss", "gradient"
_ADVICE = (
    "nothing of it was saved. Look for broken samples around that step, or start again, in another folder, with a lower "
    "learning rate"
)


@dataclass(frozen=True)
class _Step:
    number: int
    seconds: float
    values: Mapping[str, Tensor | float]


class Losses:
    """A file of one line for each step: its number, seconds so far, loss, norm of the gradient, and what else was logged.

    Args:
        file: `losses.jsonl` of the run.
        accelerator: its main process writes, and tells the tracker, where there is one.
    """

    def __init__(self, file: Path, accelerator: Accelerator) -> None:
        self.file = file
        self.accelerator = accelerator
        self._unread: list[_Step] = []

    def add(self, number: int, seconds: float, values: Mapping[str, Tensor | float]) -> None:
        """Keep what a step logged; nothing is read."""
        self._unread.append(_Step(number, seconds, values))

    def read(self) -> dict[str, float]:
        """Wait for the device once, write what was not yet read, and return the newest step's.

        Raises:
            TrainingStateError: a loss or a gradient that is not finite, or a file that cannot be written.
        """
        steps, self._unread = self._unread, []
        lines = [
            {"step": step.number, "seconds": round(step.seconds, 1), **values}
            for step, values in zip(steps, _read_back(steps), strict=True)
        ]
        bad = next((index for index, line in enumerate(lines) if not self._finite(line)), len(lines))
        self._write(lines[:bad])
        if bad < len(lines):
            line = lines[bad]
            raise TrainingStateError(
                f"the loss is {line[LOSS]} and the gradient's norm {line[GRADIENT]} at step {line['step']}: {_ADVICE}"
            )
        return {name: value for name, value in lines[-1].items() if name not in ("step", "seconds")} if lines else {}

    def forget_after(self, number: int) -> None:
        """Steps after the state that a run goes on from will run, and be logged, again."""
        if not self.file.is_file() or not self.accelerator.is_main_process:
            return
        lines = [line for line in self.file.read_text(encoding="utf-8").splitlines() if _number_of(line) <= number]
        self.file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def _finite(self, line: Mapping[str, float]) -> bool:
        """Half precision's gradients overflow now and then: its scaler leaves that step out and lowers the scale, which ends
        below 1 only where no scale would do."""
        scaler = self.accelerator.scaler
        gradient = math.isfinite(line[GRADIENT]) if scaler is None else scaler.get_scale() >= 1
        return gradient and math.isfinite(line[LOSS])

    def _write(self, lines: list[dict[str, float]]) -> None:
        if not self.accelerator.is_main_process:
            return
        try:
            with self.file.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line) + "\n" for line in lines)
        except OSError as error:
            raise TrainingStateError(
                f"cannot write {self.file}: {error}. The last good state is beside it; free some space and start again"
            ) from error
        for line in lines:
            self.accelerator.log({name: line[name] for name in line if name != "step"}, step=int(line["step"]))


def _read_back(steps: list[_Step]) -> list[dict[str, float]]:
    """All values of all steps in one transfer."""
    tensors = [value for step in steps for value in step.values.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack([tensor.detach().float() for tensor in tensors]).tolist() if tensors else [])
    return [
        {name: next(numbers) if isinstance(value, Tensor) else float(value) for name, value in step.values.items()}
        for step in steps
    ]


def _number_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # the end of a line that was being written
