"""Which cross-attention of a U-Net a weight belongs to: written once, used by patch, loader and tests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Side(str, Enum):
    """The three parts of a U-Net, named as their blocks are."""

    INPUT = "input"
    MIDDLE = "middle"
    OUTPUT = "output"


@dataclass(frozen=True, order=True)
class AttentionLayer:
    """One cross-attention, named by its place and not by a block number, which differs between distilled U-Nets.

    Attributes:
        side: input, middle or output.
        level: times the latent was halved before it; 1 and 2 in SDXL.
        ordinal: which transformer of this side and level, in running order.
        depth: which block inside that transformer.
    """

    side: Side
    level: int
    ordinal: int
    depth: int

    def __str__(self) -> str:
        return f"{self.side.value} level {self.level} transformer {self.ordinal} block {self.depth}"


def _layers(side: Side, transformers: Iterable[tuple[int, int]]) -> list[AttentionLayer]:
    """(level, depth) of each transformer in running order -> its cross-attentions."""
    count: dict[int, int] = {}
    layers = []
    for level, depth in transformers:
        ordinal = count.get(level, 0)
        count[level] = ordinal + 1
        layers += [AttentionLayer(side, level, ordinal, block) for block in range(depth)]
    return layers


def unet_layers(
    inputs: list[tuple[int, int]], middle: tuple[int, int] | None, outputs: list[tuple[int, int]]
) -> tuple[AttentionLayer, ...]:
    """The cross-attentions of a U-Net in the order of public adapter files: input, output, middle last.

    Args:
        inputs, outputs: (level, depth) of each transformer in running order.
        middle: (level, depth) of the middle transformer, None where there is none.
    """
    middles = [] if middle is None else [middle]
    sides = ((Side.INPUT, inputs), (Side.OUTPUT, outputs), (Side.MIDDLE, middles))
    return tuple(layer for side, transformers in sides for layer in _layers(side, transformers))


SDXL = unet_layers([(1, 2)] * 2 + [(2, 10)] * 2, (2, 10), [(2, 10)] * 3 + [(1, 2)] * 3)
SD15 = unet_layers([(0, 1)] * 2 + [(1, 1)] * 2 + [(2, 1)] * 2, (3, 1), [(2, 1)] * 3 + [(1, 1)] * 3 + [(0, 1)] * 3)
ONE_LEVEL = unet_layers([(1, 1)], (1, 1), [(1, 1)] * 2)  # of the demo
LAYOUTS = {"sdxl": SDXL, "sd15": SD15}
CONTEXT_DIM = {"sdxl": 2048, "sd15": 768}


def match_layers(
    adapter_layers: tuple[AttentionLayer, ...], model_layers: Iterable[AttentionLayer]
) -> dict[AttentionLayer, int]:
    """For each cross-attention of a model, the index of the adapter's layer that serves it.

    Distilled models (SSD-1B, Vega, KOALA) keep the first transformers of a level and the first blocks of a
    transformer, so place by side, level, ordinal and depth is the place in the full model.

    Raises:
        ValueError: a cross-attention that the adapter has no weights for.
    """
    index = {layer: position for position, layer in enumerate(adapter_layers)}
    model_layers = list(model_layers)
    unknown = [layer for layer in model_layers if layer not in index]
    if unknown:
        raise ValueError(
            f"the adapter's {len(adapter_layers)} layers do not cover this model: {len(unknown)} of its "
            f"{len(model_layers)} cross-attentions have no weights (the first: {unknown[0]}). Use an adapter made for "
            "this model's architecture"
        )
    return {layer: index[layer] for layer in model_layers}
