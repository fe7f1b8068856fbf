"""Image prompts in the cross-attentions of a diffusers U-Net, by the mathematics of `pfv_core.attention.general`.

`image_prompts` puts a processor of its own into every cross-attention for as long as it lasts. The processor projects
as diffusers' does, attends as the processor that it stands in for does (plain matrix products for AttnProcessor, fused
attention for AttnProcessor2_0), and joins text and images as Eq. 4 and 6 say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from pfv_core.attention.general import general_attention
from pfv_core.attention.query_mask import LATENT_SCALE, frame_matches
from pfv_core.attention.unet_layout import AttentionLayer

from .layers import attention_layers
from .prompts import Passes, RegionalPrompt


@contextmanager
def image_prompts(
    unet: UNet2DConditionModel,
    prompts: Sequence[RegionalPrompt],
    latent_size: tuple[int, int],
    num_timesteps: int = 1000,
) -> Iterator[None]:
    """Run a U-Net with image prompts in every cross-attention.

    Args:
        unet: any UNet2DConditionModel; gradients flow through it into the image prompts.
        prompts: those of scale 0 are left out, and without any the U-Net stays untouched.
        latent_size: rows and columns of the latents that will go in.
        num_timesteps: of the schedule that the U-Net was trained with, for weights over the sampling.

    Under gradient checkpointing the backward pass recomputes the forward pass: keep it inside this context too.

    Raises:
        ValueError: a region of another shape than the frame, keys and values of another U-Net, an attention processor
            that this one cannot stand in for, weights for a layer that the U-Net has not; inside, latents of another size or
            batch, or a time weight or a curve over the sampling in a batch of several timesteps.
    """
    prompts = [prompt for prompt in prompts if not prompt.absent]
    if not prompts:
        yield
        return
    layers = attention_layers(unet)
    for prompt in prompts:
        _check_prompt(prompt, len(layers), latent_size)
    passes = Passes(prompts, latent_size, layers, num_timesteps)
    with ExitStack() as stack:
        begin = partial(_begin_pass, prompts, latent_size, passes)
        stack.callback(unet.register_forward_pre_hook(begin, with_kwargs=True).remove)
        for index, (layer, name) in enumerate(layers.items()):
            attention = unet.get_submodule(name)
            assert isinstance(attention, Attention)
            plain = attention.processor
            processor: Any = _Processor(
                attend_like(plain, name), [prompt.keys_values[index] for prompt in prompts], passes, layer
            )
            attention.set_processor(processor)
            stack.callback(attention.set_processor, plain)
        yield


Scores = Callable[[Attention, Tensor | None, Tensor, Tensor, Tensor], Tensor]
"""(layer, mask bias, (B, L, C) query, (B, S, C) key, (B, S, C) value) -> (B, L, C)."""


class _Processor:
    """What stands in for the processor of one cross-attention."""

    def __init__(
        self, scores: Scores, keys_values: Sequence[tuple[Tensor, Tensor]], passes: Passes, layer: AttentionLayer
    ) -> None:
        self._scores = scores
        self._keys_values = keys_values
        self._passes = passes
        self._layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """(B, L, C) queries' features, (B, S, context_dim) text -> (B, L, C)."""
        residual = hidden_states
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        if attn.norm_cross:
            encoder_hidden_states = attn.norm_encoder_hidden_states(encoder_hidden_states)
        batch, length, _ = encoder_hidden_states.shape
        bias = None if attention_mask is None else attn.prepare_attention_mask(attention_mask, length, batch)
        query = attn.to_q(hidden_states)
        text = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        now = self._passes.at(self._layer, query)
        images = [
            (key.to(query).expand(batch, -1, -1), value.to(query).expand(batch, -1, -1))
            for key, value in (self._keys_values[index] for index in now.prompts)
        ]
        attend, base = partial(self._scores, attn, None), partial(self._scores, attn, bias)
        out = general_attention(query, text, images, now.weights, attend, base)
        out = attn.to_out[1](attn.to_out[0](out))
        if attn.residual_connection:
            out = out + residual
        return out / attn.rescale_output_factor


def _plain(attn: Attention, bias: Tensor | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Matrix products and a softmax, as AttnProcessor has them."""
    query, key, value = (attn.head_to_batch_dim(tensor) for tensor in (query, key, value))
    out: Tensor = attn.batch_to_head_dim(torch.bmm(attn.get_attention_scores(query, key, bias), value))
    return out


def _fused(attn: Attention, bias: Tensor | None, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's fused attention, as AttnProcessor2_0 has it."""
    query, key, value = (tensor.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for tensor in (query, key, value))
    if attn.norm_q is not None:
        query = attn.norm_q(query)
    if attn.norm_k is not None:
        key = attn.norm_k(key)
    if bias is not None:
        bias = bias.unflatten(0, (-1, attn.heads))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


def attend_like(processor: Any, name: str) -> Scores:
    """How a processor attends; ValueError, with the attention's name, for one that none of ours can stand in for."""
    known: dict[type, Scores] = {AttnProcessor: _plain, AttnProcessor2_0: _fused}
    if type(processor) not in known:
        raise ValueError(
            f"{name} has the attention processor {type(processor).__name__}, which ours cannot stand in for: "
            "call unet.set_attn_processor(AttnProcessor2_0()) first"
        )
    return known[type(processor)]


def _check_prompt(prompt: RegionalPrompt, num_layers: int, latent_size: tuple[int, int]) -> None:
    if len(prompt.keys_values) != num_layers:
        raise ValueError(
            f"the image prompt has keys and values for {len(prompt.keys_values)} layers, the U-Net has {num_layers}: use an "
            "adapter made for it"
        )
    if prompt.region is None or frame_matches((prompt.region.shape[1], prompt.region.shape[2]), latent_size):
        return
    height, width = (LATENT_SCALE * side for side in latent_size)
    raise ValueError(
        f"the region is {prompt.region.shape[1]}x{prompt.region.shape[2]}, the image is {height}x{width} (height x width): "
        "give the region the image's shape"
    )


def _begin_pass(
    prompts: Sequence[RegionalPrompt],
    latent_size: tuple[int, int],
    passes: Passes,
    unet: nn.Module,
    args: tuple[Any, ...],
    kwargs: Any,
) -> None:
    """Forward pre-hook: what goes in is what the image prompts were made for, and the pass has its timestep."""
    sample = args[0] if args else kwargs["sample"]
    if tuple(sample.shape[-2:]) != tuple(latent_size):
        raise ValueError(
            f"the latents are {sample.shape[-2]}x{sample.shape[-1]}, image_prompts was given latent_size "
            f"{latent_size[0]}x{latent_size[1]}"
        )
    for prompt in prompts:
        for name, size in prompt.batch_sizes.items():
            if size not in (1, len(sample)):
                raise ValueError(
                    f"{name} of an image prompt is for {size} samples, the batch has {len(sample)}: give 1 or as many"
                )
    passes.begin(args[1] if len(args) > 1 else kwargs["timestep"])
