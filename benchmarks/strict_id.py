"""Strictly-ID at full size, once: an optimizer step of a preset, two processes beside one, and the host with what was written.

    python -m benchmarks.strict_id [--base sd15|sdxl] [--width N] [--depth N] [--host PATH]

From the repository's root; torch may have more threads than one (OMP_NUM_THREADS). Weights and pictures are random; text encoder
and autoencoder, which are frozen, are left out, and of the image encoder one block is there. The step is the preset's on one
picture without an average of the weights: the frozen U-Net in bfloat16, what is trained in float32, gradients of both
checkpointed. Then, each in processes of its own:

* the gradients of a first step in two processes with one picture each, beside one process with both, at a small width and in
  float32;
* the host's own model of that layout, random, with the written file in Strictly-ID Load ControlNet and Strictly-ID Branches, and
  in the host's own loader: one step of a sampler, with and without it.

Where memory does not suffice it says so before anything is built. SDXL whole needs about 37 GB: `--depth` says how many of the
10 blocks its deepest transformers have.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from headless.host.torch_stand_ins import apply_where_needed

apply_where_needed()  # before anything imports diffusers

from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection  # noqa: E402

from lab.diffusers.vision import ClipVisionEncoder  # noqa: E402
from lab.train.config import preset  # noqa: E402
from lab.train.data import Beside, Sample  # noqa: E402
from lab.train.strict_id_config import ControlConfig  # noqa: E402
from lab.train.strict_id_training import StrictIDTraining  # noqa: E402

from .full_step import (  # noqa: E402
    DEPTH,
    SIDE,
    WIDTH,
    check_memory,
    frozen_models,
    host_model,
    main,
    peak,
    processes,
    prompt,
    write_gradients,
)

TRAINED = 16  # bytes for each trained parameter: 4 of weights, 4 of gradients, 8 of AdamW
ENCODER = 1280  # channels of ViT-H/14's tokens


class RandomScenes:
    """Noise, with a square as the product and a band as the subject's rows."""

    def __len__(self) -> int:
        return 16

    def sample(self, index: int, generator: torch.Generator) -> Sample:
        """One of them."""
        mask = torch.zeros(SIDE, SIDE)
        mask[96:160, 96:160] = 1
        image, pose = torch.rand(2, 3, SIDE, SIDE, generator=generator)
        return Sample(image, "", mask, pose=Beside(pose), subject=(32.0, 160.0))


def step(options: argparse.Namespace) -> None:
    """One optimizer step, and the file."""
    training = _training(options, 1, "step", torch.bfloat16)
    parts = {name: _millions(getattr(training.module, name)) for name in ("controlnet", "branches")}
    print(
        f"{options.base}, width {options.width}, depth {options.depth}, {SIDE} px, {torch.get_num_threads()} thread(s)"
    )
    print(f"ControlNet {parts['controlnet']:.0f} million parameters, branches {parts['branches']:.0f}, all trained")
    print(f"before the step: {peak():.2f} GB", flush=True)
    batch, started = training.batches[0], time.perf_counter()
    values = training.loop.one_step(lambda *_: (training.loss(batch), {}))
    training.close()
    print(
        f"an optimizer step: {time.perf_counter() - started:.0f} s, loss {float(values['loss']):.3f}, {peak():.2f} GB at most"
    )
    with torch.no_grad():  # a step opens the zero convolutions by 1e-5: wider, so that the host's picture shows them
        for name, parameter in training.module.controlnet.named_parameters():
            if name.startswith(("controlnet_down", "controlnet_mid")):
                parameter.normal_(std=0.02)
    training.loop.optimizer.optimizer.state.clear()
    training.write(_file(options), {})
    print(f"wrote {_file(options).stat().st_size / 1e9:.2f} GB", flush=True)


