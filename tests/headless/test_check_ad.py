"""A saved ad's workflow is read, and workflows are compared by what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from headless.ad.check_ad import embedded_prompt, same_workflow


@pytest.fixture
def photo():
    y, x = np.mgrid[:10, :20]
    return Image.fromarray(np.stack([x, y, x * y % 256], -1).astype(np.uint8))


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
