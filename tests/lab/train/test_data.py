"""Which sample a step sees, and which none ever does."""

from __future__ import annotations

import pickle

import pytest
import torch

from lab.train.data import DataError, Only, Order, Without, check_length, held_out, positions, seeded


class Numbers:
    """A dataset whose samples are their numbers."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def sample(self, index, generator):
        return range(self.length)[index]


def test_every_epoch_has_every_sample_once():
    order = Order(7, seed=3)
    epochs = [[order.index(position) for position in range(7 * epoch, 7 * epoch + 7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_order_has_no_memory():
    order = Order(7, seed=3)
    forwards = [order.index(position) for position in range(30)]
    assert forwards[::-1] == [order.index(position) for position in range(29, -1, -1)]
    assert forwards != [Order(7, seed=4).index(position) for position in range(30)]


def test_processes_share_a_step():
    """Two processes with batches of 3 take together what one with a batch of 6 takes."""
    together = [list(positions(step, 6)) for step in range(4)]
    shared = [[*positions(step, 3, 0, 2), *positions(step, 3, 1, 2)] for step in range(4)]
    assert together == shared


def test_too_small():
    check_length(8, 4, 2)
    with pytest.raises(
        DataError, match=r"there are 7 samples to train on, a batch takes 4 on each of 2 processes.*to 3 or less"
    ):
        check_length(7, 4, 2)


def test_purposes_do_not_disturb_each_other():
    numbers = [torch.rand(3, generator=seeded(*key)) for key in ((0, 1, "a"), (0, 1, "b"), (0, 2, "a"), (1, 1, "a"))]
    assert len({tuple(number.tolist()) for number in numbers}) == 4


def test_an_order_takes_4_bytes_a_sample_and_none_of_them_to_a_worker():
    order = Order(100_000, seed=0)
    order.index(0)
    assert order._shuffle.element_size() == 4
    again = pickle.loads(pickle.dumps(order))
    assert len(pickle.dumps(order)) < 200
    assert [again.index(position) for position in (0, 99_999)] == [order.index(position) for position in (0, 99_999)]


def test_held_out_and_trained_are_the_dataset():
    numbers = held_out(20, 6, seed=3)
    assert numbers == held_out(20, 6, seed=3) == sorted(numbers)
    assert numbers != held_out(20, 6, seed=4)
    shown, trained = Only(Numbers(20), numbers), Without(Numbers(20), numbers)
    assert (len(shown), len(trained)) == (6, 14)
    both = [[part.sample(index, None) for index in range(len(part))] for part in (shown, trained)]
    assert both[0] == numbers
    assert both[1] == [number for number in range(20) if number not in numbers]


@pytest.mark.parametrize("left_out", [[], [0], [0, 1, 2], [19], [3, 4, 9]])
def test_without_passes_over_what_is_left_out(left_out):
    trained = Without(Numbers(20), left_out)
    found = [trained.sample(index, None) for index in range(len(trained))]
    assert found == [number for number in range(20) if number not in left_out]


def test_too_few_to_hold_out():
    with pytest.raises(DataError, match="the dataset has 4 samples, validation_images holds out 4: add images"):
        held_out(4, 4, seed=0)
    assert held_out(4, 0, seed=0) == []
