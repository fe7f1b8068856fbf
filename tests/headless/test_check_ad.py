"""The check of a finished ad finds a single wrong pixel, and compares workflows by what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from headless.ad.check_ad import embedded_prompt, measure_ad, same_workflow
from pfv_core.ad.file_exactness import FileExactness


@pytest.fixture
def photo():
    y, x = np.mgrid[:10, :20]
    return Image.fromarray(np.stack([x, y, x * y % 256], -1).astype(np.uint8))


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_saved_ad_is_compared_with_the_cut_out_that_was_loaded(tmp_path, photo, kind):
    mask = Image.new("L", photo.size)
    mask.paste(255, (5, 0, 15, 8))  # 10 x 8, touching the upper border
    cut_out = photo.copy()
    cut_out.putalpha(mask)
    cut_out.save(tmp_path / "product", kind, lossless=True, exact=True)
    ad = Image.new("RGB", photo.size, (200, 200, 200))
    ad.paste(photo, mask=mask)
    ad.save(tmp_path / "ad.png")
    assert measure_ad(tmp_path / "ad.png", tmp_path / "product", 2) == FileExactness(36, 36, 0, 1.0, 0)
    red, green, blue = ad.getpixel((9, 3))
    ad.putpixel((9, 3), (red, green + 3, blue))
    ad.save(tmp_path / "ad.png")
    assert measure_ad(tmp_path / "ad.png", tmp_path / "product", 2) == FileExactness(36, 35, 3, 1.0, 0)


def test_an_ad_that_is_not_whole_is_an_error_and_no_result(tmp_path, photo):
    photo.save(tmp_path / "photo.png")
    (tmp_path / "ad.png").write_bytes((tmp_path / "photo.png").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"ad\.png is a PNG file that cannot be decoded"):
        measure_ad(tmp_path / "ad.png", tmp_path / "photo.png", 2)


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