def gradients(options: argparse.Namespace) -> None:
    """Of a first step, the zero convolutions opened so that everything behind them has some."""
    training = _training(options, 2 // processes(), f"gradients_{processes()}", torch.float32)
    torch.manual_seed(0)
    for name, parameter in training.module.controlnet.named_parameters():
        if name.startswith(("controlnet_down", "controlnet_mid", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(parameter, std=0.1)
    write_gradients(options, training)


def load(options: argparse.Namespace) -> None:
    """The host's model of the same layout, with the file and without."""
    from headless.host.as_package import load_repository

    load_repository()
    from headless.host.boot import boot_host

    boot_host(options.host, Path(options.folder) / "host")
    import comfy.controlnet
    import comfy.sample
    import nodes as host_nodes

    from pfv_mepa.nodes.host.strict_id import Balance, load_control, with_pictures

    started = time.perf_counter()
    control_net = load_control(_file(options))
    print(f"host {options.host.name}: loaded in {time.perf_counter() - started:.1f} s", flush=True)
    seen = _encoded(control_net.config.encoder)
    made = with_pictures(control_net, (seen, 1.0), (seen, 1.0), Balance.AS_TRAINED, Balance.OFF, 400.0)
    base, latent, text = host_model(options), torch.randn(1, 4, SIDE // 8, SIDE // 8), prompt(options)
    hint, noise = torch.rand(1, SIDE, SIDE, 4), comfy.sample.prepare_noise(latent, 1)
    apply = host_nodes.ControlNetApplyAdvanced().apply_controlnet
    drawn = {}
    for name, used in (("no ControlNet", None), ("no pictures", control_net), ("pictures", made)):
        conditions = (text, text) if used is None else apply(text, text, used, hint, 1.0, 0.0, 1.0)
        with torch.inference_mode():
            given = (noise, 1, 1.0, "euler", "normal", *conditions, torch.zeros_like(latent))
            drawn[name] = comfy.sample.sample(base, *given, disable_pbar=True, seed=1)
    assert all(bool(torch.isfinite(one).all()) for one in drawn.values())
    plain = drawn.pop("no ControlNet")
    apart = {name: float((one - plain).norm() / plain.norm()) for name, one in drawn.items()}
    pictures = float((drawn["pictures"] - drawn["no pictures"]).norm() / plain.norm())
    print(
        f"sampled with the file and without: {apart['no pictures']:.3f} of the latent's norm apart, with and without pictures "
        f"{pictures:.4f}, {peak():.2f} GB at most",
        flush=True,
    )
    if (options.width, options.depth) == (WIDTH, DEPTH):  # the host's own loader knows released sizes alone
        own = comfy.controlnet.load_controlnet(str(_file(options)))
        channels = own.control_model.input_hint_block[0].weight.shape[1]
        print(f"the host's own loader: a {type(own).__name__} of {channels} hint channels", flush=True)


def _training(options: argparse.Namespace, batch_size: int, name: str, dtype: torch.dtype) -> StrictIDTraining:
    """A run of the preset, its frozen U-Net and what is computed in `dtype`."""
    vision = CLIPVisionConfig(
        hidden_size=ENCODER,
        intermediate_size=ENCODER,
        num_attention_heads=16,
        num_hidden_layers=1,
        projection_dim=1024,
        patch_size=14,
    )
    torch.manual_seed(1)
    encoder = CLIPVisionModelWithProjection(vision).eval().requires_grad_(False)
    models = frozen_models(options, dtype, ClipVisionEncoder(encoder))
    frozen = _millions(models.unet)
    share = {"sd15": 0.47, "sdxl": 0.7}[options.base]  # of the U-Net's parameters that ControlNet and branches have
    check_memory(frozen * share * TRAINED / 1e3)
    config = preset(f"strict_id_{options.base}").replace(
        batch_size=batch_size,
        accumulate=1,
        image_size=SIDE,
        ema_decay=0.0,
        workers=0,
        validate_every=0,
        validation_images=0,
        precision="bf16" if dtype == torch.bfloat16 else "no",
    )
    assert isinstance(config, ControlConfig)
    accelerator = Accelerator(cpu=True, mixed_precision=config.precision)
    return StrictIDTraining(models, RandomScenes(), config, accelerator, Path(options.folder) / name)


def _encoded(encoder: Any) -> Any:
    """Random tokens of one picture."""
    from pfv_mepa.pfv_core.reference.vit import ImageTokens

    tokens = torch.randn(257, encoder.hidden_size)
    return ImageTokens((tokens,), (tokens,), torch.randn(1, encoder.projection_size), tokens[None], encoder)


def _millions(module: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def _file(options: argparse.Namespace) -> Path:
    return Path(options.folder) / "strict_id.safetensors"


if __name__ == "__main__":
    main("benchmarks.strict_id", __doc__, {"step": step, "gradients": gradients, "load": load})
