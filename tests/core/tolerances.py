"""How far a result may be from its float64 reference, by dtype: written once for every test of pfv_core."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Largest error as a share of the largest reference value. About four times what these sizes were measured to give.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 6e-6, torch.float16: 6e-3, torch.bfloat16: 4e-2}
HALF_DTYPES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALF_DTYPES)


def assert_close(actual: Tensor, expected: Tensor | np.ndarray, dtype: torch.dtype | None = None) -> None:
    """Same shape, finite, and within the tolerance of `dtype` (of `actual` where it is not given)."""
    reference = torch.as_tensor(expected).double()
    assert tuple(actual.shape) == tuple(reference.shape), f"{tuple(actual.shape)} is not {tuple(reference.shape)}"
    assert torch.isfinite(actual).all()
    error = (actual.detach().double() - reference).abs().max().item()
    allowed = TOLERANCE[dtype or actual.dtype] * max(reference.abs().max().item(), 1e-3)
    assert error <= allowed, f"error {error:.3g} is over {allowed:.3g}"
