"""What benchmarks time runs: each contestant once, on small shapes. Nothing here looks at a clock."""

from __future__ import annotations

import pytest
import torch

from benchmarks import balance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_case_of_the_balance_is_a_call_of_the_hook(monkeypatch, dtype):
    monkeypatch.setattr("pfv_mepa.nodes.host.slots.optimized_attention", None)  # put back afterwards
    made = {case: contestant() for case, contestant in balance.contestants(128, 8, dtype).items()}
    assert made.keys() == {"plain", *balance.CASES}
    assert all(output.shape == (2, 64, 128) and output.isfinite().all() for output in made.values())
    assert not any(torch.equal(made["plain"], made[case]) for case in balance.CASES)
    assert torch.equal(made["plain"][:, :32], made["text_share 0"][:, :32])  # outside the region, the upper half
    areas = {kind: float(balance.region_of(kind).mean()) for kind in (balance.ROWS, balance.DISC, balance.RAMP)}
    assert areas == pytest.approx(dict.fromkeys(areas, 0.5), abs=0.01)
