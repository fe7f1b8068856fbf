"""Random masks: each kind is what its name says, and comes from its generator alone."""

from __future__ import annotations

import pytest
import torch

from lab.train.data import seeded
from lab.train.masks import MaskKind, pick, random_mask

SHAPES = [kind for kind in MaskKind if kind not in (MaskKind.FULL, MaskKind.NONE)]


def draws(kind: MaskKind | str, count: int = 40, height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.stack([random_mask(kind, height, width, seeded(0, number, "mask")) for number in range(count)])


@pytest.mark.parametrize("kind", SHAPES)
def test_covers_a_part(kind):
    masks = draws(kind)
    shares = masks.float().mean((1, 2))
    assert masks.dtype == torch.bool
    assert masks.shape == (40, 48, 64)
    assert bool((shares > 0).all())
    assert bool((shares < 0.95).all())
    assert float(shares.std()) > 0.02


@pytest.mark.parametrize("kind", MaskKind)
def test_same_generator_same_mask(kind):
    assert torch.equal(draws(kind, 3), draws(kind, 3))
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    draws(kind, 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_full_and_none():
    assert bool(random_mask("full", 4, 6, seeded(0, 0, "mask")).all())
    assert not bool(random_mask("none", 4, 6, seeded(0, 0, "mask")).any())


def test_rectangle_is_its_bounding_box():
    for mask in draws("rectangle"):
        rows, columns = mask.any(1), mask.any(0)
        assert torch.equal(mask, rows[:, None] & columns[None])


def test_half_plane_and_its_rest_are_convex_along_lines():
    """Along every row and column a straight border is crossed at most once."""
    for mask in draws("half_plane"):
        for lines in (mask, mask.T):
            assert int((lines[:, 1:] != lines[:, :-1]).sum(1).max()) <= 1


def test_patches_are_cells_of_the_grid():
    for number in range(10):
        mask = random_mask("patches", 32, 32, seeded(1, number, "mask"), grid=4)
        cells = mask.view(4, 8, 4, 8).transpose(1, 2).flatten(2).float().mean(2)
        assert bool(((cells == 0) | (cells == 1)).all())


@pytest.mark.parametrize("kind", ["ellipse", "blob"])
def test_round_kinds_hold_their_centre(kind):
    for mask in draws(kind):
        rows, columns = mask.nonzero().float().mean(0).round().long().tolist()
        assert bool(mask[rows, columns])


def test_strokes_are_connected():
    for mask in draws("strokes", 10):
        start = mask.nonzero()[0]
        reached = torch.zeros_like(mask)
        reached[start[0], start[1]] = True
        while True:
            grown = torch.nn.functional.max_pool2d(reached[None].float(), 3, 1, 1)[0].bool() & mask
            if torch.equal(grown, reached):
                break
            reached = grown
        assert torch.equal(reached, mask)


def test_unknown_kind():
    with pytest.raises(ValueError, match="kind is 'star', expected one of"):
        random_mask("star", 4, 4, seeded(0, 0, "mask"))


def test_pick_follows_the_weights():
    generator = seeded(0, 0, "pick")
    picked = [pick({"one": 1, "three": 3, "never": 0}, generator) for _ in range(800)]
    assert "never" not in picked
    assert 140 < picked.count("one") < 260
