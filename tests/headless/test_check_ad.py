"""The check of a finished ad finds a single wrong pixel, and compares workflows by what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from headless.ad.check_ad import embedded_prompt, measure_exactness, same_workflow
from pfv_mepa.pfv_core.ad.composite import paste_back


@pytest.fixture
def photo():
    image = Image.new("RGB", (20, 10))
    image.putdata([(x, y, (x * y) % 256) for y in range(10) for x in range(20)])
    return image


@pytest.fixture
def mask():
    image = Image.new("L", (20, 10))
    image.paste(255, (5, 0, 15, 8))  # 10 x 8, touching the upper border
    return image


def test_the_photo_itself_is_exact(photo, mask):
    found = measure_exactness(photo.copy(), photo, mask, erode=0)
    assert (found.inside, found.exact, found.max_difference, found.changed_outside) == (80, 80, 0, 0.0)


def test_erosion_spares_the_images_border(photo, mask):
    assert measure_exactness(photo, photo, mask, erode=2).inside == 6 * 6


def test_erosion_is_that_of_the_composite(photo):
    """Round, at every radius: a corner that points into the product takes a quarter of a disk off it."""
    mask = Image.new("L", photo.size, 255)
    mask.paste(0, (0, 0, 10, 5))
    found = measure_exactness(photo, photo, mask, erode=4)
    opacity = torch.from_numpy(np.asarray(mask) > 0)[None]
    generated, product = torch.zeros(1, 3, 10, 20), torch.ones(1, 3, 10, 20)
    assert found.inside == paste_back(generated, product, opacity, 4, 0)[1].sum()


def test_translucent_pixels_are_not_compared_and_counted_apart(photo, mask):
    mask.paste(153, (9, 2, 11, 4))  # 0.6
    mask.putpixel((7, 2), 254)  # as a mask editor paints it: opaque
    ad = photo.copy()
    ad.paste((200, 200, 200), (9, 2, 11, 4))
    found = measure_exactness(ad, photo, mask, erode=2)
    assert (found.inside, found.exact, found.translucent, found.max_difference) == (36 - 4, 36 - 4, 4, 0)


def test_one_wrong_pixel_inside_is_counted(photo, mask):
    ad = photo.copy()
    r, g, b = ad.getpixel((9, 3))
    ad.putpixel((9, 3), (r, g + 3, b))
    found = measure_exactness(ad, photo, mask, erode=2)
    assert (found.exact, found.max_difference) == (35, 3)


def test_what_changes_outside_and_in_the_rim_is_no_fault(photo, mask):
    ad = Image.new("RGB", photo.size, (200, 200, 200))
    eroded = Image.new("L", photo.size)
    eroded.paste(255, (7, 0, 13, 6))
    ad.paste(photo, mask=eroded)
    found = measure_exactness(ad, photo, mask, erode=2)
    assert (found.inside, found.exact, found.changed_outside) == (36, 36, 1.0)


def test_sizes_must_agree(photo, mask):
    with pytest.raises(ValueError, match=r"ad is \(20, 10\), photo \(20, 10\), product_mask \(10, 20\)"):
        measure_exactness(photo, photo, mask.resize((10, 20)), erode=2)


def test_the_embedded_workflow_is_read_and_its_absence_too(tmp_path, photo):
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}
    text = PngImagePlugin.PngInfo()
    text.add_text("prompt", json.dumps(prompt))
    photo.save(tmp_path / "with.png", pnginfo=text)
    photo.save(tmp_path / "without.png")
    assert embedded_prompt(tmp_path / "with.png") == prompt
    assert embedded_prompt(tmp_path / "without.png") is None


def test_workflows_are_the_same_when_classes_and_inputs_are():
    prompt = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Photo"}}}
    marked = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "is_changed": ["abc"]}}
    other = {"1": {"class_type": "LoadImage", "inputs": {"image": "b.png"}}}
    assert same_workflow(prompt, marked)
    assert not same_workflow(prompt, other)
    assert not same_workflow(prompt, prompt | {"2": other["1"]})
