"""The steps of finding: colours, the ground of a border, the least cut, what is enclosed, the soft edge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from pfv_mepa.pfv_core.found.cut import CHEAPEST, edge_costs, edgeless, enclosed, least_cut, without_dust
from pfv_mepa.pfv_core.found.edge import TILE, soft_edge
from pfv_mepa.pfv_core.found.ground import border, distance_to, distance_to_ground, shrunk, to_lab
from pfv_mepa.pfv_core.found.preview import LINE, cut_out_preview, ground_preview

from .found_pictures import RED, ellipse, over, plain

ROOT = Path(__file__).resolve().parents[2]


def test_lab_of_colours_that_everybody_knows():
    picture = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.5, 0.5, 0.5]]).T.view(3, 1, 4)
    expected = [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.5324, 0.8009, 0.6720], [0.5339, 0.0, 0.0]]
    assert to_lab(picture)[0] == pytest.approx(np.array(expected), abs=2e-4)


def test_a_border_has_its_sides():
    assert border((50, 100), ("top",)).sum() == 3 * 100
    assert border((50, 100), ("left", "right")).sum() == 2 * 3 * 50
    assert not border((50, 100), ("left",))[:, 3:].any()
    assert not border((50, 100), ("bottom",))[:47].any()


def test_a_picture_is_averaged_down_and_never_up():
    picture = torch.rand(3, 40, 60)
    assert shrunk(picture, 60) is picture
    assert torch.equal(shrunk(picture, 30), torch.nn.functional.avg_pool2d(picture[None], 2)[0])
    assert shrunk(picture, 16).shape == (3, 11, 16)


def test_the_distance_to_colours_counts_their_place_as_told():
    lab = np.zeros((1, 11, 3), np.float32)
    lab[0, 10, 0] = 0.3
    known = np.zeros((1, 11), bool)
    known[0, 0] = True
    assert distance_to(lab, known, (0.0, 0.0))[0, [0, 5, 10]].tolist() == pytest.approx([0, 0, 0.3])
    assert distance_to(lab, known, (0.0, 1.1))[0, [0, 5, 10]].tolist() == pytest.approx([0, 0.5, (0.09 + 1) ** 0.5])


@pytest.mark.parametrize("flushed", [False, True])
def test_the_distance_holds_where_a_process_takes_denormals_for_zero(flushed):
    # scipy's tree of these colours, many of them 0, ends such a process: it is asked from another one.
    code = f"""
import sys
sys.path.append({str(ROOT)!r})
import numpy as np
import torch
from pfv_core.found.ground import distance_to
torch.set_flush_denormal({flushed})
lab = (np.random.default_rng(0).integers(0, 4, (60, 50, 3)) / 4).astype(np.float32)
lab[20:40, 20:30, 0] = 1.25
known = np.ones((60, 50), bool)
known[20:40, 20:30] = False
print(distance_to(lab, known, (0, 0))[[10, 50, 25]][:, 25].tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-400:]
    assert json.loads(done.stdout) == pytest.approx([0, 0, 0.5])


def test_ground_that_darkens_smoothly_is_ground_and_what_darkens_at_an_edge_is_not():
    shade = torch.linspace(0, 1, 60).minimum(torch.linspace(0, 1, 60).flip(0))  # darkest in the middle
    smooth = to_lab(plain(40, 60) * (1 - 0.8 * shade))
    known = border((40, 60), ("left", "right"))
    assert distance_to_ground(smooth, known).max() < 0.03
    sharp = plain(40, 60)
    sharp[:, :, 25:35] *= 0.5
    assert distance_to_ground(to_lab(sharp), known)[20, 30] > 0.3


def test_where_lightness_does_not_count_the_tint_does_in_the_units_of_colour():
    lab = np.zeros((20, 101, 3), np.float32)
    lab[..., 0] = np.linspace(0.84, 0.34, 101)
    lab[..., 1] = np.linspace(0, 0.2, 101)
    far = distance_to_ground(lab, border((20, 101), ("left",)))
    assert far[10, 100] == pytest.approx(0.2, abs=0.01)  # 0.54 with its lightness


def test_an_outline_is_cheap_at_edges_alone():
    picture = plain(10, 12)
    picture[:, :, 6:] = 0.1
    down, across = edge_costs(to_lab(picture))
    assert (down == 1).all()
    assert across[:, 5] == pytest.approx(np.full(10, CHEAPEST), abs=1e-4)
    assert (np.delete(across, 5, 1) == 1).all()
    turned, _ = edge_costs(to_lab(picture.mT))
    assert np.array_equal(turned, across.T)


@pytest.mark.parametrize("seed", range(3))
def test_the_cut_is_the_least_one(seed):
    """Against scipy's maximum flow: the sums are equal, so no set of pixels is cheaper."""
    generator = np.random.default_rng(seed)
    against = generator.integers(-9, 10, (9, 11)).astype(np.float32)
    costs = tuple(generator.integers(1, 8, (9, 11)).astype(np.float32) for _ in range(2))
    taken = least_cut(against / 10, tuple(cost / 10 for cost in costs), 1.0)

    def total(mask):
        rim = costs[0][:-1][mask[1:] != mask[:-1]].sum() + costs[1][:, :-1][mask[:, 1:] != mask[:, :-1]].sum()
        return against[mask].sum() + rim

    assert total(taken) == pytest.approx(_least_by_flow(against, costs), abs=0.5)


