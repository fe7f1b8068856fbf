"""How an image prompt takes part in a cross-attention, and what the terms of the formula are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from enum import Enum

import torch
from torch import Tensor

from ..choices import parse_choice
from .balance import time_weight

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(B, L, C) query, (B, S, C) key, (B, S, C) value, heads joined in C -> (B, L, C)."""


Weight = float | Tensor
"""One number for all rows of a group, or (1, rows, 1) float64; in `SampleWeights` (B or 1, rows or 1, 1)."""


class Gate(str, Enum):
    """OUTPUT multiplies an image's term after attention, QUERY multiplies its query as Eq. 6 prints it."""

    OUTPUT = "output"
    QUERY = "query"


@dataclass(frozen=True)
class PromptControl:
    """How one image prompt takes part: made once from what was asked for, and handed on whole.

    Attributes:
        image_scale: lambda of Eq. 4; 0 = no image, 1 = as trained. For training also (B,), one for each sample.
        text_share: how much the text keeps inside the region; 0 = none (Eq. 6), 1 = all (IP-Adapter). Also (B,).
        gate: where the region is applied.
        std_norm: bring the image's term to the text's standard deviation (Strictly-ID, Eq. 8).
        gamma: time weighting (Strictly-ID, Eq. 10), in timesteps; None = the same weight all the time.

    Raises:
        ValueError: a text_share outside 0..1, a scale that is not finite, an unknown gate, a gamma that is not above 0.
    """

    image_scale: float | Tensor = 1.0
    text_share: float | Tensor = 1.0
    gate: Gate | str = Gate.OUTPUT
    std_norm: bool = False
    gamma: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "gate", parse_choice(Gate, self.gate, "gate"))
        for name in ("image_scale", "text_share"):
            value = getattr(self, name)
            if isinstance(value, Tensor) and value.ndim != 1:
                raise ValueError(f"{name} is {tuple(value.shape)}, expected one number or (B,)")
        share, scale = torch.as_tensor(self.text_share), torch.as_tensor(self.image_scale)
        if not bool(((share >= 0) & (share <= 1)).all()):
            raise ValueError(f"text_share is {self.text_share}, expected 0 (no text in the region) to 1 (all of it)")
        if not bool(scale.isfinite().all()):
            raise ValueError(f"image_scale is {self.image_scale}, expected a finite number")
        if self.gamma is not None and not self.gamma > 0:
            raise ValueError(f"gamma is {self.gamma}, expected more than 0 timesteps")

    def at(self, timestep: float) -> PromptControl | None:
        """The control at a timestep of the model's schedule; None where the image prompt is absent.

        Paper: Strictly-ID, Eq. 9, `Y_t + alpha(t) Y'_a`. **Deviation**: what the region takes from the text is weighted as
        well, so that weight 0 is the text alone at any text_share; with text_share 1, which the paper has, nothing is taken.
        """
        if self.gamma is None:
            return self
        weight = time_weight(timestep, self.gamma)
        weighted = self.weighted(weight)
        return weighted if weighted is None or weight == 1.0 else replace(weighted, gamma=None)

    def weighted(self, weight: float) -> PromptControl | None:
        """The control where the image prompt counts less, or more; None where it is absent.

        Args:
            weight: 0 or more. 0 is the text alone, the plain attention's own bits. Up to 1 what the region takes from the
                text goes the same way as the image; above 1 the image alone is raised.
        """
        if weight in (0.0, 1.0):
            return self if weight else None
        share = 1.0 - (1.0 - self.text_share) * min(weight, 1.0)
        return replace(self, image_scale=weight * self.image_scale, text_share=share)


@dataclass(frozen=True)
class TermWeight:
    """What multiplies the query and the output of a term, the text's or an image's, in a group of rows."""

    query: Weight
    output: Weight

    def to(self, device: torch.device, dtype: torch.dtype) -> TermWeight:
        """The same weights with their tensors on `device` in `dtype`."""

        def moved(weight: Weight) -> Weight:
            return weight.to(device, dtype) if isinstance(weight, Tensor) else weight

        return TermWeight(moved(self.query), moved(self.output))


@dataclass(frozen=True, eq=False)
class KeysValues:
    """Keys and values of an image prompt's tokens; what a caller keeps to attend them often.

    Attributes:
        key, value: (R, c, C).
        mean: (R, 1, C), the value's mean over its tokens where it is known already; rows that the query gate takes to
            0 receive it.
        order: (B,) int64, which of the R rows each sample has; None = they are the samples.
        products: value and mean times the number that they were last multiplied by.
    """

    key: Tensor
    value: Tensor
    mean: Tensor | None = None
    order: Tensor | None = None
    products: dict[str, tuple[float, Tensor]] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, pair: Pair) -> KeysValues:
        """The same, from a key and a value."""
        return pair if isinstance(pair, KeysValues) else cls(*pair)

    def keys(self) -> Tensor:
        """(B, c, C)."""
        return self._of_samples(self.key)

    def values(self, weight: float = 1.0) -> Tensor:
        """(B, c, C), times a weight."""
        return self._of_samples(self._product("value", self.value, weight))

    def constant(self, weight: Weight = 1.0) -> Tensor:
        """(B, 1, C), the attention of a query that is 0, equal logits, times a weight."""
        if isinstance(weight, Tensor):
            return self.constant() * weight
        if self.mean is None:
            return self.values(weight).mean(1, keepdim=True)
        return self._of_samples(self._product("mean", self.mean, weight))

    def rows(self, samples: slice) -> KeysValues:
        """Those of some samples."""
        if self.order is not None:
            return KeysValues(self.key, self.value, self.mean, self.order[samples], self.products)
        return KeysValues(self.key[samples], self.value[samples], None if self.mean is None else self.mean[samples])

    def _product(self, name: str, tensor: Tensor, weight: float) -> Tensor:
        if weight == 1.0:
            return tensor
        known, product = self.products.get(name, (None, tensor))
        if known != weight:
            product = tensor * weight
            self.products[name] = weight, product
        return product

    def _of_samples(self, tensor: Tensor) -> Tensor:
        return tensor if self.order is None else tensor.index_select(0, self.order)


Pair = tuple[Tensor, Tensor] | KeysValues


def text_weight(masks: Iterable[Weight], text_shares: Iterable[Weight], gates: Iterable[Gate]) -> TermWeight:
    """What the image prompts leave of the text's query and of its output, in the shape that masks and shares span."""
    taken: dict[Gate, Weight] = dict.fromkeys(Gate, 0.0)
    for mask, share, gate in zip(masks, text_shares, gates, strict=True):
        taken[gate] = taken[gate] + (1.0 - share) * mask

    def left(weight: Weight) -> Weight:
        return (1.0 - weight).clamp_min(0) if isinstance(weight, Tensor) else max(0.0, 1.0 - weight)

    return TermWeight(left(taken[Gate.QUERY]), left(taken[Gate.OUTPUT]))


def equals(weight: Weight, value: float) -> bool:
    """Whether a weight is one number, and this one."""
    return isinstance(weight, float) and weight == value


def times(tensor: Tensor, weight: Weight) -> Tensor:
    """The product; the tensor itself where the weight is 1."""
    return tensor if equals(weight, 1.0) else tensor * weight
