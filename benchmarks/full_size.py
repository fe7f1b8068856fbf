"""SDXL at its real size, once: `python -m benchmarks.full_size --host PATH`, from the repository root.

Builds the host's SDXL U-Net (2.57 billion parameters, random, bfloat16) and an adapter file of the full
ip-adapter-plus_sdxl_vit-h layout (random), applies it with a region, and samples two steps at 512x512 with and without
it; every second round in the opposite order. Prints memory, the time to apply, the number of cross-attentions that
fired, and the ratio of a patched step to a plain one. Needs about 10 GB of memory; random weights say nothing of pictures.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from headless.host.as_package import load_repository

from .models import adapter_file, conditionings, encoded, random_unet

STEPS, SIDE = 2, 512


def main(host: Path, rounds: int) -> None:
    """Measure and print."""
    load_repository()
    from headless.host.boot import boot_host

    with tempfile.TemporaryDirectory(prefix="full-size-") as folder:
        boot_host(host, Path(folder))
        print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s)")
        model = random_unet("sdxl", torch.bfloat16)
        unet = model.model.diffusion_model
        count = sum(parameter.numel() for parameter in unet.parameters())
        print(f"U-Net: {count / 1e9:.3f} billion parameters, {next(unet.parameters()).dtype}, {memory()}")
        path = adapter_file(Path(folder))
        print(f"adapter file: {path.stat().st_size / 1e6:.1f} MB")
        measure(model, path, rounds)


@torch.inference_mode()
def measure(model: Any, path: Path, rounds: int) -> None:
    """Time loading, applying and sampling."""
    from pfv_mepa.nodes.host.adapter import HostAdapter
    from pfv_mepa.nodes.host.cross_attention import ImagePromptPatch, apply_image_prompt
    from pfv_mepa.pfv_core.attention.control import Gate, PromptControl

    region = torch.zeros(1, SIDE, SIDE)
    region[:, :, SIDE // 2 :] = 1
    control = PromptControl(1.0, 0.0, Gate.OUTPUT)

    start = time.perf_counter()
    adapter = HostAdapter.load(path)
    loaded = time.perf_counter()
    prompt = adapter.image_prompt(encoded(), "adapter", 0)
    compressed = time.perf_counter()
    patched = apply_image_prompt(model, prompt, control, region)
    cold = time.perf_counter()
    patched = apply_image_prompt(model, prompt, control, region)
    warm = time.perf_counter()
    tensors = [tensor for pairs in prompt.keys_values for pair in pairs for tensor in pair]
    kept = sum(tensor.nbytes for tensor in tensors)
    print(
        f"load {loaded - start:.2f} s, compress {compressed - loaded:.2f} s, apply cold {cold - compressed:.2f} s, "
        f"apply warm {warm - cold:.3f} s; keys and values kept: {kept / 1e6:.2f} MB {tensors[0].dtype}; {memory()}"
    )
    fired = 0
    original = ImagePromptPatch.attention

    def counting(self: Any, *args: Any) -> torch.Tensor:
        nonlocal fired
        fired += 1
        return original(self, *args)

    ImagePromptPatch.attention = counting
    seconds: dict[str, list[float]] = {"plain": [], "patched": []}
    for name in [name for number in range(rounds) for name in list(seconds)[:: -1 if number % 2 else 1]]:
        took = sample(model if name == "plain" else patched)
        seconds[name] += took
        print(f"{name}: {', '.join(f'{value:.1f}' for value in took)} s a step, {memory()}", flush=True)
    plain, ours = (sum(seconds[name]) / len(seconds[name]) for name in ("plain", "patched"))
    steps = rounds * STEPS
    print(
        f"fired: {fired} in {steps} steps, {fired // steps} a step; a patched step takes {ours / plain:.3f} of a plain one"
    )


def sample(model: Any) -> list[float]:
    """Seconds of each step at cfg 5: positive and negative in one pass."""
    import comfy.sample

    latent = torch.zeros(1, 4, SIDE // 8, SIDE // 8)
    noise = comfy.sample.prepare_noise(latent, 1)
    ticks = [time.perf_counter()]
    out = comfy.sample.sample(
        model,
        noise,
        STEPS,
        5.0,
        "euler",
        "normal",
        *conditionings(),
        latent,
        callback=lambda *_: ticks.append(time.perf_counter()),
        disable_pbar=True,
        seed=1,
    )
    assert torch.isfinite(out).all()
    return [after - before for before, after in itertools.pairwise(ticks)]


def memory() -> str:
    """Memory of this process now and at most."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e9
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts it in KiB
    return f"{now:.2f} GB resident, {most:.2f} GB at most"


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m benchmarks.full_size", description=__doc__)
    parser.add_argument("--host", type=Path, default=Path.home() / "comfy" / "ComfyUI", help="ComfyUI's folder")
    parser.add_argument("--rounds", type=int, default=2, help="times that both are sampled (2)")
    options = parser.parse_args()
    main(options.host, options.rounds)
