"""Where a part lies in the picture that it was cut out of."""

from __future__ import annotations

import pytest
import torch

from pfv_core.region.cut_out_of import corner_in


def picture(channels=4, rows=9, columns=14, seed=1):
    return torch.randn(channels, rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (9, 1), (1, 14), (9, 14)])
def test_every_part_is_found_where_it_was_cut_out(size):
    whole, (height, width) = picture(), size
    for top in range(9 - height + 1):
        for left in range(14 - width + 1):
            assert corner_in(whole, whole[:, top : top + height, left : left + width]) == (top, left)


def test_a_part_that_begins_alike_elsewhere_is_found_where_it_is():
    whole = picture()
    whole[:, 0, 0] = whole[:, 4, 6]
    assert corner_in(whole, whole[:, 4:8, 6:9]) == (4, 6)
    assert corner_in(whole, whole[:, 0:4, 0:3]) == (0, 0)


@pytest.mark.parametrize(
    "part",
    [
        picture(seed=2)[:, :3, :3],
        picture()[:, :3, :3] + 1e-6,
        picture()[:, :3, :3].flip(2),
        picture().roll((2, 3), (1, 2))[:, :4, :5],
        picture()[:3, :3, :3],
        picture(rows=10),
        picture()[:, :3, :3] * float("nan"),
    ],
    ids=["another", "other values", "mirrored", "around the edge", "fewer channels", "larger", "no numbers"],
)
def test_a_part_that_the_picture_does_not_have(part):
    assert corner_in(picture(), part) is None


def test_a_part_that_the_picture_has_twice():
    whole = picture()
    whole[:, 5:8, 9:12] = whole[:, 1:4, 2:5]
    assert corner_in(whole, whole[:, 1:4, 2:5]) is None
    assert corner_in(whole, whole[:, 1:5, 2:5]) == (1, 2)
    assert corner_in(torch.zeros(4, 9, 14), torch.zeros(4, 3, 3)) is None
    assert corner_in(torch.zeros(4, 9, 14), torch.zeros(4, 9, 14)) == (0, 0)


def test_a_spot_in_a_flat_picture_is_looked_for_where_the_spot_is():
    """And not at every one of its flat pixels, each compared with the whole part."""
    whole = torch.zeros(4, 64, 64)
    whole[:, 20:30, 20:30] = picture(4, 10, 10)
    compared = []
    with pytest.MonkeyPatch.context() as patch:
        equal = torch.equal
        patch.setattr(torch, "equal", lambda *both: compared.append(1) or equal(*both))
        assert corner_in(whole, whole[:, 10:42, 12:40]) == (10, 12)
    assert len(compared) == 1
