"""Keys and values of a reference U-Net in the self-attention of the U-Net that generates (RefAdGen, Eq. 1).

With m the product mask on the layer's grid and lambda the scale:

    add      out = self(Q) + lambda m * reference(Q)
    blend    out = (1 - lambda m) * self(Q) + lambda m * reference(Q)

where self(Q) = softmax(Q K^T / sqrt d_k) V and reference(Q) = softmax(Q K_ref^T / sqrt d_k) V_ref. `add` with lambda 1 and
m 1 everywhere is the equation as printed: it is what trained projections expect. `blend` keeps the size of the output, which
is what a U-Net expects that was not trained to have a second term.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from ..choices import parse_choice
from .control import Attend
from .plan import samples_alike


class Combine(str, Enum):
    """ADD the reference's attention to the layer's own (Eq. 1), or BLEND from one to the other."""

    ADD = "add"
    BLEND = "blend"


@dataclass(frozen=True)
class FusionControl:
    """How a reference takes part.

    Attributes:
        scale: lambda; 0 = no reference, 1 = as in Eq. 1.
        combine: how it meets the layer's own attention.

    Raises:
        ValueError: a scale that is not finite, one outside 0..1 where it blends, an unknown way to combine.
    """

    scale: float = 1.0
    combine: Combine | str = Combine.ADD

    def __post_init__(self) -> None:
        object.__setattr__(self, "combine", parse_choice(Combine, self.combine, "combine"))
        if not math.isfinite(self.scale):
            raise ValueError(f"scale is {self.scale}, expected a finite number")
        if self.combine is Combine.BLEND and not 0.0 <= self.scale <= 1.0:
            raise ValueError(
                f"scale is {self.scale}, expected 0 (the layer's own attention) to 1 (the reference's) where combine is blend"
            )


@dataclass(frozen=True)
class FusionRows:
    """The query rows that a product mask reaches.

    Attributes:
        rows: (R,) int64, None = all of them.
        weight: m of those rows, (R, 1) in 0..1; the number 1.0 where it is 1 in all of them.
    """

    rows: Tensor | None
    weight: Tensor | float

    @property
    def empty(self) -> bool:
        """Whether no row is reached."""
        return self.rows is not None and len(self.rows) == 0

    def to(self, device: torch.device, dtype: torch.dtype) -> FusionRows:
        """The same rows with their indices on `device` and their weights on it in `dtype`."""
        rows = None if self.rows is None else self.rows.to(device)
        weight = self.weight.to(device, dtype) if isinstance(self.weight, Tensor) else self.weight
        return FusionRows(rows, weight)


def fusion_rows(query_mask: Tensor | None, num_queries: int) -> FusionRows:
    """Which rows of a layer a product mask reaches.

    Args:
        query_mask: (L,) float, 0..1, 1 = product; None = everywhere.
        num_queries: L.

    Raises:
        ValueError: another length.
    """
    if query_mask is None:
        return FusionRows(None, 1.0)
    if query_mask.shape != (num_queries,):
        raise ValueError(f"query mask is {tuple(query_mask.shape)}, expected ({num_queries},)")
    rows = query_mask.nonzero().flatten()
    weight = query_mask[rows]
    return FusionRows(
        None if len(rows) == num_queries else rows,
        1.0 if bool((weight == 1).all()) else weight[:, None],
    )


def fused_attention(
    query: Tensor,
    own: tuple[Tensor, Tensor],
    reference: tuple[Tensor, Tensor],
    control: FusionControl,
    layout: Sequence[FusionRows],
    attend: Attend,
    base: Attend | None = None,
) -> Tensor:
    """Self-attention with the keys and values of a reference U-Net beside the layer's own.

    Args:
        query: (B, L, C), heads joined.
        own: key and value (B, S, C) of the layer itself.
        reference: key and value (B, S_ref, C) of the reference U-Net's layer; S_ref need not be S.
        control: scale and way to combine.
        layout: the rows that are reached, one for the whole batch or one each for samples i, i + len(layout), ...; samples with
            the same object are attended together.
        attend: plain attention.
        base: the layer's own attention, where something else already computes it.

    Returns:
        (B, L, C) in the query's dtype. Rows that are not reached are the layer's own attention's bits, and so are all
        rows at scale 0.

    Raises:
        ValueError: a batch that the layout does not divide, a reference of another width or batch.

    Paper: RefAdGen, Eq. 1, O_AFM = softmax(Q K^T / sqrt d_k) V + softmax(Q K_ref^T / sqrt d_k) V_ref. **Deviation**: the
    scale lambda and the product mask m, which the equation does not have (the paper bounds the product by a mask at the
    U-Net's input alone), and `blend`. K_ref and V_ref are trained projections of the reference U-Net's features (see
    `research.refadgen`), or where there are none its own.
    """
    _check_reference(query, reference)
    parts = list(samples_alike(layout, query.shape[0]))
    out = (base or attend)(query, *own)
    if control.scale == 0.0 or all(part.empty for part in layout):
        return out
    out = out.clone()
    key, value = reference
    for samples, part in parts:
        if not part.empty:
            at = (samples, slice(None) if part.rows is None else part.rows)
            term = attend(query[at], key[samples], value[samples])
            out[at] = _combined(out[at], term, part.weight, control)
    return out


def _combined(own: Tensor, reference: Tensor, weight: Tensor | float, control: FusionControl) -> Tensor:
    """One line of the formula at the head of this file."""
    share = control.scale * weight
    if control.combine is Combine.BLEND:
        own = own * (1.0 - share)
    return own + reference * share


def _check_reference(query: Tensor, reference: tuple[Tensor, Tensor]) -> None:
    for name, tensor in zip(("key", "value"), reference, strict=True):
        if tensor.ndim != 3 or (tensor.shape[0], tensor.shape[2]) != (query.shape[0], query.shape[2]):
            raise ValueError(
                f"the reference's {name} is {tuple(tensor.shape)}, the query is {tuple(query.shape)}: expected "
                f"({query.shape[0]}, reference tokens, {query.shape[2]})"
            )
