"""layers: torch's own layers that compute in their input's precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pfv_mepa.pfv_core import layers

from .tolerances import DTYPES, assert_close
from .weights import noise, randomize


@pytest.mark.parametrize("weights", DTYPES)
@pytest.mark.parametrize("values", DTYPES)
def test_the_result_has_the_inputs_dtype_whatever_the_weights_have(weights, values):
    for layer, plain in [
        (layers.Linear(5, 7), nn.Linear(5, 7)),
        (layers.Linear(5, 7, bias=False), nn.Linear(5, 7, bias=False)),
        (layers.LayerNorm(5), nn.LayerNorm(5)),
    ]:
        randomize(layer, seed=1)
        layer.to(weights)
        plain.double().load_state_dict({name: tensor.double() for name, tensor in layer.state_dict().items()})
        tokens = noise(2, 3, 5, seed=2).to(values)
        out = layer(tokens)
        assert out.dtype == values
        assert_close(out, plain(tokens.double()).detach())


def test_at_least_float32_keeps_float64_and_lifts_half_precision():
    found = [layers.at_least_float32(torch.zeros(1, dtype=dtype)).dtype for dtype in (*DTYPES, torch.float64)]
    assert found == [torch.float32, torch.float32, torch.float32, torch.float64]
