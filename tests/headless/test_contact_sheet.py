"""The sheet shows what the nodes compute, on the encoder's own grid."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from headless import make_ad
from headless.ad import contact_sheet
from headless.ad.contact_sheet import CAPTION, COLUMNS, DEMO_GRID, MARGIN, PANEL_HEIGHT, PAPER
from headless.ad.pictures import DEMO_INPUTS
from headless.ad.plan import DEMO_SIZE, Plan, plan_workflow


@pytest.fixture
def reference(tmp_path):
    """Grey, one painted pixel in the patch in row 2, column 5 of the demo's 8x8 grid."""
    values = np.full((128, 128, 4), 128, np.uint8)
    values[..., 3] = 255
    values[40, 90, 3] = 0
    Image.fromarray(values).save(tmp_path / "reference.png")
    return tmp_path / "reference.png"


def test_one_painted_pixel_tints_its_whole_patch_and_no_other(reference):
    shown = np.asarray(contact_sheet.hidden_patches(reference, DEMO_GRID), int)
    side = len(shown) // 8
    middles = shown[side // 2 :: side, side // 2 :: side]
    tinted = middles[..., 0] - middles[..., 1] > 40
    assert np.argwhere(tinted).tolist() == [[2, 5]]


def test_panels_stand_in_rows_with_their_captions(tmp_path):
    panels = [(str(i), Image.new("RGB", (10, 10), (i, 0, 0))) for i in range(COLUMNS + 1)]
    sheet = contact_sheet.arrange(panels)
    cell = PANEL_HEIGHT + MARGIN
    for i in range(COLUMNS + 1):
        left, top = MARGIN + i % COLUMNS * cell, MARGIN + i // COLUMNS * (cell + CAPTION)
        assert sheet.getpixel((left + PANEL_HEIGHT // 2, top + PANEL_HEIGHT // 2)) == (i, 0, 0)
        strip = sheet.crop((left, top + PANEL_HEIGHT, left + 30, top + PANEL_HEIGHT + CAPTION))
        assert strip.convert("L").getextrema()[0] < 128
    assert sheet.getpixel((sheet.width - MARGIN, sheet.height - MARGIN)) == PAPER


def test_the_sheet_of_the_demo(tmp_path):
    plan = Plan(None, None, "", DEMO_SIZE)
    pictures = {file.name: file for file in DEMO_INPUTS.glob("*.png")}
    for name, colour in (("with", (0, 0, 250)), ("without", (0, 250, 0))):
        Image.new("RGB", (128, 128), colour).save(tmp_path / f"{name}.png")
    workflow = plan_workflow(plan, make_ad.parser().parse_args([]))
    sheet = contact_sheet.contact_sheet(plan, workflow, pictures, tmp_path / "with.png", tmp_path / "without.png")
    second_row = sheet.crop((0, sheet.height // 2, *sheet.size))
    colours = {colour for _, colour in second_row.getcolors(maxcolors=1 << 20)}
    assert {(0, 0, 250), (0, 250, 0), contact_sheet.BACKGROUND_REGION, contact_sheet.TABLE_REGION} <= colours
