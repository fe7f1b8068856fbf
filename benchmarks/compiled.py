"""What torch.compile costs and gives with the pack's patches in the model, beside the same model without them.

    python -m benchmarks.compiled [--backend NAME] [--steps N] [--rounds N] [--topology NAME]

A tiny SDXL in the host's own sampler, compiled as its node TorchCompileModel does. The first sampling compiles; then the
contestants take turns. The last line is a process of its own that finds inductor's files of the first. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = "TORCHINDUCTOR_CACHE_DIR"
COLUMNS = ("model", "first sampling, s", "graphs", "compiled again later", "a step, ms", "relative distance")


def main() -> None:
    """Measure in two processes, one after the other, which share inductor's files."""
    options = _options()
    if options.child:
        print(json.dumps(_measure(options)))
        return
    with tempfile.TemporaryDirectory(prefix="compiled-") as folder:
        command = [sys.executable, "-m", "benchmarks.compiled", *sys.argv[1:], "--child"]
        environment = {"OMP_NUM_THREADS": "1", **os.environ, CACHE: folder}
        print("| process |", " | ".join(COLUMNS), "|")
        print("|---" * (len(COLUMNS) + 1) + "|")
        for process in ("first", "second"):
            answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT, env=environment)
            for row in json.loads(answer.stdout.splitlines()[-1]):
                print(f"| {process} |", " | ".join(row), "|", flush=True)


def _measure(options: argparse.Namespace) -> list[list[str]]:
    """A row for each model: the plain one and the patched one, as they are and compiled."""
    with tempfile.TemporaryDirectory(prefix="compiled-host-") as folder:
        sample, models = _models(options, Path(folder))
        from torch._dynamo.utils import counters

        def graphs() -> int:
            return int(counters["stats"]["unique_graphs"])

        first: dict[str, tuple[float, int]] = {}
        results: dict[str, Any] = {}
        for name, model in models.items():
            before = graphs()
            seconds, results[name] = _timed(sample, model)
            first[name] = seconds, graphs() - before
        again, times = dict.fromkeys(models, 0), {name: list[float]() for name in models}
        for _ in range(options.rounds):
            for name, model in models.items():
                before = graphs()
                times[name].append(_timed(sample, model)[0])
                again[name] += graphs() - before
        rows = []
        for name in models:
            plain = results[name.removesuffix(", compiled")]
            distance = float((results[name] - plain).norm() / plain.norm())
            step = 1e3 * statistics.median(times[name]) / options.steps
            rows.append(
                [name, f"{first[name][0]:.1f}", f"{first[name][1]}", f"{again[name]}", f"{step:.0f}", f"{distance:.1e}"]
            )
        return rows


def _timed(sample: Callable[[Any], Any], model: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    latent = sample(model)
    return time.perf_counter() - started, latent


def _models(options: argparse.Namespace, folder: Path) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """The sampling, and the contestants by their names."""
    from headless.host.as_package import load_repository

    load_repository()
    import torch

    from headless.host.boot import boot_host
    from headless.host.find import require_host

    torch.set_num_threads(1)
    host = require_host()
    boot_host(host.path, folder)
    from comfy.cli_args import args

    args.use_pytorch_cross_attention = True  # what the host takes on a GPU
    import comfy.utils
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    from pfv_mepa.tests.host.sampling import apply, image_prompt, right_half, sample
    from pfv_mepa.tests.support.tiny_stack import adapter_files, models

    comfy.utils.PROGRESS_BAR_ENABLED = False
    try:
        from comfy_extras.nodes_torch_compile import skip_torch_compile_dict
    except ImportError:  # a host that drops no guards
        dropped: dict[str, Any] = {}
    else:
        dropped = {"guard_filter_fn": skip_torch_compile_dict}
    adapter_file = adapter_files.write_linear_adapter(
        folder / "models" / "ipadapter" / "compiled.safetensors",
        adapter_files.cross_attention_widths(models.tiny_model("sdxl").model.diffusion_model),
        image_embed_dim=models.VISION_PROJECTION,
        context_dim=models.CONTEXT_DIM,
    )
    plain = models.tiny_model(options.topology)
    patched = apply(plain, image_prompt(models.tiny_clip_vision(), adapter_file), region=right_half())
    contestants = {f"{options.topology}": plain, "with MEPA Apply": patched}
    for name, model in list(contestants.items()):
        compiled = contestants[f"{name}, compiled"] = model.clone()
        set_torch_compile_wrapper(compiled, backend=options.backend, options=dict(dropped))
    return lambda model: sample(model, steps=options.steps), contestants


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.compiled", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile (inductor)")
    parser.add_argument("--steps", type=int, default=4, help="of each sampling (4)")
    parser.add_argument("--rounds", type=int, default=5, help="samplings after the first (5)")
    parser.add_argument("--topology", default="sdxl", help="of the tiny model (sdxl)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
