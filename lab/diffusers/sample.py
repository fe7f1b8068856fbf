"""Latents from noise with any of diffusers' schedulers, image prompts and a depth ControlNet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from pfv_core.adapter.model import Adapter
from pfv_core.attention.balance import check_gamma
from pfv_core.attention.control import PromptControl
from pfv_core.attention.weights import PromptWeights

from .prompts import RegionalPrompt
from .unet import image_prompts as image_prompts_in

Text = tuple[Tensor, Tensor]
"""Context (B or 1, T, C) and pooled embedding (B or 1, P) of a text."""


@dataclass(frozen=True)
class ImagePrompt:
    """An image prompt for sampling with guidance.

    Attributes:
        adapter: made for the U-Net.
        positive, negative: (B or 1, c, C) image prompts of the two halves of guidance, see `Adapter.image_prompt`.
        control: how it takes part.
        region: (B or 1, H, W) float, 0..1, 1 = the image prompt rules; None = the whole frame.
        weights: by layer and over the sampling.
    """

    adapter: Adapter
    positive: Tensor
    negative: Tensor
    control: PromptControl = PromptControl()  # noqa: RUF009, frozen
    region: Tensor | None = None
    weights: PromptWeights = PromptWeights()  # noqa: RUF009, frozen


@torch.no_grad()
def sample_latents(
    unet: UNet2DConditionModel,
    scheduler: Any,
    noise: Tensor,
    *,
    text: Text,
    negative_text: Text | None = None,
    guidance_scale: float = 1.0,
    steps: int,
    image_size: tuple[int, int],
    image_prompts: Sequence[ImagePrompt] = (),
    controlnet: ControlNetModel | None = None,
    depth: Tensor | None = None,
    control_strength: float = 1.0,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Denoise latents.

    Args:
        unet: of SD1.5's, SD2's or SDXL's kind.
        scheduler: any of diffusers' schedulers; its timesteps are set anew. One that draws noise in its steps draws it
            from torch's global generator.
        noise: (B, 4, h, w) unit normal.
        text, negative_text: context and pooled embedding. The pooled one serves U-Nets with SDXL's added conditions.
        guidance_scale: 1 = without guidance, the negative text is not run then.
        steps: of the scheduler.
        image_size: height and width in pixels that SDXL's added conditions name, as original and target size.
        image_prompts: the negative half of guidance gets their negative prompts.
        controlnet: of the U-Net's kind, with `depth` (B or 1, 3, H, W), 0..1, 1 = near; it sees the text alone.
        control_strength: of the ControlNet; 0 = without it.
        on_step: called after each call of the U-Net with the number done and the number in all.

    Returns:
        (B, 4, h, w) latents in the noise's dtype.

    Raises:
        ValueError: guidance without a negative text, one of controlnet and depth without the other, a gamma outside the
            scheduler's timesteps, or what `lab.diffusers.unet.image_prompts` raises.
    """
    if guidance_scale != 1.0 and negative_text is None:
        raise ValueError(f"guidance_scale is {guidance_scale}, but there is no negative_text: give one, or scale 1")
    if (controlnet is None) != (depth is None):
        raise ValueError("controlnet and depth belong together: give both or neither")
    for prompt in image_prompts:
        if prompt.control.gamma is not None:
            check_gamma(prompt.control.gamma, scheduler.config["num_train_timesteps"])
    guided = guidance_scale != 1.0
    texts = [negative_text, text] if guided and negative_text is not None else [text]
    batch = len(noise)
    conditions = _conditions(unet, texts, batch, image_size)
    prompts = [_regional_prompt(prompt, guided, batch, unet.dtype) for prompt in image_prompts]
    scheduler.set_timesteps(steps, device=noise.device)
    latents = noise * scheduler.init_noise_sigma
    latent_size = noise.shape[2], noise.shape[3]
    with image_prompts_in(unet, prompts, latent_size, scheduler.config["num_train_timesteps"]):
        for index, timestep in enumerate(scheduler.timesteps):
            latent_input = scheduler.scale_model_input(latents, timestep).to(unet.dtype)
            latent_input = torch.cat([latent_input] * len(texts))
            residuals = _control(controlnet, depth, control_strength, latent_input, timestep, conditions)
            predicted = unet(latent_input, timestep, **conditions, **residuals).sample.to(latents.dtype)
            if guided:
                uncond, cond = predicted.chunk(2)
                predicted = uncond + guidance_scale * (cond - uncond)
            latents = scheduler.step(predicted, timestep, latents).prev_sample
            if on_step is not None:
                on_step(index + 1, len(scheduler.timesteps))
    return latents


def _conditions(
    unet: UNet2DConditionModel, texts: Sequence[Text], batch: int, image_size: tuple[int, int]
) -> dict[str, Any]:
    """The U-Net's keyword arguments for the halves of guidance, one after the other."""
    context = torch.cat([_repeated(context, batch, "text") for context, _ in texts]).to(unet.device, unet.dtype)
    conditions: dict[str, Any] = {"encoder_hidden_states": context}
    if unet.config["addition_embed_type"] == "text_time":
        pooled = torch.cat([_repeated(pooled, batch, "text") for _, pooled in texts]).to(context)
        height, width = image_size
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=context.device)
        conditions["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes.expand(len(pooled), -1)}
    return conditions


def _regional_prompt(prompt: ImagePrompt, guided: bool, batch: int, dtype: torch.dtype) -> RegionalPrompt:
    halves = [prompt.negative, prompt.positive] if guided else [prompt.positive]
    tokens = torch.cat([_repeated(half, batch, "image prompt") for half in halves])
    region = prompt.region
    if region is not None and len(region) > 1:
        region = torch.cat([_repeated(region, batch, "region")] * len(halves))
    return RegionalPrompt(prompt.adapter.keys_values(tokens.to(dtype)), prompt.control, region, prompt.weights)


def _control(
    controlnet: ControlNetModel | None,
    depth: Tensor | None,
    strength: float,
    latents: Tensor,
    timestep: Tensor,
    conditions: dict[str, Any],
) -> dict[str, Any]:
    """What the ControlNet adds to the U-Net."""
    if controlnet is None or depth is None or strength == 0.0:
        return {}
    halves = len(latents) // len(depth) if len(depth) > 1 else len(latents)
    depth = depth.to(latents).repeat(halves, 1, 1, 1)
    down, middle = controlnet(
        latents, timestep, controlnet_cond=depth, conditioning_scale=strength, return_dict=False, **conditions
    )
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def _repeated(tensor: Tensor, batch: int, what: str) -> Tensor:
    """One for all samples, or one each -> one each."""
    if len(tensor) not in (1, batch):
        raise ValueError(
            f"the {what} is a batch of {len(tensor)}, {batch} latents are sampled: give 1, or one for each"
        )
    return tensor.expand(batch, *tensor.shape[1:])
