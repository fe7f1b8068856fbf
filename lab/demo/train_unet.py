"""U-Net, text encoder and ControlNet; see `lab.demo.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ControlNetModel
from torch import Tensor

from . import stack
from .denoising import PLACED_SHARE, Denoising, rim_loss
from .trainer import FURTHER, Trainer, begun_from, checked_begin, content_of

AT_ONCE = {"unet": "unet", "text": "text_encoder", "controlnet": "controlnet"}  # what is trained -> its file
HALF = stack.IMAGE_SIZE // 2
DEPTH_SHARE = 0.75  # of the samples of `together` that come with their depth; the others keep the U-Net whole without


def train_unet_half(run: Trainer) -> None:
    """Velocity prediction on captions of which parts are missing; the text encoder learns along."""
    unet, text_encoder = stack.new_unet(), stack.new_text_encoder()
    run.begin_with(unet, "unet")
    stack.load_weights(text_encoder, run.out / "text_encoder.safetensors")
    run.reads("text_encoder", text_encoder)
    unet.to(memory_format=torch.channels_last)
    denoising = Denoising(run, "unet_half", HALF)
    loop = run.loop("unet_half", {"unet": unet, "text": text_encoder})

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        noised = denoising.batch(step, generator)
        conditions = denoising.conditions(loop.modules["text"], noised.ids, generator)
        predicted = loop.modules["unet"](noised.latents, noised.timesteps, **conditions).sample
        return F.mse_loss(predicted.float(), noised.velocity), {}

    run.train("unet_half", loop, loss_of_step)
    with loop.averaged():
        folder = run.passed_on("unet_half")
        run.export("unet_half", loop, folder, unet=loop.unwrapped("unet"), text_encoder=loop.unwrapped("text"))


def train_together(run: Trainer) -> None:
    """U-Net and ControlNet at once, most at the noisiest timesteps and where the product's outline runs.

    A ControlNet beside a frozen U-Net can only push against outlines that the U-Net has made up.
    """
    begun = run.passed_on("unet_half")
    unet, text_encoder = (run.trained(name, begun) for name in ("unet", "text_encoder"))
    run.begun_from = begun_from(begun / "unet.safetensors")
    controlnet: ControlNetModel = stack.new_controlnet(unet)
    stack.load_weights(controlnet.controlnet_cond_embedding, run.passed_on("hint") / "hint.safetensors")
    run.reads("hint", controlnet.controlnet_cond_embedding)
    _train_at_once(run, "together", {"unet": unet, "text": text_encoder, "controlnet": controlnet})


def train_further(run: Trainer) -> None:
    """U-Net, text encoder and ControlNet as `together`, from finished ones on; the other weights stay what they are."""
    begin = checked_begin(FURTHER, run.begin, run.out)
    run.begun_from = " and ".join(content_of(begin / f"{name}.safetensors") for name in AT_ONCE.values())
    _train_at_once(run, FURTHER, {own: run.trained(name, begin) for own, name in AT_ONCE.items()}, begin)


def _train_at_once(run: Trainer, stage: str, models: dict[str, Any], begin: Path | None = None) -> None:
    """Train U-Net, text encoder and ControlNet, whose eye stays as it is, and write them.

    Args:
        begin: folder of the autoencoder; None = that of the weights.
    """
    for name, model in models.items():
        model.requires_grad_(True)
        if name != "text":
            model.to(memory_format=torch.channels_last)
    models["controlnet"].controlnet_cond_embedding.requires_grad_(False)
    denoising = Denoising(run, stage, autoencoder=begin)
    loop = run.loop(stage, models)

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        noised = denoising.batch(step, generator, PLACED_SHARE)
        conditions = denoising.conditions(loop.modules["text"], noised.ids, generator)
        shown = torch.rand(len(noised.rows), generator=generator) < DEPTH_SHARE
        depth = run.data.depths(noised.rows).to(run.device, memory_format=torch.channels_last)
        down, middle = loop.modules["controlnet"](
            noised.latents, noised.timesteps, controlnet_cond=depth, **conditions, return_dict=False
        )
        given = shown.to(run.device)[:, None, None, None]
        predicted = loop.modules["unet"](
            noised.latents,
            noised.timesteps,
            **conditions,
            down_block_additional_residuals=[residual * given for residual in down],
            mid_block_additional_residual=middle * given,
        ).sample
        return rim_loss(predicted, noised, run.data.products(noised.rows).to(run.device)), {}

    run.train(stage, loop, loss_of_step)
    with loop.averaged():
        run.export(stage, loop, run.out, **{name: loop.unwrapped(own) for own, name in AT_ONCE.items()})
