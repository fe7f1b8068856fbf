"""find_ground_line, plain_depth, standing_depth."""

from __future__ import annotations

import pytest
import torch

from pfv_mepa.pfv_core.found.depth import hangs, plain_depth, standing_depth
from pfv_mepa.pfv_core.found.line import find_ground_line
from pfv_mepa.pfv_core.found.unsure import UnsureError

from .found_pictures import RED, ellipse, over, plain
from .weights import seeded

TABLE = (0.5, 0.35, 0.2)
SIZE = (100, 120)


def wall(pattern):
    """(3, H, W) of two tones."""
    down, across = torch.arange(SIZE[0])[:, None], torch.arange(SIZE[1])[None]
    second = {
        "plain": down < 0,
        "bands": (down // 10 % 2 == 0) & (across >= 0),
        "stripes": (across // 10 % 2 == 0) & (down >= 0),
        "checks": (down // 10 + across // 10) % 2 == 0,
    }[pattern]
    return plain(*SIZE, (0.4, 0.6, 0.8)) * torch.where(second, 0.7, 1.0)


def on_table(picture, row=66):
    picture = picture.clone()
    picture[:, row:] = torch.tensor(TABLE).view(3, 1, 1)
    return picture


ALL = torch.ones(SIZE, dtype=torch.bool)


@pytest.mark.parametrize("pattern", ["plain", "bands", "stripes", "checks"])
def test_the_line_is_where_everything_changes(pattern):
    found = find_ground_line(on_table(wall(pattern)), ALL)
    assert found.share == pytest.approx(0.66)
    assert found.sure > 0.95


@pytest.mark.parametrize("pattern", ["plain", "bands", "stripes", "checks"])
def test_a_wall_without_ground_is_refused(pattern):
    with pytest.raises(UnsureError, match=r"where the ground begins cannot be told: the best line is 0\.\d\d"):
        find_ground_line(wall(pattern), ALL)


def test_a_gradient_is_no_ground():
    with pytest.raises(UnsureError, match="Set ground_line to at"):
        find_ground_line(plain(*SIZE) * torch.linspace(1, 0.4, SIZE[0])[:, None], ALL)


def test_noise_is_no_ground():
    with pytest.raises(UnsureError, match="sure to"):
        find_ground_line(torch.rand(3, *SIZE, generator=seeded(0)), ALL)


def test_halves_that_disagree_are_refused():
    picture = on_table(wall("plain"))
    picture[:, :, 60:] = on_table(wall("plain"), 50)[:, :, 60:]
    with pytest.raises(UnsureError, match="sure to"):
        find_ground_line(picture, ALL)


def test_what_is_hidden_is_not_looked_at():
    thing = ellipse(SIZE, (0.6, 0.5), (0.35, 0.3)) > 0
    picture = on_table(wall("bands"))
    first = find_ground_line(over(picture, thing.float(), RED), ~thing)
    second = find_ground_line(over(picture, thing.float(), torch.rand(3, *SIZE, generator=seeded(1))), ~thing)
    assert first == second
    assert first.share == pytest.approx(0.66)


def test_a_large_picture_is_looked_at_smaller():
    large = torch.nn.functional.interpolate(on_table(wall("checks"))[None], scale_factor=10)[0]
    found = find_ground_line(large, torch.ones(1000, 1200, dtype=torch.bool))
    assert found.share == pytest.approx(0.66, abs=0.004)


def test_too_little_to_see():
    visible = ALL.clone()
    visible[:60] = False
    with pytest.raises(UnsureError, match=r"is 120x100 pixels .* visible in 40% of the rows: too little"):
        find_ground_line(on_table(wall("plain")), visible)
    with pytest.raises(UnsureError, match=r"is 1x1 pixels"):
        find_ground_line(torch.zeros(3, 1, 1), torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"image is \(3, 100, 120\), visible \(5, 5\)"):
        find_ground_line(wall("plain"), torch.ones(5, 5, dtype=torch.bool))


def test_a_plain_depth_by_hand():
    depth = plain_depth((10, 3), 0.5)
    assert depth.shape == (10, 3)
    assert depth[:5].unique().tolist() == pytest.approx([0.12])
    assert depth[5:, 1].tolist() == pytest.approx([0.27 + 0.73 * share for share in (0.1, 0.3, 0.5, 0.7, 0.9)])
    assert plain_depth((4, 1), 0.375).flatten()[:2].tolist() == pytest.approx(
        [0.12, 0.27]
    )  # a centre on the line is ground
    assert (plain_depth((4, 2), 1.0) == torch.tensor(0.12)).all()
    assert plain_depth((4, 2), 0.0)[:, 0].tolist() == pytest.approx(
        [0.27 + 0.73 * s for s in (0.125, 0.375, 0.625, 0.875)]
    )


@pytest.mark.parametrize("line", [-0.1, 1.1, float("nan")])
def test_lines_outside_the_picture(line):
    with pytest.raises(ValueError, match="expected a share of the height from 0"):
        plain_depth((4, 4), line)


def test_a_product_is_as_near_as_the_ground_under_its_foot():
    product = torch.zeros(10, 6, dtype=torch.bool)
    product[2:8, 2:4] = True
    depth = standing_depth(product, 0.5)
    assert depth[product].unique().tolist() == [plain_depth((10, 6), 0.5)[7, 0].item()]
    assert not depth[~product].any()
    assert not hangs(product, 0.5)


def test_a_product_above_the_line_hangs_before_the_wall():
    product = torch.zeros(10, 6, dtype=torch.bool)
    product[2:4, 2:4] = True
    assert standing_depth(product, 0.5).max() == torch.tensor(0.12)
    assert hangs(product, 0.5)
    product[4, 2] = True  # the last row of the wall
    assert hangs(product, 0.5)
    product[5, 2] = True  # the first row of the ground
    assert not hangs(product, 0.5)


def test_no_product_has_no_depth():
    with pytest.raises(ValueError, match="product_mask is empty: select the product"):
        standing_depth(torch.zeros(4, 4, dtype=torch.bool), 0.5)
