"""Linear and LayerNorm that compute in the precision of their input, whatever precision their weights are kept in.

The default `operations` of the adapter's modules; a host hands in its own layers, which do the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """nn.Linear whose weights follow the input's dtype and device."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """(..., in_features) -> (..., out_features)."""
        return F.linear(input, self.weight.to(input), None if self.bias is None else self.bias.to(input))


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm whose weights follow the input's dtype and device."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Over the last axis."""
        return F.layer_norm(input, self.normalized_shape, self.weight.to(input), self.bias.to(input), self.eps)


def at_least_float32(values: Tensor) -> Tensor:
    """Half precision -> float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
