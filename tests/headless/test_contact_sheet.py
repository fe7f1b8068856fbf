"""The sheet shows what went in, what the nodes showed, and the ads."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from headless import make_ad
from headless.ad import contact_sheet
from headless.ad.contact_sheet import CAPTION, COLUMNS, MARGIN, PANEL_HEIGHT, PAPER, SHOWN
from headless.ad.made import Made
from headless.ad.pictures import DEMO_INPUTS
from headless.ad.plan import Plan, plan_workflow
from headless.ad.workflow import the_node, title_of
from pfv_core.found.reference import Hidden, HiddenBy


def test_panels_stand_in_rows_with_their_captions():
    panels = [(str(i), Image.new("RGB", (10, 10), (i, 0, 0))) for i in range(COLUMNS + 1)]
    sheet = contact_sheet.arrange(panels)
    cell = PANEL_HEIGHT + MARGIN
    for i in range(COLUMNS + 1):
        left, top = MARGIN + i % COLUMNS * cell, MARGIN + i // COLUMNS * (cell + CAPTION)
        assert sheet.getpixel((left + PANEL_HEIGHT // 2, top + PANEL_HEIGHT // 2)) == (i, 0, 0)
        strip = sheet.crop((left, top + PANEL_HEIGHT, left + 30, top + PANEL_HEIGHT + CAPTION))
        assert strip.convert("L").getextrema()[0] < 128
    assert sheet.getpixel((sheet.width - MARGIN, sheet.height - MARGIN)) == PAPER


def test_the_reference_is_called_what_its_node_says():
    workflow = plan_workflow(Plan(None, None, ""), make_ad.parser().parse_args([]))
    title = title_of(the_node(workflow, "PFVReference"))
    for source, sure, caption in (
        (HiddenBy.STANDS_OUT, 0.98, "hidden: what stands out, sure to 0.98"),
        (HiddenBy.NOTHING, None, "hidden: nothing"),
    ):
        said = Hidden(torch.zeros(1, 8, 8).bool(), (source,), (sure,), ", as asked").line((0.84,))
        assert contact_sheet._caption(Made(Path("ad.png"), workflow, said={title: said}), "PFVReference") == caption
    assert contact_sheet._caption(Made(Path("ad.png"), workflow), "PFVCutOut") == SHOWN["PFVCutOut"]


def test_the_sheet_of_the_demo(tmp_path):
    """Both pictures, what four nodes showed, and both ads."""
    workflow = plan_workflow(Plan(None, None, ""), make_ad.parser().parse_args([]))
    pictures = {file.name: file for file in DEMO_INPUTS.glob("*_photo.png")}
    colours = {"with": (0, 0, 250), "without": (0, 250, 0)}
    for name, colour in colours.items():
        Image.new("RGB", (128, 128), colour).save(tmp_path / f"{name}.png")
    titles = [title_of(the_node(workflow, name)) for name in SHOWN]
    shown = {title: Image.new("RGB", (64, 64), (200 + i, 0, 0)) for i, title in enumerate(titles)}
    ads = [Made(tmp_path / f"{name}.png", workflow, shown) for name in colours]
    alone = contact_sheet.contact_sheet(pictures, ads[0])  # nothing was to be hidden
    assert (
        alone.getpixel((MARGIN + 3 * (PANEL_HEIGHT + MARGIN) + 60, MARGIN + PANEL_HEIGHT + CAPTION + MARGIN + 60))
        == PAPER
    )
    sheet = contact_sheet.contact_sheet(pictures, *ads)
    middles = [
        sheet.getpixel(
            (MARGIN + column * (PANEL_HEIGHT + MARGIN) + 60, MARGIN + row * (PANEL_HEIGHT + CAPTION + MARGIN) + 60)
        )
        for row in range(2)
        for column in range(COLUMNS)
    ]
    assert middles[2:] == [*((200 + i, 0, 0) for i in range(4)), *colours.values()]
    for middle, name in zip(middles, ("demo_product_photo.png", "demo_reference_photo.png"), strict=False):
        with Image.open(pictures[name]) as picture:
            place = round(60 / PANEL_HEIGHT * 128)
            near = picture.convert("RGB").crop((place - 2, place - 2, place + 3, place + 3)).getextrema()
        assert all(low - 8 <= value <= high + 8 for value, (low, high) in zip(middle, near, strict=True))
