"""Operators, waits, and bytes."""

from __future__ import annotations

import torch

from benchmarks.held import held_bytes, peak_bytes
from benchmarks.operators import count_operators

CPU = torch.device("cpu")


def test_views_are_no_launches():
    x = torch.randn(2, 8, 4)
    count = count_operators(lambda: (x.view(2, 32)[:, 3:].transpose(0, 1), x.expand(2, 8, 4).unflatten(1, (2, 4))))
    assert (count.operators, count.syncs) == ([], 0)


def test_each_operator_counts_once():
    x = torch.randn(2, 8, 4)
    count = count_operators(lambda: x.index_select(1, torch.arange(3)) + 1)
    assert count.operators == ["arange", "index_select", "add"]


def test_reading_a_number_is_a_wait():
    x = torch.randn(4)
    count = count_operators(lambda: (x[0].item(), float(x[1]), x.nonzero()))
    assert count.syncs == 3
    assert count.operators == ["nonzero"]


def test_peak_counts_what_is_held_at_once(tmp_path):
    file = tmp_path / "no-weights"
    file.write_bytes(b"1")

    def three_at_once():
        first = torch.zeros(1000, 250)  # 1 MB
        second = first + 1
        del first
        third = second + 1
        return second + third

    assert peak_bytes(three_at_once, CPU, file) == 3_000_000


def test_held_counts_each_storage_once_wherever_it_hides(tmp_path):
    file = tmp_path / "no-weights"
    shared, closed_over = torch.zeros(1000), torch.zeros(500, dtype=torch.bfloat16)

    class Hook:
        def __init__(self):
            self.cache = {"key": (shared[:10], shared[10:])}
            self.callback = lambda: closed_over

    assert held_bytes([Hook(), shared], CPU, file) == {torch.float32: 4000, torch.bfloat16: 1000}
    assert not held_bytes([Hook()], torch.device("meta"), file)
