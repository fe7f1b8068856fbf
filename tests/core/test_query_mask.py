"""query_mask: a region on the grid of every cross-attention (Eq. 5)."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.attention.query_mask import frame_matches, layer_grid, query_mask

from . import reference
from .weights import ramp

SIDES = range(512, 1537, 8)


def rows_of(mask: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, L) -> (B, rows, columns)."""
    return mask.view(-1, *grid)


def test_layer_grid_is_the_shape_that_the_strided_convolutions_give_at_every_size():
    """All 129 x 129 sizes from 512 to 1536 in steps of 8, against the shape formula of a stride-2 convolution."""
    halved = {side: reference.strided_conv_length(side // 8) for side in SIDES}
    quartered = {side: reference.strided_conv_length(length) for side, length in halved.items()}
    compared = 0
    for height in SIDES:
        for width in SIDES:
            assert layer_grid(height, width, 0) == (height // 8, width // 8)
            assert layer_grid(height, width, 1) == (halved[height], halved[width])
            assert layer_grid(height, width, 2) == (quartered[height], quartered[width])
            compared += 1
    assert compared == 16_641


def test_the_shape_formula_is_that_of_a_real_convolution():
    conv = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1)
    for length in range(1, 40):
        out = conv(torch.zeros(1, 1, length, 7))
        assert tuple(out.shape[2:]) == (reference.strided_conv_length(length), 4)


def test_a_grid_guessed_from_the_number_of_queries_is_wrong_at_345_sizes():
    """Why the grid is never guessed: this is the formula that packs use which know the latent's aspect alone."""

    def guess(height: int, width: int, num_queries: int) -> tuple[int, int]:
        rows = int(height / (height * width / num_queries) ** 0.5)
        rows += num_queries % rows != 0
        return rows, num_queries // rows

    wrong = set()
    for height in SIDES:
        for width in SIDES:
            for level in (1, 2):
                rows, columns = layer_grid(height, width, level)
                if guess(height // 8, width // 8, rows * columns) != (rows, columns):
                    wrong.add((height, width))
    assert len(wrong) == 345
    assert layer_grid(624, 1200, 2) == (20, 38)  # next to the link ad of 1200x628 pixels
    assert guess(78, 150, 20 * 38) == (19, 40)


def test_ones_are_exactly_one_and_zeros_exactly_zero_at_odd_sizes_and_coprime_resolutions():
    rng = random.Random(0)
    for _ in range(150):
        latent = (rng.randint(1, 80), rng.randint(1, 80))
        grid = layer_grid(8 * latent[0], 8 * latent[1], rng.randint(0, 3))
        if rng.random() < 0.3:
            grid = (rng.randint(1, 40), rng.randint(1, 40))
        size = (rng.choice([1, 7, 64, 97, 211, 509]), rng.choice([1, 11, 100, 101, 307]))
        assert torch.equal(query_mask(torch.ones(1, *size), grid, latent), torch.ones(1, grid[0] * grid[1]).double())
        assert query_mask(torch.zeros(1, *size), grid, latent).abs().max() == 0.0


def test_values_by_hand_row_by_row():
    region = torch.zeros(1, 16, 24)
    region[0, :8, :12] = 1.0  # the upper left quarter, on a 2x3 latent whose first level has 1x2 cells
    assert query_mask(region, (2, 3), (2, 3)).tolist() == [[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]]
    assert query_mask(region, (1, 2), (2, 3)).tolist() == [[0.375, 0.0]]  # the second cell is one latent pixel short


def test_the_last_cell_of_an_odd_size_is_short():
    region = torch.zeros(1, 5, 1)
    region[0, 4] = 1.0
    assert query_mask(region, (3, 1), (5, 1)).tolist() == [[0.0, 0.0, 1.0]]  # 2 + 2 + 1 latent rows
    assert query_mask(region, (2, 1), (5, 1)).tolist() == [[0.0, 1.0]]  # 4 + 1
    region[0, 4], region[0, 3] = 0.0, 1.0
    assert query_mask(region, (3, 1), (5, 1)).tolist() == [[0.0, 0.5, 0.0]]
    assert query_mask(region, (2, 1), (5, 1)).tolist() == [[0.25, 0.0]]


def test_a_grid_that_no_halving_gives_divides_the_frame_evenly():
    region = ramp(1, 6, 1, low=0.0, high=1.0)
    expected = [[region[0, 2 * row : 2 * row + 2].mean().item() for row in range(3)]]
    assert query_mask(region, (3, 1), (32, 1))[0].tolist() == pytest.approx(expected[0])


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize(("height", "width"), [(1024, 1024), (1200, 624), (520, 1528), (1096, 832)])
def test_half_a_frame_lands_on_the_right_rows_and_columns(height, width, level):
    latent, grid = (height // 8, width // 8), layer_grid(height, width, level)
    upper = torch.zeros(1, height, width)
    upper[:, : height // 2] = 1.0
    rows = rows_of(query_mask(upper, grid, latent), grid)[0]
    whole = (height // 2) // (8 << level)
    assert rows[:whole].min() == 1.0
    assert rows[whole + 1 :].max() == 0.0
    assert ((rows[whole] >= 0.0) & (rows[whole] <= 1.0)).all()
    left = torch.zeros(1, height, width)
    left[:, :, : width // 2] = 1.0
    columns = rows_of(query_mask(left, grid, latent), grid)[0].T
    whole = (width // 2) // (8 << level)
    assert columns[:whole].min() == 1.0
    assert columns[whole + 1 :].max() == 0.0


def test_shares_are_those_of_exact_integration():
    rng = np.random.default_rng(1)
    choose = random.Random(1)
    for _ in range(60):
        latent = (choose.randint(1, 24), choose.randint(1, 24))
        grid = layer_grid(8 * latent[0], 8 * latent[1], choose.randint(0, 3))
        if choose.random() < 0.25:
            grid = (choose.randint(1, 9), choose.randint(1, 9))
        region = rng.integers(0, 2, (choose.randint(1, 23), choose.randint(1, 23))).astype(float)
        if choose.random() < 0.5:
            region = rng.random(region.shape)
        halvings = reference.halvings(latent, grid)
        edges = [reference.cell_edges(cells, length, halvings) for cells, length in zip(grid, latent, strict=True)]
        expected = reference.query_mask(region, *edges)
        actual = query_mask(torch.from_numpy(region)[None], grid, latent)
        assert actual.shape == (1, grid[0] * grid[1])
        assert actual.dtype == torch.float64
        assert np.abs(rows_of(actual, grid)[0].numpy() - expected).max() < 1e-13, (latent, grid, region.shape)


def test_a_stripe_thinner_than_a_cell_counts_for_what_it_covers():
    region = torch.zeros(1, 1024, 1024)
    region[:, 500:512] = 1.0
    for level in (1, 2):
        grid = layer_grid(1024, 1024, level)
        assert query_mask(region, grid, (128, 128)).mean().item() == 12 / 1024


def test_area_is_kept_by_whole_cells():
    region = torch.rand(1, 64, 96, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for grid in [(8, 12), (4, 6), (2, 3)]:
        assert query_mask(region, grid, (8, 12)).mean().item() == pytest.approx(region.mean().item(), abs=1e-12)


def test_batch_is_per_item_and_dtypes_agree():
    region = torch.rand(3, 37, 53, generator=torch.Generator().manual_seed(3))
    together = query_mask(region, (5, 6), (9, 12))
    for item in range(3):
        assert torch.equal(together[item], query_mask(region[item : item + 1], (5, 6), (9, 12))[0])
    for dtype in (torch.float16, torch.bfloat16):
        half = region.to(dtype)
        assert torch.equal(query_mask(half, (5, 6), (9, 12)), query_mask(half.double(), (5, 6), (9, 12)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1020, 1024, 1), "image is 1020x1024 pixels, expected multiples of 8"),
        ((1024, 0, 1), "image is 1024x0 pixels, expected multiples of 8"),
        ((1024, 1024, -1), "level is -1, expected 0 or more"),
    ],
)
def test_sizes_without_a_grid_are_refused_with_their_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        layer_grid(*arguments)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (torch.ones(4, 4), r"region is \(4, 4\), expected \(B, H, W\)"),
        (torch.full((1, 4, 4), 1.5), r"region spans 1.5..1.5, expected finite values from 0 to 1"),
        (torch.full((1, 4, 4), -0.5), r"region spans -0.5..-0.5, expected finite values from 0 to 1"),
        (torch.full((1, 4, 4), float("nan")), r"region spans nan..nan, expected finite values from 0 to 1"),
    ],
)
def test_a_wrong_region_is_refused_with_its_numbers(region, message):
    with pytest.raises(ValueError, match=message):
        query_mask(region, (2, 2), (4, 4))


@pytest.mark.parametrize(
    ("region_size", "latent_size", "matches"),
    [
        ((1024, 1024), (128, 128), True),
        ((628, 1200), (78, 150), True),  # an image of 628 px is sampled at 624
        ((64, 64), (128, 128), True),
        ((100, 1000), (13, 126), True),
        ((512, 1024), (128, 128), False),
        ((1024, 1024), (78, 150), False),
        ((624, 1200), (150, 78), False),
    ],
)
def test_a_region_of_another_shape_than_the_frame_is_noticed(region_size, latent_size, matches):
    assert frame_matches(region_size, latent_size) is matches
