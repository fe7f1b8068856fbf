"""Tiny runs as a program: `run_tiny.py JOBS`, on the CPU, each in a process of its own that begins with everything imported.

JOBS is JSON, a list of groups; a group's jobs run at the same time, the next group after them. It prints the exit status of each
job as a list, in their order.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

from headless.host.torch_stand_ins import apply_where_needed

apply_where_needed()  # before anything imports diffusers

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from tiny_models import (  # noqa: E402
    Products,
    Squares,
    Subjects,
    tiny_config,
    tiny_models,
    tiny_refadgen,
    tiny_strict_id,
)
from torch import Tensor, nn  # noqa: E402

from lab.train.adapter_training import AdapterTraining  # noqa: E402
from lab.train.loop import Schedule, TrainingLoop  # noqa: E402
from lab.train.refadgen_training import RefAdGenTraining  # noqa: E402
from lab.train.strict_id_training import StrictIDTraining  # noqa: E402


@dataclass(frozen=True)
class Job:
    """One run.

    Attributes:
        folder: of the run.
        what: "train", or "compare", which also writes gradients of first steps.
        settings: of its configuration.
        environment: variables of its process.
        kill_at: it is killed once this many steps are logged, wherever in the next one it then is; None = it ends by itself.
    """

    folder: str
    what: str
    settings: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    kill_at: int | None = None

    def begin(self) -> int:
        """Start the process; its number."""
        child = os.fork()
        if child:
            return child
        status, kept = 1, []
        try:
            os.environ.update(self.environment)
            kept.append(train(Path(self.folder), self.what, self.settings))
            status = 0
        except BaseException:  # noqa: BLE001, the fork must never go on as its parent
            traceback.print_exc()
        # Everything is written. Whoever drops the last reference to gloo's process group waits for its thread, and holds the
        # interpreter that this thread may be waiting for (torch 2.13): so nobody drops it, neither this program, whose
        # gradients' reducer refers to it, nor the interpreter at its exit.
        sys.stderr.flush()
        os._exit(status)

    def end(self, process: int) -> int:
        """Wait for the process, or kill it at its step; its exit status."""
        done = (0, 0)
        if self.kill_at is not None:
            while done[0] == 0 and self._steps_done() < self.kill_at:
                time.sleep(0.002)
                done = os.waitpid(process, os.WNOHANG)
            if done[0] == 0:
                time.sleep(random.random() * 0.05)
                os.kill(process, signal.SIGKILL)
        _, status = done if done[0] else os.waitpid(process, 0)
        return os.waitstatus_to_exitcode(status)

    def _steps_done(self) -> int:
        file = Path(self.folder) / "losses.jsonl"
        return file.read_text().count("\n") if file.is_file() else 0


def train(folder: Path, what: str, settings: dict[str, str]) -> list[object]:
    """Run in this process. Returns what must live as long as it."""
    torch.set_num_threads(1)
    config = tiny_config(**settings)
    accelerator = Accelerator(cpu=True)
    kept: list[object] = []
    if what == "compare":
        training = AdapterTraining(tiny_models(), Squares(), config, accelerator, folder / "first")
        accelerator.backward(training.loss(training.batches[0]))
        gradients = {name: parameter.grad for name, parameter in training.adapter.named_parameters()}
        loop, of_two = two_modules(folder / "two_modules", accelerator, config.batch_size)
        refadgen, of_refadgen = first_step_of_refadgen(folder / "refadgen", accelerator, config.batch_size)
        strict_id, of_strict_id = first_step_of_strict_id(folder / "strict_id", accelerator, config.batch_size)
        kept += [training, loop, refadgen, strict_id]
        if accelerator.is_main_process:
            found = {"processes": accelerator.num_processes, "gradients": gradients}
            found |= {"of_two": of_two, "of_refadgen": of_refadgen, "of_strict_id": of_strict_id}
            torch.save(found, folder / "gradients.pt")
    AdapterTraining(tiny_models(), Squares(), config, accelerator, folder).train()
    accelerator.end_training()
    return kept


def first_step_of_refadgen(folder: Path, accelerator: Accelerator, batch_size: int) -> tuple[object, dict[str, Tensor]]:
    """The training, and the gradients of its first micro-batch, checkpointed as the presets have it."""
    config = tiny_refadgen(batch_size=batch_size, gradient_checkpointing=True)
    training = RefAdGenTraining(tiny_models(), Products(), config, accelerator, folder)
    torch.nn.init.ones_(training.module.mask_kernel)
    accelerator.backward(training.loss(training.batches[0]))
    named = training.module.named_parameters()
    return training, {name: parameter.grad for name, parameter in named if parameter.requires_grad}


def first_step_of_strict_id(
    folder: Path, accelerator: Accelerator, batch_size: int
) -> tuple[object, dict[str, Tensor]]:
    """The same; its zero convolutions are no longer zeros, so that everything behind them learns."""
    config = tiny_strict_id(batch_size=batch_size, gradient_checkpointing=True, gamma=1000.0)
    training = StrictIDTraining(tiny_models(), Subjects(), config, accelerator, folder)
    torch.manual_seed(0)
    for name, parameter in training.module.controlnet.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(parameter, std=0.3)
    accelerator.backward(training.loss(training.batches[0]))
    return training, {name: parameter.grad for name, parameter in training.module.named_parameters()}


def two_modules(folder: Path, accelerator: Accelerator, batch_size: int) -> tuple[TrainingLoop, list[Tensor]]:
    """A step of two micro-batches through two modules: the loop, and the gradients that the optimizer would see."""
    torch.manual_seed(0)
    modules = {"one": nn.Linear(3, 5), "other": nn.Linear(5, 1)}
    loop = TrainingLoop(folder, modules, Schedule(1, accumulate=2, max_grad_norm=1e9), {}, accelerator)
    data = torch.randn(2, accelerator.num_processes * batch_size, 3)[
        :, accelerator.process_index :: accelerator.num_processes
    ]
    seen: list[Tensor] = []
    loop.optimizer.optimizer.register_step_pre_hook(lambda *_: seen.extend(p.grad.clone() for p in loop.parameters))
    loop.one_step(lambda index, _: (loop.modules["other"](loop.modules["one"](data[index]).tanh()).square().mean(), {}))
    return loop, seen


if __name__ == "__main__":
    statuses = []
    for group in json.loads(sys.argv[1]):
        jobs = [Job(**job) for job in group]
        processes = [job.begin() for job in jobs]
        statuses += [job.end(process) for job, process in zip(jobs, processes, strict=True)]
    print(json.dumps(statuses))
