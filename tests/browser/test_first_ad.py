"""A first ad as the page "Your first ad" tells it: two pictures are dropped, a sentence is written, Run is pressed."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from pfv_mepa.pfv_demo.sizes import IMAGE_SIZE
from pfv_mepa.tests.browser.conftest import WORKFLOWS

PHOTO, REFERENCE, PROMPT = "Product photo", "Reference", "Prompt"
FOUND, LOOK, GROUND, REGIONS = "Product", "Look", "Ground", "Regions"
COMPOSITE, SAVE = "Product's own pixels", "Save the ad"


CORNER = [(x, y) for y in (32, 48) for x in range(32, 65, 16)]  # of the reference, where only wall is
PATCH = IMAGE_SIZE // 8  # pixels of one of the encoder's


def is_hidden(page) -> dict[str, bool]:
    """Whether the preview of the look tints the encoder's patch, in the vase and in the corner."""
    with Image.open(WORKFLOWS / "demo_inputs" / "demo_reference_photo.png") as picture:
        before = np.asarray(picture.convert("RGB"), dtype=float)
    tinted = np.abs(np.asarray(page.shown(LOOK)[1], dtype=float) - before).max(2) > 30
    shares = tinted.reshape(8, PATCH, 8, PATCH).mean((1, 3))
    return {"vase": bool(shares[5, 3] > 0.9), "wall": bool(shares[1, 1] > 0.9)}


@pytest.fixture
def brought(tmp_path):
    """The two pictures as somebody has them: under other names than the workflow's."""
    pictures = {PHOTO: "demo_product_photo.png", REFERENCE: "demo_reference_photo.png"}
    for title, name in pictures.items():
        pictures[title] = shutil.copy(WORKFLOWS / "demo_inputs" / name, tmp_path / f"mine_{name}")
    return pictures


def test_two_pictures_a_sentence_and_run(page, brought, keep):
    page.drop(WORKFLOWS / "demo_ad.json")
    for title, file in brought.items():
        page.drop_on(title, file)
    page.set_widget(PROMPT, "text", "a red bottle")
    page.few_steps()
    keep("first_ad_1", PHOTO, REFERENCE, PROMPT)
    assert page.run()[-1]["type"] == "execution_success"
    keep("first_ad_2", FOUND)
    keep("first_ad_3", LOOK, GROUND)
    keep("first_ad_4", REGIONS)
    assert page.line(FOUND).startswith("found on its ground, sure to ")
    assert page.line(LOOK).startswith("hidden: what stands out, sure to ")
    assert is_hidden(page) == {"vase": True, "wall": False}
    # It begins at 62.5 %, in the middle between two that can be shown.
    assert page.line(GROUND).startswith(tuple(f"ground from {share}% of the height, found, " for share in (62, 63)))
    assert page.line(COMPOSITE).startswith("exact: ")
    keep("first_ad_5", COMPOSITE, SAVE)
    ad = np.asarray(page.shown(SAVE)[1], dtype=int)
    assert ad.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    with Image.open(brought[PHOTO]) as photo:
        colours = np.asarray(photo.convert("RGB")).reshape(-1, 3)
    own = {tuple(colour) for colour in colours[(colours[:, 0] > 150) & (colours[:, 1] < 90)].tolist()}
    assert len(own) > 50  # the bottle's reds
    assert sum(tuple(pixel) in own for pixel in ad.reshape(-1, 3).tolist()) > 1000


def test_what_is_painted_wins_and_says_so(page, brought):
    page.drop(WORKFLOWS / "demo_ad.json")
    for title, file in brought.items():
        page.drop_on(title, file)
    page.few_steps()
    page.paint(REFERENCE, CORNER)
    page.save_mask(REFERENCE)
    assert page.run()[-1]["type"] == "execution_success"
    assert page.line(LOOK).startswith("hidden: painted, kept ")
    assert is_hidden(page) == {"vase": False, "wall": True}
