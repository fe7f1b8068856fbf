"""Untrained adapters, made to a diffusers U-Net's measure."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from pfv_core.adapter.model import Adapter, AdapterConfig, AdapterKind
from pfv_core.adapter.resampler import HEAD_DIM
from pfv_core.choices import parse_choice
from pfv_core.reference.vit import EncoderSpec

from .layers import attention_layers


def adapter_config(
    unet: UNet2DConditionModel,
    *,
    kind: AdapterKind,
    base: str,
    encoder: EncoderSpec,
    num_tokens: int,
    latent_width: int = 0,
    inner_width: int = 0,
    depth: int = 0,
    feedforward: int = 0,
) -> AdapterConfig:
    """The configuration of an adapter for a U-Net and an image encoder.

    Args:
        unet: gives the layers, their widths and the context's.
        kind: of the image projection.
        base: the family of U-Nets, such as sdxl.
        encoder: what the references are encoded with.
        num_tokens: image prompt tokens, c, at least 1; of a tokens adapter those of the encoder, class token included.
        latent_width: channels of the latents of eq3 and resampler.
        inner_width: channels of the resampler's attention, whole heads of 64.
        depth, feedforward: layers of the resampler and hidden width of their MLPs.

    Raises:
        ValueError: a size that this kind needs is missing, or one that it has no use for is given.
    """
    kind = parse_choice(AdapterKind, kind, "kind")
    sizes = {"latent_width": latent_width, "inner_width": inner_width, "depth": depth, "feedforward": feedforward}
    _check_sizes(kind, num_tokens, sizes)
    layers = attention_layers(unet)
    keys = [_linear(unet, f"{name}.to_k") for name in layers.values()]
    context_dims = {key.in_features for key in keys}
    if len(context_dims) != 1:
        raise ValueError(f"the U-Net's cross-attentions take contexts of {sorted(context_dims)} channels: expected one")
    return AdapterConfig(
        kind=kind,
        base=base,
        encoder_width=encoder.projection_size if kind is AdapterKind.LINEAR else encoder.hidden_size,
        num_tokens=num_tokens,
        context_dim=context_dims.pop(),
        layers=tuple(layers),
        widths=tuple(key.out_features for key in keys),
        latent_width=latent_width,
        inner_width=inner_width,
        depth=depth,
        feedforward=feedforward,
    )


def new_adapter(unet: UNet2DConditionModel, config: AdapterConfig, seed: int) -> Adapter:
    """An untrained adapter, float32, on the U-Net's device.

    Args:
        unet: whose text projections the image projections start from.
        config: made for this U-Net, see `adapter_config`.
        seed: of the image projection's initial weights; torch's global generator is left as it is.

    Returns:
        Latents drawn with deviation 1 / sqrt(width), linear layers as torch draws them, `to_k_ip` and `to_v_ip` copies
        of the text's `to_k` and `to_v` (section 4.1 of the paper).

    Raises:
        ValueError: a configuration of another U-Net.
    """
    names = attention_layers(unet)
    if tuple(names) != config.layers:
        raise ValueError(
            f"the configuration is for a U-Net of {len(config.layers)} cross-attentions, this one has {len(names)} or has "
            "them at other places: make it with adapter_config for this U-Net"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # and no device's: torch.manual_seed would set them all
        adapter = Adapter(config)
        latents = getattr(adapter.image_proj, "latents", None)
        if latents is not None:
            nn.init.normal_(latents, std=config.latent_width**-0.5)
    with torch.no_grad():
        for index, name in enumerate(names.values()):
            for part in ("to_k", "to_v"):
                _linear(adapter.ip_adapter, f"{part}_ip.{index}").weight.copy_(_linear(unet, f"{name}.{part}").weight)
    return adapter.to(unet.device)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    if not isinstance(module, nn.Linear):
        raise ValueError(f"{name} is a {type(module).__name__}, expected Linear: merge or unload what wraps it")
    return module


def _check_sizes(kind: AdapterKind, num_tokens: int, sizes: dict[str, int]) -> None:
    needs = {
        AdapterKind.LINEAR: (),
        AdapterKind.TOKENS: (),
        AdapterKind.EQ3: ("latent_width",),
        AdapterKind.RESAMPLER: ("latent_width", "inner_width", "depth", "feedforward"),
    }[kind]
    if num_tokens < 1:
        raise ValueError(f"num_tokens is {num_tokens}, expected 1 or more")
    for name, size in sizes.items():
        if name in needs and size < 1:
            raise ValueError(f"{name} is {size}, a {kind.value} adapter needs 1 or more")
        if name not in needs and size != 0:
            raise ValueError(f"{name} is {size}, a {kind.value} adapter has none: leave it 0")
    if sizes["inner_width"] % HEAD_DIM:
        raise ValueError(f"inner_width is {sizes['inner_width']}, expected whole heads of {HEAD_DIM}")
