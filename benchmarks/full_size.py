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
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

STEPS, SIDE = 2, 512


def main(host: Path, rounds: int) -> None:
    """Measure and print."""
    repository = load_repository()
    from pfv_mepa.headless.boot_host import boot_host

    with tempfile.TemporaryDirectory(prefix="full-size-") as folder:
        boot_host(host, Path(folder))
        from pfv_mepa.headless.tiny_stack import adapter_files

        print(f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {repository}")
        model = random_sdxl()
        unet = model.model.diffusion_model
        count = sum(parameter.numel() for parameter in unet.parameters())
        print(f"U-Net: {count / 1e9:.3f} billion parameters, {next(unet.parameters()).dtype}, {memory()}")
        path = adapter_files.write_plus_adapter(
            Path(folder) / "plus.safetensors",
            adapter_files.cross_attention_widths(unet),
            encoder_width=1280,
            context_dim=2048,
            num_heads=20,
        )
        print(f"adapter file: {path.stat().st_size / 1e6:.1f} MB")
        measure(model, path, rounds)


def load_repository() -> str:
    """Load the repository as the package `pfv_mepa`, as the tests do; its root on sys.path would shadow the host."""
    import importlib.util

    root = Path(__file__).resolve().parent.parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != root]
    spec = importlib.util.spec_from_file_location(
        "pfv_mepa", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["pfv_mepa"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pfv_mepa"])
    return "pfv_mepa"


@torch.no_grad()
def random_sdxl() -> Any:
    """MODEL with SDXL's own configuration and scaled random weights, drawn from one block of noise for speed."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SDXL(
        {
            "image_size": 32,
            "in_channels": 4,
            "out_channels": 4,
            "model_channels": 320,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
            "context_dim": 2048,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
            "use_linear_in_transformer": True,
            "use_spatial_transformer": True,
            "use_checkpoint": False,
            "use_temporal_resblock": False,
            "use_temporal_attention": False,
            "legacy": False,
        }
    )
    config.set_inference_dtype(torch.bfloat16, None)
    model = config.get_model({}, "", device=torch.device("cpu"))
    noise = torch.randn(1 << 24, generator=torch.Generator().manual_seed(0))
    for name, parameter in model.diffusion_model.named_parameters():
        if parameter.ndim < 2:
            parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            continue
        scale = parameter[0].numel() ** -0.5
        flat = parameter.view(-1)
        for start in range(0, len(flat), len(noise)):
            part = flat[start : start + len(noise)]
            part.copy_(noise[: len(part)] * scale)
    return comfy.model_patcher.ModelPatcher(
        model.requires_grad_(False),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


@torch.inference_mode()
def measure(model: Any, path: Path, rounds: int) -> None:
    """Time loading, applying and sampling."""
    from pfv_mepa.nodes.cross_attention_patch import ImagePromptPatch, apply_image_prompt
    from pfv_mepa.nodes.host_adapter import HostAdapter
    from pfv_mepa.pfv_core.attention import BranchControl, Gate
    from pfv_mepa.pfv_core.vit import VIT_H, ImageTokens

    tokens = (torch.randn(129, 1280),)  # what half of a reference leaves, with the class token
    encoded = ImageTokens(tokens, tokens, torch.randn(1, 1024), torch.randn(1, 257, 1280), VIT_H)
    region = torch.zeros(1, SIDE, SIDE)
    region[:, :, SIDE // 2 :] = 1
    control = BranchControl(1.0, 0.0, Gate.OUTPUT)

    start = time.perf_counter()
    adapter = HostAdapter.load(path)
    loaded = time.perf_counter()
    prompt = adapter.image_prompt(encoded, "adapter", 0)
    compressed = time.perf_counter()
    patched = apply_image_prompt(model, prompt, control, region)
    cold = time.perf_counter()
    patched = apply_image_prompt(model, prompt, control, region)
    warm = time.perf_counter()
    kept = sum(t.nbytes for pairs in prompt.keys_values for pair in pairs for t in pair)
    print(
        f"load {loaded - start:.2f} s, compress {compressed - loaded:.2f} s, apply cold {cold - compressed:.2f} s, "
        f"apply warm {warm - cold:.3f} s; keys and values kept: {kept / 1e6:.2f} MB float32; {memory()}"
    )
    fired = 0
    original = ImagePromptPatch.attention

    def counting(self: Any, *args: Any) -> torch.Tensor:
        nonlocal fired
        fired += 1
        return original(self, *args)

    ImagePromptPatch.attention = counting  # type: ignore[method-assign]
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

    generator = torch.Generator().manual_seed(1)
    conditionings = [
        [[torch.randn(1, 77, 2048, generator=generator), {"pooled_output": torch.randn(1, 1280, generator=generator)}]]
        for _ in range(2)
    ]
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
        *conditionings,
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
