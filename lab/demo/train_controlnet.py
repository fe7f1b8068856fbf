"""The ControlNet alone, beside finished weights; see `lab.demo.train`.

What is trained together sees no image prompt. Here most samples have one, as an ad has: the scene itself with its product hidden,
ruling around the product or on the wall. U-Net, encoders and adapter stay what they are, and so does what was trained with them.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pfv_core.adapter.checkpoint import load_adapter
from pfv_core.attention.control import PromptControl
from pfv_core.reference.vit import HideMode, encode_image, encode_uncond

from ..diffusers.prompts import RegionalPrompt
from ..diffusers.unet import image_prompts
from ..diffusers.vision import ClipVisionEncoder
from ..train.visibility import sight_of
from . import stack
from .denoising import PLACED_SHARE, Denoising, rim_loss
from .trainer import CONTROLNET, Trainer, checked_begin, content_of

# Shares of the samples by where the image prompt rules; the others have none.
AROUND_SHARE, WALL_SHARE = 0.6, 0.2
NEGATIVE_SHARE = 0.1  # of the samples with an image prompt: guidance's other half


class Prompts:
    """The scenes' own image prompts, their products hidden.

    Args:
        folder: of the weights: image encoder and adapter.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.vision_model = stack.load_model("vision_encoder", folder).to(device)
        self.vision = ClipVisionEncoder(self.vision_model)
        self.adapter = load_adapter(folder / "adapter.safetensors").float().to(device)
        self.uncond = encode_uncond(self.vision)
        self.sight = sight_of(self.vision)

    @torch.no_grad()
    def of(self, image: Tensor, product: Tensor, wall: Tensor, generator: torch.Generator) -> RegionalPrompt:
        """(B, 3, H, W) pictures, (B, H, W) products and walls -> image prompts, each where it happens to rule."""
        visible = self.sight.patch_mask(product == 0)
        tokens = encode_image(self.vision, image, visible, HideMode.ZERO, self.uncond)
        positive, negative = self.adapter.image_prompt(tokens)
        is_negative = torch.rand(len(image), generator=generator) < NEGATIVE_SHARE
        shown = torch.where(is_negative.to(image.device)[:, None, None], negative, positive)
        kind = torch.rand(len(image), 1, 1, generator=generator).to(image.device)
        around = (product == 0).float() * (kind < AROUND_SHARE)
        on_wall = (wall > 0.5).float() * ((kind >= AROUND_SHARE) & (kind < AROUND_SHARE + WALL_SHARE))
        return RegionalPrompt(self.adapter.keys_values(shown), PromptControl(text_share=0.0), around + on_wall)


def train_controlnet(run: Trainer) -> None:
    """From the finished ControlNet on; its eye stays as it is."""
    begin = checked_begin(CONTROLNET, run.begin, run.out)
    run.begun_from = content_of(begin / "controlnet.safetensors")
    unet, text_encoder, controlnet = (run.trained(name, begin) for name in ("unet", "text_encoder", "controlnet"))
    for model in (unet, controlnet):
        model.to(memory_format=torch.channels_last)
    controlnet.requires_grad_(True)
    controlnet.controlnet_cond_embedding.requires_grad_(False)
    denoising, prompts = Denoising(run, CONTROLNET, autoencoder=begin), Prompts(begin, run.device)
    run.reads("adapter", prompts.adapter)
    run.reads("vision_encoder", prompts.vision_model)
    loop = run.loop(CONTROLNET, {"controlnet": controlnet})
    size = (stack.LATENT_SIZE, stack.LATENT_SIZE)

    def loss_of_step(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor | float]]:
        noised = denoising.batch(step, generator, PLACED_SHARE)
        seen = run.data.images(noised.rows), run.data.products(noised.rows), run.data.walls(noised.rows)
        image, product, wall = (part.to(run.device) for part in seen)
        with torch.no_grad():
            conditions = denoising.conditions(text_encoder, noised.ids, generator)
        depth = run.data.depths(noised.rows).to(run.device, memory_format=torch.channels_last)
        down, middle = loop.modules["controlnet"](
            noised.latents, noised.timesteps, controlnet_cond=depth, **conditions, return_dict=False
        )
        with image_prompts(unet, [prompts.of(image, product, wall, generator)], size):
            predicted = unet(
                noised.latents,
                noised.timesteps,
                **conditions,
                down_block_additional_residuals=list(down),
                mid_block_additional_residual=middle,
            ).sample
        return rim_loss(predicted, noised, product), {}

    run.train(CONTROLNET, loop, loss_of_step)
    with loop.averaged():
        run.export(CONTROLNET, loop, run.out, controlnet=loop.unwrapped("controlnet"))
