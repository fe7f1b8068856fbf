"""RefAdGen at full size, once: an optimizer step of a preset, two processes beside one, and the host with what was written.

    python -m benchmarks.refadgen [--base sd15|sdxl] [--width N] [--depth N] [--host PATH]

From the repository's root; torch may have more threads than one (OMP_NUM_THREADS). Weights, pictures and masks are random; text
encoder and autoencoder, which are frozen, are left out. The step is the preset's on one triplet: the frozen U-Net in bfloat16,
what is trained in float32, gradients of both checkpointed. Then, each in processes of its own:

* the gradients of a first step in two processes with one triplet each, beside one process with both, at a small width and in
  float32;
* the host's own model of that layout, random, with the written file in RefAdGen Load and RefAdGen Mask Input: one step of a
  sampler, with and without it.

Where memory does not suffice it says so before anything is built. SDXL whole needs about 47 GB: `--depth` says how many of the
10 blocks its deepest transformers have.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from headless.host.torch_stand_ins import apply_where_needed

apply_where_needed()  # before anything imports diffusers

from diffusers import DDIMScheduler  # noqa: E402

from lab.train.config import RefAdGenConfig, preset  # noqa: E402
from lab.train.data import Sample  # noqa: E402
from lab.train.models import TrainingModels  # noqa: E402
from lab.train.refadgen_training import RefAdGenTraining  # noqa: E402

from .random_models import random_unet_of  # noqa: E402

WIDTH, DEPTH = 320, 10  # of the released models
NARROW = 64  # of the two processes
BYTES = 18  # for each parameter: 2 frozen, 4 of weights, 4 of gradients, 8 of AdamW
CONTEXT = {"sd15": 768, "sdxl": 2048}
TOKENS, POOLED = 77, 1280
SIDE = 256


class RandomTriplets:
    """Noise, with a square as the product."""

    def __len__(self) -> int:
        return 16

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """One of them."""
        mask = torch.zeros(SIDE, SIDE)
        mask[64:192, 96:160] = 1
        return Sample(
            torch.rand(3, SIDE, SIDE, generator=generator),
            "",
            mask,
            product=torch.rand(3, SIDE, SIDE, generator=generator),
        )


def main() -> None:
    """Take the steps and print what they cost."""
    options = _options()
    if options.part:
        _PARTS[options.part](options)
        return
    with tempfile.TemporaryDirectory(prefix="refadgen-") as folder:
        options.folder = folder
        for part in ("step", "load"):
            _run(options, part)
        options.width = NARROW
        for processes in (1, 2):
            _run(options, "gradients", processes)
        one, two = (torch.load(Path(folder) / f"gradients_{count}.pt", weights_only=True) for count in (1, 2))
        apart = math.hypot(*(float((two[name] - value).norm()) for name, value in one.items()))
        norm = math.hypot(*(float(value.norm()) for value in one.values()))
        print(f"two processes and one, width {NARROW}: {len(one)} gradients, {apart / norm:.1e} of their norm apart")


def step(options: argparse.Namespace) -> None:
    """One optimizer step, and the file."""
    training = _training(options, 1, "step", torch.bfloat16)
    trained = sum(parameter.numel() for parameter in training.loop.parameters) / 1e6
    every = sum(parameter.numel() for parameter in training.module.parameters()) / 1e6
    print(
        f"{options.base}, width {options.width}, depth {options.depth}, {SIDE} px, {torch.get_num_threads()} thread(s)"
    )
    print(f"reference U-Net, projections and mask channel: {every:.0f} million parameters, {trained:.0f} trained")
    print(f"before the step: {_peak():.2f} GB", flush=True)
    batch, started = training.batches[0], time.perf_counter()
    values = training.loop.one_step(lambda *_: (training.loss(batch), {}))
    training.close()
    print(
        f"an optimizer step: {time.perf_counter() - started:.0f} s, loss {float(values['loss']):.3f}, {_peak():.2f} GB at most"
    )
    file = _file(options)
    training.loop.optimizer.optimizer.state.clear()
    training.module.save(file, options.base, torch.float16, {})
    print(f"wrote {file.stat().st_size / 1e9:.2f} GB", flush=True)


def gradients(options: argparse.Namespace) -> None:
    """Of a first step, as the optimizer would see them."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    training = _training(options, 2 // processes, f"gradients_{processes}", torch.float32)
    torch.nn.init.ones_(training.module.mask_kernel)
    training.accelerator.backward(training.loss(training.batches[0]))
    found = {name: value.grad for name, value in training.module.named_parameters() if value.requires_grad}
    if training.accelerator.is_main_process:
        torch.save(found, Path(options.folder) / f"gradients_{processes}.pt")
    training.accelerator.wait_for_everyone()
    sys.stdout.flush()
    os._exit(0)  # nobody waits for the process group's thread


