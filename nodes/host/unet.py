"""The attentions of a loaded U-Net, found by walking what is there, and the adapter layer for each cross-attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, Upsample

from ...pfv_core.adapter.model import AdapterConfig
from ...pfv_core.attention.unet_layout import CONTEXT_DIM, AttentionLayer, Side, match_layers, unet_layers

BlockKey = tuple[str, int, int]
"""The host's name of a block: part, number in it, depth in its transformer."""


@dataclass(frozen=True)
class CrossAttentionBlock:
    """One cross-attention of a loaded model: where the host finds it, what it is, and its widths."""

    key: BlockKey
    layer: AttentionLayer
    width: int
    context_dim: int


class SelfAttention(NamedTuple):
    """Channels and heads of a self-attention, and how often the latent was halved before it."""

    width: int
    heads: int
    level: int


def unet_of(model: Any, node: str) -> Any:
    """The U-Net of a host's ModelPatcher.

    Raises:
        ValueError: a model that is none.
    """
    unet = model.get_model_object("diffusion_model")
    unet = getattr(unet, "_orig_mod", unet)  # another pack may have compiled it
    if not all(hasattr(unet, name) for name in ("input_blocks", "middle_block", "output_blocks")):
        raise ValueError(
            f"{node}: the model is a {type(unet).__name__}, which is no U-Net with attention (Flux and SD3 are none): use "
            "SDXL, a distilled SDXL or SD1.5"
        )
    return unet


def self_attentions(model: Any, node: str) -> dict[BlockKey, SelfAttention]:
    """Every self-attention of a loaded U-Net, in running order.

    Raises:
        ValueError: a model that is no U-Net with self-attention.
    """
    unet = unet_of(model, node)
    found = {
        (side.value, number, depth): SelfAttention(block.attn1.to_q.out_features, block.attn1.heads, level)
        for side, number, level, module in _transformers(unet)
        for depth, block in enumerate(module.transformer_blocks)
        if not block.disable_self_attn
    }
    if not found:
        raise ValueError(f"{node}: the {type(unet).__name__} has no self-attention")
    return found


def self_attention_names(unet: Any) -> dict[str, BlockKey]:
    """The modules of every self-attention of a U-Net, by their names in it."""
    names = {module: name for name, module in unet.named_modules()}
    return {
        names[block.attn1]: (side.value, number, depth)
        for side, number, _, module in _transformers(unet)
        for depth, block in enumerate(module.transformer_blocks)
    }


def cross_attention_blocks(model: Any) -> list[CrossAttentionBlock]:
    """Every cross-attention of a loaded U-Net; ValueError for a model that has none."""
    return cross_attentions(unet_of(model, "MEPA Apply"))


def cross_attentions(unet: Any) -> list[CrossAttentionBlock]:
    """Every cross-attention of a U-Net or of a copy of its encoder, which a ControlNet is.

    Raises:
        ValueError: there is none.
    """
    found = list(_transformers(unet))
    places = {
        side: [(level, len(module.transformer_blocks)) for at, _, level, module in found if at is side] for side in Side
    }
    middle = places[Side.MIDDLE][0] if places[Side.MIDDLE] else None
    layers = iter(unet_layers(places[Side.INPUT], middle, places[Side.OUTPUT]))
    order = (Side.INPUT, Side.OUTPUT, Side.MIDDLE)
    blocks = []
    for side, number, _, module in sorted(found, key=lambda item: order.index(item[0])):
        for depth, block in enumerate(module.transformer_blocks):
            layer = next(layers)
            if block.attn2 is not None:
                widths = block.attn2.to_q.out_features, block.attn2.to_k.in_features
                blocks.append(CrossAttentionBlock((side.value, number, depth), layer, *widths))
    if not blocks:
        raise ValueError(f"MEPA Apply: the {type(unet).__name__} has no cross-attention to put an image prompt into")
    return blocks


def cross_attention_at(network: Any, block: BlockKey) -> Any:
    """The host's cross-attention of a block, with its projections.

    Args:
        network: a U-Net, compiled or not, or a ControlNet's network.
        block: of one of its cross-attentions.
    """
    side, number, depth = block
    network = getattr(network, "_orig_mod", network)
    modules = network.middle_block if side == Side.MIDDLE.value else getattr(network, f"{side}_blocks")[number]
    transformer = next(module for module in modules if isinstance(module, SpatialTransformer))
    return transformer.transformer_blocks[depth].attn2


def family_of_context(width: int) -> str:
    """Which models take contexts of a width, in words."""
    families = {width: base for base, width in CONTEXT_DIM.items()} | {1024: "SD2", 1280: "the SDXL refiner"}
    return families.get(width, "another family")


def match_adapter(config: AdapterConfig, blocks: list[CrossAttentionBlock]) -> dict[BlockKey, int]:
    """For each block the index of the adapter's layer; ValueError names both sides where they do not belong together."""
    context_dim = blocks[0].context_dim
    if context_dim != config.context_dim:
        raise ValueError(
            f"MEPA Apply: the adapter is for {config.base} with a context of {config.context_dim} channels, the model's "
            f"context has {context_dim} ({family_of_context(context_dim)}): load an adapter for this model"
        )
    index = match_layers(config.layers, [block.layer for block in blocks])
    for block in blocks:
        width = config.widths[index[block.layer]]
        if width != block.width:
            raise ValueError(
                f"MEPA Apply: at {block.layer} the adapter has {width} channels, the model {block.width}: load an adapter "
                "for this model"
            )
    return {block.key: index[block.layer] for block in blocks}


def _transformers(unet: Any) -> Iterator[tuple[Side, int, int, SpatialTransformer]]:
    """(side, the host's block number, level, module) of each transformer in running order."""
    level = 0
    for number, block in enumerate(unet.input_blocks):
        yield from ((Side.INPUT, number, level, module) for module in block if isinstance(module, SpatialTransformer))
        level += any(isinstance(module, Downsample) for module in block)
    middle = [] if unet.middle_block is None else unet.middle_block
    yield from ((Side.MIDDLE, 0, level, module) for module in middle if isinstance(module, SpatialTransformer))
    for number, block in enumerate(getattr(unet, "output_blocks", ())):
        yield from ((Side.OUTPUT, number, level, module) for module in block if isinstance(module, SpatialTransformer))
        level -= any(isinstance(module, Upsample) for module in block)
