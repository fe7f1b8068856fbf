"""Adapters of every kind with tiny widths and seeded weights, for the encoder and the U-Net of these tests."""

from __future__ import annotations

from pfv_mepa.pfv_core.adapter.model import Adapter, AdapterConfig, AdapterKind
from pfv_mepa.pfv_core.attention.unet_layout import unet_layers
from pfv_mepa.pfv_core.reference.vit import EncoderSpec

from .weights import randomize

LAYERS = unet_layers([(1, 1)], (2, 1), [(1, 1)])
WIDTHS = (8, 8, 12)
CONTEXT_DIM = 24


def tiny_config(kind: AdapterKind, encoder: EncoderSpec, num_tokens: int = 4) -> AdapterConfig:
    """An adapter for a U-Net with three cross-attentions. The resampler has one head of 64 and two layers.

    One of kind tokens has as many tokens as the encoder, whatever `num_tokens` says.
    """
    sizes = {
        AdapterKind.LINEAR: {"latent_width": 0, "inner_width": 0, "depth": 0, "feedforward": 0},
        AdapterKind.RESAMPLER: {"latent_width": 20, "inner_width": 64, "depth": 2, "feedforward": 40},
        AdapterKind.EQ3: {"latent_width": 20, "inner_width": 0, "depth": 0, "feedforward": 0},
        AdapterKind.TOKENS: {"latent_width": 0, "inner_width": 0, "depth": 0, "feedforward": 0},
    }
    if kind is AdapterKind.TOKENS:
        num_tokens = 1 + (encoder.image_size // encoder.patch_size) ** 2
    return AdapterConfig(
        kind=kind,
        base="tiny",
        encoder_width=encoder.projection_size if kind is AdapterKind.LINEAR else encoder.hidden_size,
        num_tokens=num_tokens,
        context_dim=CONTEXT_DIM,
        layers=LAYERS,
        widths=WIDTHS,
        **sizes[kind],
    )


def tiny_adapter(kind: AdapterKind, encoder: EncoderSpec, num_tokens: int = 4, seed: int = 0) -> Adapter:
    """The same with weights."""
    adapter = Adapter(tiny_config(kind, encoder, num_tokens))
    randomize(adapter, seed)
    return adapter