def load(options: argparse.Namespace) -> None:
    """The host's model of the same layout, with the file and without."""
    from headless.host.as_package import load_repository

    load_repository()
    from headless.host.boot import boot_host

    boot_host(options.host, Path(options.folder) / "host")
    import comfy.sample

    from pfv_mepa.nodes.host.mask_input import apply_mask_input
    from pfv_mepa.nodes.host.refadgen import combine_of, load_reference
    from pfv_mepa.nodes.host.reference_pass import ReferenceNoise
    from pfv_mepa.nodes.host.self_attention import apply_attention_fusion
    from pfv_mepa.pfv_core.attention.fusion import FusionControl
    from pfv_mepa.pfv_core.research.mask_input import load_mask_input
    from pfv_mepa.pfv_core.research.refadgen import open_refadgen

    base, started = _host_model(options), time.perf_counter()
    reference = load_reference(base, open_refadgen(_file(options)))
    print(
        f"host {options.host.name}: loaded in {time.perf_counter() - started:.1f} s, combine {combine_of(reference).value}"
    )
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 64:192, 96:160] = 1
    latent, prompt = torch.randn(1, 4, SIDE // 8, SIDE // 8), _prompt(options)
    control = FusionControl(1.0, combine_of(reference))
    model = apply_attention_fusion(base, latent, prompt, control, ReferenceNoise.CLEAN, None, reference)
    model = apply_mask_input(model, load_mask_input(_file(options)), mask)
    noise = comfy.sample.prepare_noise(latent, 1)
    drawn = []
    for patched in (base, model):
        with torch.inference_mode():
            given = (noise, 1, 1.0, "euler", "normal", prompt, prompt, torch.zeros_like(latent))
            drawn.append(comfy.sample.sample(patched, *given, disable_pbar=True, seed=1))
    assert all(bool(torch.isfinite(one).all()) for one in drawn)
    apart = float((drawn[1] - drawn[0]).norm() / drawn[0].norm())
    print(
        f"sampled with and without the file: {apart:.3f} of the latent's norm apart, {_peak():.2f} GB at most",
        flush=True,
    )


_PARTS = {"step": step, "gradients": gradients, "load": load}


def _training(options: argparse.Namespace, batch_size: int, name: str, dtype: torch.dtype) -> RefAdGenTraining:
    """A run of the preset, its frozen U-Net and what is computed in `dtype`."""
    unet = random_unet_of(options.base, options.width, options.depth, dtype)
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    generator = torch.Generator().manual_seed(2)
    context = torch.randn(1, TOKENS, CONTEXT[options.base], generator=generator)
    pooled = torch.randn(1, POOLED if options.base == "sdxl" else 0, generator=generator)

    def encode_text(captions: Any) -> tuple[Tensor, Tensor]:
        return context.expand(len(captions), -1, -1), pooled.expand(len(captions), -1)

    def encode_latents(image: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(image, 8)[:, [0, 1, 2, 0]] * 2 - 1

    _check_memory(parameters * BYTES / 1e9)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    config = preset(f"refadgen_{options.base}").replace(
        batch_size=batch_size,
        image_size=SIDE,
        workers=0,
        validate_every=0,
        validation_images=0,
        precision="bf16" if dtype == torch.bfloat16 else "no",
    )
    assert isinstance(config, RefAdGenConfig)
    models = TrainingModels(options.base, unet, None, encode_text, encode_latents, scheduler)
    accelerator = Accelerator(cpu=True, mixed_precision=config.precision)
    return RefAdGenTraining(models, RandomTriplets(), config, accelerator, Path(options.folder) / name)


def _host_model(options: argparse.Namespace) -> Any:
    from .models import random_unet

    if options.depth != DEPTH:
        from pfv_mepa.tests.support.tiny_stack import topologies

        plan, depth = topologies.TOPOLOGIES["sdxl"], options.depth
        sides = {
            name: tuple(depth if blocks == DEPTH else blocks for blocks in getattr(plan, name))
            for name in ("transformer_depth", "transformer_depth_output")
        }
        topologies.TOPOLOGIES["sdxl"] = type(plan)(**{**vars(plan), **sides, "transformer_depth_middle": depth})
    return random_unet(options.base, torch.float32, options.width, 64, CONTEXT[options.base], POOLED)


def _prompt(options: argparse.Namespace) -> list[Any]:
    pooled = {"pooled_output": torch.randn(1, POOLED)} if options.base == "sdxl" else {}
    return [[torch.randn(1, TOKENS, CONTEXT[options.base]), pooled]]


def _run(options: argparse.Namespace, part: str, processes: int = 1) -> None:
    """A part in processes of its own, so that what one leaves is no other's memory."""
    launch = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    given = {name: getattr(options, name) for name in ("base", "width", "depth", "host", "folder")}
    arguments = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    subprocess.run([sys.executable, *launch, "-m", "benchmarks.refadgen", *arguments, "--part", part], check=True)


def _check_memory(needed: float) -> None:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024 / 1e9
    if free < needed:
        sys.exit(
            f"a step needs about {needed:.0f} GB beside what is there, {free:.0f} are free: lower --width or --depth"
        )


def _file(options: argparse.Namespace) -> Path:
    return Path(options.folder) / "refadgen.safetensors"


def _peak() -> float:
    """GB that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts it in KiB


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=tuple(CONTEXT), default="sd15", help="(%(default)s)")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the first level; a multiple of 32 (%(default)s)")
    parser.add_argument("--depth", type=int, default=DEPTH, help="blocks of SDXL's deepest transformers (%(default)s)")
    parser.add_argument("--host", type=Path, default=Path.home() / "comfy" / "ComfyUI", help="ComfyUI's folder")
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=tuple(_PARTS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
