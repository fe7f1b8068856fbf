"""The count of a saved ad finds a single wrong pixel, and counts inside what the composite node counts inside."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from pfv_mepa.pfv_core.ad import file_exactness
from pfv_mepa.pfv_core.ad.composite import paste_back
from pfv_mepa.pfv_core.ad.file_exactness import FileExactness, measure_file

from . import reference

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def photo():
    y, x = np.mgrid[:10, :20]
    return np.stack([x, y, x * y % 256], -1).astype(np.uint8)


@pytest.fixture
def mask():
    mask = np.zeros((10, 20), np.uint8)
    mask[:8, 5:15] = 255  # touching the upper border
    return mask


def test_the_photo_itself_is_exact(photo, mask):
    assert measure_file(photo.copy(), photo, mask, 0) == FileExactness(80, 80, 0, 0.0, 0)


def test_erosion_spares_the_images_border(photo, mask):
    assert measure_file(photo, photo, mask, 2).inside == 6 * 6


def test_erosion_is_that_of_the_composite(photo):
    """Round, at every radius: a corner that points into the product takes a quarter of a disk off it."""
    mask = np.full((10, 20), 255, np.uint8)
    mask[:5, :10] = 0
    generated, product = torch.zeros(1, 3, 10, 20), torch.ones(1, 3, 10, 20)
    exact = paste_back(generated, product, torch.from_numpy(mask > 0)[None], 4, 0)[1]
    assert measure_file(photo, photo, mask, 4).inside == exact.sum() > 0


def test_translucent_pixels_are_not_compared_and_counted_apart(photo, mask):
    mask[2:4, 9:11] = 153  # 0.6
    mask[2, 7] = 254  # as a mask editor paints it: opaque
    mask[9, 0] = 1  # as it clears it: nothing
    ad = photo.copy()
    ad[2:4, 9:11] = 200
    found = measure_file(ad, photo, mask, 2)
    assert (found.inside, found.exact, found.translucent, found.max_difference) == (36 - 4, 36 - 4, 4, 0)


@pytest.mark.parametrize("channel", range(3))
@pytest.mark.parametrize("step", [-3, 3])
def test_one_wrong_value_inside_is_counted(photo, mask, channel, step):
    ad = photo.copy()
    photo[3, 9, channel] = 100
    ad[3, 9, channel] = 100 + step
    found = measure_file(ad, photo, mask, 2)
    assert (found.exact, found.max_difference) == (35, 3)


def test_what_changes_outside_and_in_the_rim_is_no_fault(photo, mask):
    ad = np.full_like(photo, 200)
    ad[:6, 7:13] = photo[:6, 7:13]
    found = measure_file(ad, photo, mask, 2)
    assert (found.inside, found.exact, found.changed_outside) == (36, 36, 1.0)
    ad[9, :5] = photo[9, :5]
    assert measure_file(ad, photo, mask, 2).changed_outside == 115 / 120


def test_sizes_must_agree(photo, mask):
    with pytest.raises(ValueError, match="the ad is 20x10, the photo 20x10, its mask 10x20: expected one size"):
        measure_file(photo, photo, mask.T, 2)
    with pytest.raises(ValueError, match="the ad is 20x9, the photo 20x10, its mask 20x10"):
        measure_file(photo[:9], photo, mask, 2)


def slowly(ad, photo, alpha, erode) -> FileExactness:
    """The same, pixel by pixel."""
    height, width = alpha.shape
    opacity = [[0 if value <= 1 else 1 if value >= 254 else value / 255 for value in row] for row in alpha.tolist()]
    core = reference.core(np.array(opacity) > 0.1, erode)
    inside, differences, outside = 0, [], []
    for y in range(height):
        for x in range(width):
            difference = max(abs(int(one) - int(other)) for one, other in zip(ad[y, x], photo[y, x], strict=True))
            if opacity[y][x] == 1 and core[y, x]:
                inside += 1
                differences.append(difference)
            elif opacity[y][x] == 0:
                outside.append(difference)
    translucent = sum(0 < value < 1 for row in opacity for value in row)
    changed = sum(each > 0 for each in outside) / len(outside) if outside else 0.0
    return FileExactness(inside, differences.count(0), max(differences, default=0), changed, translucent)


@pytest.mark.parametrize("strip", [1, 1 << 20])
def test_it_is_what_counting_pixel_by_pixel_gives(monkeypatch, strip):
    monkeypatch.setattr(file_exactness, "STRIP_BYTES", strip)
    choose, counted = np.random.default_rng(7), 0
    for number in range(60):
        height, width = choose.integers(1, 16, 2)
        alpha = choose.choice(
            [0, 1, 2, 25, 26, 128, 253, 254, 255], (height, width), p=[0.02] * 5 + [0.1] * 2 + [0.2, 0.5]
        )
        if number % 3 == 0:
            alpha[choose.integers(0, height) :] = 0
        photo = choose.integers(0, 256, (height, width, 3)).astype(np.uint8)
        ad = np.where(choose.random((height, width, 1)) < 0.3, choose.integers(0, 256, photo.shape), photo).astype(
            np.uint8
        )
        erode = int(choose.choice([0, 1, 2, 5, 40]))
        found = measure_file(ad, photo, alpha.astype(np.uint8), erode)
        assert found == slowly(ad, photo, alpha, erode)
        counted += found.inside
    assert counted > 300


def test_nothing_and_all_of_the_picture_are_counted_too(photo, mask):
    assert measure_file(photo, photo, mask * 0, 2) == FileExactness(0, 0, 0, 0.0, 0)
    assert measure_file(photo, photo, mask * 0 + 255, 2) == FileExactness(200, 200, 0, 0.0, 0)


def test_the_numbers_are_plain_ones_for_a_file_of_json(photo, mask):
    mask[2:4, 9:11] = 153
    found = asdict(measure_file(photo, photo[::-1].copy(), mask, 2))
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("erode", [2, 32, 128])
def test_memory_stays_below_eleven_bytes_a_pixel(erode):
    """A strip at a time: 4096 x 4096 pixels take 176 MB above the pictures themselves. The distances take four bytes a pixel."""
    side = 1024
    place = np.arange(side)
    alpha = np.where(np.hypot(place[:, None] - 512, place - 512) < 500, 255, 0).astype(np.uint8)
    photo = np.zeros((side, side, 3), np.uint8)
    tracemalloc.start()
    measure_file(photo, photo, alpha, erode)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 11 * side**2 + 4 * file_exactness.STRIP_BYTES


def test_it_needs_no_torch():
    code = "import sys, pfv_core.ad.file_exactness; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
