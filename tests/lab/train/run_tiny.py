"""The tiny run as a program: `run_tiny.py FOLDER train|gradients SETTING=VALUE ...`, on the CPU, in one process or more."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[3]))

from headless.host.torch_stand_ins import apply_where_needed

apply_where_needed()  # before anything imports diffusers

import torch  # noqa: E402
from accelerate import Accelerator  # noqa: E402
from tiny_models import Squares, tiny_config, tiny_models  # noqa: E402

from lab.train.adapter_training import AdapterTraining, train_adapter  # noqa: E402


def main(folder: Path, what: str, *settings: str) -> AdapterTraining | None:
    """Train, or write the gradients of the first step to `gradients.pt`; returns what must live as long as the process."""
    training = None
    torch.set_num_threads(1)
    config = tiny_config(**dict(setting.split("=", 1) for setting in settings))
    accelerator = Accelerator(cpu=True)
    if what == "train":
        train_adapter(tiny_models(), Squares(), config, accelerator, folder)
    else:
        training = AdapterTraining(tiny_models(), Squares(), config, accelerator, folder)
        accelerator.backward(training.loss(training.batches[0]))
        gradients = {name: parameter.grad for name, parameter in training.adapter.named_parameters()}
        if accelerator.is_main_process:
            torch.save({"processes": accelerator.num_processes, "gradients": gradients}, folder / "gradients.pt")
    accelerator.end_training()
    return training


if __name__ == "__main__":
    kept = main(Path(sys.argv[1]), *sys.argv[2:])
    # Everything is written. Whoever drops the last reference to gloo's process group waits for its thread, and holds the
    # interpreter that this thread may be waiting for (torch 2.13): so nobody drops it, neither this program, whose
    # gradients' reducer refers to it, nor the interpreter at its exit.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
