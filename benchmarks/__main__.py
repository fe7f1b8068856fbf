"""Ours, the unpatched model and the peers that are present, interleaved in one process on the same random weights.

    python -m benchmarks [--only hook,unet,...] [--quick] [--rounds N] [--out FOLDER] [--plots FOLDER]

Prints a table for each figure: ratios of medians with quartiles, what each must be, and whether it is. Times are processor
time of one thread; on a machine with CUDA they are taken with events on the device. Weights are random, so nothing here
says how pictures look. Needs ComfyUI, 12 GB of memory and 0.85 GB of temporary disk; ComfyUI_IPAdapter_plus in its
custom_nodes and diffusers in this Python take part where they are present.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import tempfile
import time
from pathlib import Path

FIGURES = ("hook", "calls", "unet", "apply", "memory", "latents", "encoder", "rebinarize", "start")
# Large temporaries come from the heap and stay there: fresh pages are zeroed first, and the same code would differ twofold.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "16000000000",
    "OMP_NUM_THREADS": "1",
}


def main() -> None:
    """Measure what was asked for."""
    options = _options()
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        os.environ.update(ENVIRONMENT)  # read when a process starts
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *sys.argv[1:]])
    from headless.host.as_package import load_repository

    load_repository()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        _measure(options, Path(folder))


def _measure(options: argparse.Namespace, folder: Path) -> None:
    import importlib

    from . import report

    bench = _workbench(options, folder)
    figures = []
    for name in options.only:
        started = time.monotonic()
        measured = importlib.import_module(f"benchmarks.{name}").run(bench)
        print("\n".join(report.markdown(figure) for figure in measured))
        print(f"({name}: {time.monotonic() - started:.0f} s)\n", flush=True)
        figures += measured
    print(report.summary(figures))
    if options.out is None:
        return
    about = {
        "machine": report.machine(),
        "date": f"{datetime.date.today():%Y-%m-%d}",
        "attention": options.attention,
        "rounds": str(options.rounds),
    }
    everything = report.save(options.out, figures, about)
    if options.plots is not None:
        from .plots import draw

        draw(everything, options.plots)


def _workbench(options: argparse.Namespace, folder: Path):  # type: ignore[no-untyped-def]
    import torch

    from headless.host.boot import boot_host
    from headless.host.find import require_host

    torch.set_num_threads(1)
    host = require_host()
    boot_host(host.path, folder)
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = options.attention == "sdpa"  # sub-quad is the host's own choice on a CPU
    args.disable_smart_memory = False
    import nodes  # noqa: F401  (the host's own; what it imports is imported before anything is timed)

    from .workbench import Workbench, touch_heap

    touch_heap()
    print(f"{host}, attention: {options.attention}", flush=True)
    return Workbench(folder, host.path, options.rounds, options.quick, options.attention)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, default=FIGURES, help=f"figures, with commas: {','.join(FIGURES)}")
    parser.add_argument("--quick", action="store_true", help="fewer cases of each figure")
    parser.add_argument("--rounds", type=int, default=9, help="times that each contestant is timed (9)")
    parser.add_argument(
        "--attention", choices=("sdpa", "sub-quad"), default="sdpa", help="the host's attention backend (sdpa)"
    )
    parser.add_argument("--out", type=Path, help="folder for results.json and the tables in results.md")
    parser.add_argument("--plots", type=Path, help="folder for the plots, with --out; needs matplotlib (bench extra)")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(FIGURES):
        raise argparse.ArgumentTypeError(f"unknown figures {sorted(unknown)}: expected some of {','.join(FIGURES)}")
    return names


if __name__ == "__main__":
    main()