def _least_by_flow(against, costs):
    """The least sum, by the theorem of maximum flow and minimum cut."""
    number = np.arange(against.size).reshape(against.shape)
    source, sink = against.size, against.size + 1
    edges = [
        (source, place, -value) if value < 0 else (place, sink, value)
        for place, value in zip(number.ravel(), against.ravel(), strict=True)
    ]
    pairs = [(number[:-1], number[1:], costs[0][:-1]), (number[:, :-1], number[:, 1:], costs[1][:, :-1])]
    for one, other, cost in pairs:
        for ends in ((one, other), (other, one)):
            edges += list(zip(*(end.ravel() for end in ends), cost.ravel(), strict=True))
    start, end, value = (np.array(column, np.int32) for column in zip(*edges, strict=True))  # scipy 1.11 takes no other
    capacity = csr_array((value, (start, end)), shape=(against.size + 2,) * 2)
    return against[against < 0].sum() + maximum_flow(capacity, source, sink).flow_value


def test_enclosed_is_what_lies_between():
    mask = np.array([[0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1]], bool)
    assert enclosed(mask).astype(int).tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]


def test_dust_is_left_out_and_parts_are_counted():
    mask = np.zeros((20, 20), bool)
    mask[:10, :10] = True
    mask[15:17, 15:17] = True
    mask[19, 0] = True
    kept, parts = without_dust(mask, 0.04)
    assert (kept.sum(), parts) == (104, 2)
    kept, parts = without_dust(mask, 0.05)
    assert (kept.sum(), parts) == (100, 1)
    assert without_dust(np.zeros((3, 3), bool), 0.1)[1] == 0


def test_the_edge_is_that_of_the_picture_not_of_the_coarse_mask():
    truth = ellipse((160, 240), (0.5, 0.5), (0.3, 0.2))
    coarse = shrunk(truth[None], 60)[0] > 0.3  # a pixel of 4 too large in places
    found = soft_edge(over(plain(160, 240), truth, RED), coarse.numpy())
    assert (found - truth).abs().max() <= 0.04  # what is nearer than this to 0 or 1 is taken for noise


def test_tiles_do_not_show():
    size = (TILE + 70, TILE + 90)
    truth = ellipse(size, (0.5, 0.5), (0.45, 0.45))
    picture = over(plain(*size), truth, RED)
    found = soft_edge(picture, (shrunk(truth[None], 192)[0] > 0.5).numpy())
    assert (found - truth).abs().max() <= 0.04  # what is nearer than this to 0 or 1 is taken for noise


def test_an_edge_beside_a_tiles_rim_is_soft_on_both_sides_of_it():
    opacity = torch.zeros(40, 2 * TILE)
    opacity[:, :TILE], opacity[:, TILE] = 1, 0.4
    found = soft_edge(over(plain(40, 2 * TILE), opacity, RED), (opacity > 0.5).numpy())
    assert (found - opacity).abs().max() < 1e-4


def test_where_product_and_ground_are_alike_the_outline_stays():
    truth = ellipse((60, 60), (0.5, 0.5), (0.3, 0.3)) > 0.5
    assert torch.equal(soft_edge(plain(60, 60), truth.numpy()), truth.float())


def test_a_mask_that_is_all_or_nothing_stays():
    for value in (0.0, 1.0):
        mask = torch.full((30, 30), value)
        assert torch.equal(soft_edge(torch.rand(3, 30, 30), mask.numpy() > 0.5), mask)


def test_a_cut_out_is_shown_on_checks():
    opacity = torch.zeros(1, 40, 48)
    opacity[:, 10:20, 10:20] = 1
    shown = cut_out_preview(plain(40, 48, RED)[None], opacity)
    assert shown.shape == (1, 3, 40, 48)
    assert shown[0, :, 15, 15].tolist() == pytest.approx(RED)
    assert [round(float(shown[0, 0, row, column]), 2) for row, column in ((0, 0), (0, 16), (16, 0), (16, 32))] == [
        0.55,
        0.8,
        0.8,
        0.8,
    ]
    assert cut_out_preview(torch.zeros(1, 3, 3000, 10), torch.zeros(1, 3000, 10)).shape == (1, 3, 1000, 4)


def test_a_ground_line_is_drawn_beside_the_depth():
    shown = ground_preview(torch.zeros(1, 3, 100, 60), 0.66, torch.full((1, 3, 50, 50), 0.4))
    assert shown.shape == (1, 3, 100, 120)
    assert shown[0, :, 66, 30].tolist() == pytest.approx(LINE)
    assert not shown[0, :, 65, 30].any()
    assert (shown[0, :, :, 60:] - 0.4).abs().max() < 1e-6
    assert ground_preview(torch.zeros(1, 3, 10, 10), 1.0, torch.zeros(1, 3, 10, 10))[0, 0, 9, 0] == pytest.approx(
        LINE[0]
    )


def test_the_share_of_an_outline_that_is_no_edge():
    lab = np.zeros((40, 60, 3), np.float32)
    lab[10:30, 15:45, 0] = 1
    mask, nowhere = lab[..., 0] > 0, np.zeros((40, 60), bool)
    assert edgeless(lab, mask, nowhere) == 0
    shorter = mask.copy()
    shorter[:, 35:] = False  # its right side, 20 of 80 pixels, lies within what has one colour
    assert edgeless(lab, shorter, nowhere) == pytest.approx(20 / 80, abs=0.03)
    assert edgeless(lab, shorter, mask & ~shorter) == 0
    assert edgeless(lab, nowhere, nowhere) == 0
