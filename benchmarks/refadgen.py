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
import time
from pathlib import Path

import torch
from accelerate import Accelerator

from headless.host.torch_stand_ins import apply_where_needed

apply_where_needed()  # before anything imports diffusers

from lab.train.config import RefAdGenConfig, preset  # noqa: E402
from lab.train.data import Sample  # noqa: E402
from lab.train.refadgen_training import RefAdGenTraining  # noqa: E402

from .full_step import (  # noqa: E402
    SIDE,
    check_memory,
    frozen_models,
    host_model,
    main,
    peak,
    processes,
    prompt,
    write_gradients,
)

BYTES = 18  # for each parameter: 2 frozen, 4 of weights, 4 of gradients, 8 of AdamW


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


def step(options: argparse.Namespace) -> None:
    """One optimizer step, and the file."""
    training = _training(options, 1, "step", torch.bfloat16)
    trained = sum(parameter.numel() for parameter in training.loop.parameters) / 1e6
    every = sum(parameter.numel() for parameter in training.module.parameters()) / 1e6
    print(
        f"{options.base}, width {options.width}, depth {options.depth}, {SIDE} px, {torch.get_num_threads()} thread(s)"
    )
    print(f"reference U-Net, projections and mask channel: {every:.0f} million parameters, {trained:.0f} trained")
    print(f"before the step: {peak():.2f} GB", flush=True)
    batch, started = training.batches[0], time.perf_counter()
    values = training.loop.one_step(lambda *_: (training.loss(batch), {}))
    training.close()
    print(
        f"an optimizer step: {time.perf_counter() - started:.0f} s, loss {float(values['loss']):.3f}, {peak():.2f} GB at most"
    )
    file = _file(options)
    training.loop.optimizer.optimizer.state.clear()
    training.module.save(file, options.base, torch.float16, {})
    print(f"wrote {file.stat().st_size / 1e9:.2f} GB", flush=True)


def gradients(options: argparse.Namespace) -> None:
    """Of a first step, as the optimizer would see them."""
    training = _training(options, 2 // processes(), f"gradients_{processes()}", torch.float32)
    torch.nn.init.ones_(training.module.mask_kernel)
    write_gradients(options, training)


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

    base, started = host_model(options), time.perf_counter()
    reference = load_reference(base, open_refadgen(_file(options)))
    print(
        f"host {options.host.name}: loaded in {time.perf_counter() - started:.1f} s, combine {combine_of(reference).value}"
    )
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, 64:192, 96:160] = 1
    latent, text = torch.randn(1, 4, SIDE // 8, SIDE // 8), prompt(options)
    control = FusionControl(1.0, combine_of(reference))
    model = apply_attention_fusion(base, latent, text, control, ReferenceNoise.CLEAN, None, reference)
    model = apply_mask_input(model, load_mask_input(_file(options)), mask)
    noise = comfy.sample.prepare_noise(latent, 1)
    drawn = []
    for patched in (base, model):
        with torch.inference_mode():
            given = (noise, 1, 1.0, "euler", "normal", text, text, torch.zeros_like(latent))
            drawn.append(comfy.sample.sample(patched, *given, disable_pbar=True, seed=1))
    assert all(bool(torch.isfinite(one).all()) for one in drawn)
    apart = float((drawn[1] - drawn[0]).norm() / drawn[0].norm())
    print(
        f"sampled with and without the file: {apart:.3f} of the latent's norm apart, {peak():.2f} GB at most",
        flush=True,
    )


def _training(options: argparse.Namespace, batch_size: int, name: str, dtype: torch.dtype) -> RefAdGenTraining:
    """A run of the preset, its frozen U-Net and what is computed in `dtype`."""
    models = frozen_models(options, dtype, None)
    check_memory(sum(parameter.numel() for parameter in models.unet.parameters()) * BYTES / 1e9)
    config = preset(f"refadgen_{options.base}").replace(
        batch_size=batch_size,
        image_size=SIDE,
        workers=0,
        validate_every=0,
        validation_images=0,
        precision="bf16" if dtype == torch.bfloat16 else "no",
    )
    assert isinstance(config, RefAdGenConfig)
    accelerator = Accelerator(cpu=True, mixed_precision=config.precision)
    return RefAdGenTraining(models, RandomTriplets(), config, accelerator, Path(options.folder) / name)


def _file(options: argparse.Namespace) -> Path:
    return Path(options.folder) / "refadgen.safetensors"


if __name__ == "__main__":
    main("benchmarks.refadgen", __doc__, {"step": step, "gradients": gradients, "load": load})
