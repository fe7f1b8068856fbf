"""One picture that shows how an ad was made: what went in, what was found, what was hidden, who rules where, and the ads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..server.client import Prompt
from .made import Made
from .pictures import Pictures, opened
from .workflow import PRODUCT_PHOTO, REFERENCE, the_node, title_of

PANEL_HEIGHT = 320
COLUMNS = 4
MARGIN, CAPTION = 14, 28
FONT_SIZE = 16
INK, PAPER = (40, 40, 40), (255, 255, 255)
SAYS_ITSELF = "PFVReference"  # its line begins with what was hidden, and who said so
SHOWN = {  # class of node -> what its picture is called
    "PFVCutOut": "the product",
    SAYS_ITSELF: "hidden",
    "MEPARegionBuilder": "who rules: reference, text",
    "PFVDepthCompose": "depth for the ControlNet",
}


def contact_sheet(pictures: Pictures, ad: Made, ad_without_pfv: Made | None = None) -> Image.Image:
    """Put the pictures of a run side by side, each as its node showed it.

    Args:
        pictures: what went in.
        ad: as it was asked for.
        ad_without_pfv: the same with nothing hidden; None where nothing was to be hidden.
    """
    panels = [
        ("product photo", opened(_loaded(ad.workflow, pictures, PRODUCT_PHOTO))),
        ("reference", opened(_loaded(ad.workflow, pictures, REFERENCE))),
        *((_caption(ad, name), ad.shown[title_of(the_node(ad.workflow, name))]) for name in SHOWN),
        ("the ad" if ad_without_pfv is None else "the ad, with PFV", opened(ad.file)),
        *([] if ad_without_pfv is None else [("without PFV: nothing hidden", opened(ad_without_pfv.file))]),
    ]
    return arrange(panels)


def arrange(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Captioned pictures in rows; small ones are enlarged smoothly."""
    width = max(round(PANEL_HEIGHT * picture.width / picture.height) for _, picture in panels)
    rows = -(-len(panels) // COLUMNS)
    cell = (width + MARGIN, PANEL_HEIGHT + CAPTION + MARGIN)
    sheet = Image.new("RGB", (COLUMNS * cell[0] + MARGIN, rows * cell[1] + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for index, (caption, picture) in enumerate(panels):
        left, top = MARGIN + index % COLUMNS * cell[0], MARGIN + index // COLUMNS * cell[1]
        size = (round(PANEL_HEIGHT * picture.width / picture.height), PANEL_HEIGHT)
        sheet.paste(picture.convert("RGB").resize(size, Image.Resampling.BICUBIC), (left, top))
        draw.text((left, top + PANEL_HEIGHT + 5), caption, INK, font)
    return sheet


def _caption(ad: Made, name: str) -> str:
    """What a node's picture is called: of what is hidden, the beginning of what the node says."""
    said = ad.said.get(title_of(the_node(ad.workflow, name)), "") if name == SAYS_ITSELF else ""
    return said.split(", kept")[0] or SHOWN[name]


def _loaded(workflow: Prompt, pictures: Pictures, title: str) -> Path:
    return pictures[the_node(workflow, "LoadImage", title)["inputs"]["image"]]
