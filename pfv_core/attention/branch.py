"""A branch of a cross-attention: what is asked of it, what it attends, and what multiplies it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

from ..choices import parse_choice

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(B, L, C) query, (B, S, C) key, (B, S, C) value, heads joined in C -> (B, L, C)."""


Weight = float | Tensor
"""One number for all rows of a group, or (1, rows, 1) float64; in `SampleWeights` (B or 1, rows or 1, 1)."""


class Gate(str, Enum):
    """OUTPUT multiplies a branch after attention, QUERY multiplies its query as Eq. 6 prints it."""

    OUTPUT = "output"
    QUERY = "query"


@dataclass(frozen=True)
class BranchControl:
    """How one image prompt takes part.

    Attributes:
        image_scale: lambda of Eq. 4; 0 = no image, 1 = as trained.
        text_share: how much the text keeps inside the region; 0 = none (Eq. 6), 1 = all (IP-Adapter).
        gate: where the region is applied.

    Raises:
        ValueError: a text_share outside 0..1, a scale that is not finite, an unknown gate.
    """

    image_scale: float = 1.0
    text_share: float = 1.0
    gate: Gate | str = Gate.OUTPUT

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", parse_choice(Gate, self.gate, "gate"))
        if not 0.0 <= self.text_share <= 1.0:
            raise ValueError(f"text_share is {self.text_share}, expected 0 (no text in the region) to 1 (all of it)")
        if not math.isfinite(self.image_scale):
            raise ValueError(f"image_scale is {self.image_scale}, expected a finite number")


@dataclass(frozen=True)
class BranchWeight:
    """What multiplies a branch's query and its output in a group of rows."""

    query: Weight
    output: Weight

    def to(self, device: torch.device, dtype: torch.dtype) -> BranchWeight:
        """The same weights with their tensors on `device` in `dtype`."""

        def moved(weight: Weight) -> Weight:
            return weight.to(device, dtype) if isinstance(weight, Tensor) else weight

        return BranchWeight(moved(self.query), moved(self.output))


class KeysValues(NamedTuple):
    """Keys and values of an image prompt's tokens, as a caller who attends them often keeps them.

    Attributes:
        key, value: (B, c, C).
        mean: (B, 1, C), the value's mean over its tokens where it is known already; rows that the query gate takes to
            0 receive it.
    """

    key: Tensor
    value: Tensor
    mean: Tensor | None = None

    def rows(self, rows: slice) -> KeysValues:
        """Those of some samples."""
        return KeysValues(self.key[rows], self.value[rows], None if self.mean is None else self.mean[rows])


Pair = tuple[Tensor, Tensor] | KeysValues


def text_weight(masks: Iterable[Weight], text_shares: Iterable[Weight], gates: Iterable[Gate]) -> tuple[Weight, Weight]:
    """What the image prompts leave of the text's query and of its output, in the shape that masks and shares span."""
    taken: dict[Gate, Weight] = dict.fromkeys(Gate, 0.0)
    for mask, share, gate in zip(masks, text_shares, gates, strict=True):
        taken[gate] = taken[gate] + (1.0 - share) * mask

    def left(weight: Weight) -> Weight:
        return (1.0 - weight).clamp_min(0) if isinstance(weight, Tensor) else max(0.0, 1.0 - weight)

    return left(taken[Gate.QUERY]), left(taken[Gate.OUTPUT])


def equals(weight: Weight, value: float) -> bool:
    """Whether a weight is one number, and this one."""
    return isinstance(weight, float) and weight == value


def times(tensor: Tensor, weight: Weight) -> Tensor:
    """The product; the tensor itself where the weight is 1."""
    return tensor if equals(weight, 1.0) else tensor * weight
