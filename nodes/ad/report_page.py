"""A page of a report, drawn: a picture, a verdict, and columns of short lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 1240, 1754  # A4 at 150 dots per inch
MARGIN = 60
PICTURE = (WIDTH - 2 * MARGIN, 760)  # at most
GAP = 40  # between the columns
HEAD, VERDICT, SECTION, TEXT = 40, 30, 24, 20  # pixels of type
LEADING = 1.35
INK, QUIET, PAPER, FRAME = (25, 25, 30), (110, 110, 120), (255, 255, 255), (200, 200, 205)
GOOD, BAD = (20, 120, 60), (190, 30, 40)

# Pillow's own has Latin letters alone. These have others; which of them a machine has is its own affair.
OTHER_FONTS = ("NotoSansCJK-Regular.ttc", "msyh.ttc", "PingFang.ttc", "wqy-zenhei.ttc", "DejaVuSans.ttf")
NO_LETTER = "\uffff"
BOXES = "Letters that no font of this machine has are drawn as boxes; the report has them."

Font = ImageFont.FreeTypeFont
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Section:
    """A heading and its lines; a line too long for its column goes on below itself."""

    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """What stands on a page.

    Attributes:
        title: at the top.
        picture: (H, W, 3) uint8.
        verdict: the sentence below the picture.
        good: whether it is good news.
        notes: smaller lines below it.
        columns: sections, left and right.
    """

    title: str
    picture: NDArray[np.uint8]
    verdict: str
    good: bool
    notes: tuple[str, ...]
    columns: tuple[tuple[Section, ...], tuple[Section, ...]]


def draw_page(page: Page) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3). Lines for which a column has no room are counted in its last one."""
    sheet = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw, letters = ImageDraw.Draw(sheet), _letters(page)
    name = _font_for(letters)
    notes = [*page.notes, *([BOXES] if _missing(_font(name, TEXT), letters) else [])]
    top = _write(draw, MARGIN, MARGIN, WIDTH - 2 * MARGIN, [page.title], _font(name, HEAD), INK)
    top = _paste(sheet, page.picture, top + 15)
    top = _write(
        draw, MARGIN, top + 20, WIDTH - 2 * MARGIN, [page.verdict], _font(name, VERDICT), GOOD if page.good else BAD
    )
    top = _write(draw, MARGIN, top, WIDTH - 2 * MARGIN, notes, _font(name, TEXT), QUIET)
    width = (WIDTH - 2 * MARGIN - GAP) // 2
    for number, sections in enumerate(page.columns):
        _column(draw, MARGIN + number * (width + GAP), top + 20, width, sections, name)
    return np.asarray(sheet)


def _column(draw: ImageDraw.ImageDraw, left: int, top: int, width: int, sections: Sequence[Section], name: str) -> None:
    heading, text = _font(name, SECTION), _font(name, TEXT)
    rows: list[tuple[str, Font, Colour, int]] = []
    for section in sections:
        rows.append((section.heading, heading, INK, TEXT // 2))
        rows += [(line, text, QUIET, 0) for line in _broken(section.lines, text, width)]
    for number, (line, font, colour, above) in enumerate(rows):
        height, follows = above + _height(font), number < len(rows) - 1
        if top + height + follows * _height(text) > HEIGHT - MARGIN:
            draw.text((left, top), f"... {len(rows) - number} more lines are in the report", BAD, text)
            return
        draw.text((left, top + above), line, colour, font)
        top += height


def _height(font: Font) -> int:
    return int(font.size * LEADING)


def _write(
    draw: ImageDraw.ImageDraw, left: int, top: int, width: int, lines: Sequence[str], font: Font, colour: Colour
) -> int:
    """The row below what was written."""
    for line in _broken(lines, font, width):
        draw.text((left, top), line, colour, font)
        top += _height(font)
    return top


def _broken(lines: Sequence[str], font: Font, width: int) -> Iterator[str]:
    """Lines that fit a width: broken at blanks, and within a word where that alone is too wide."""
    for line in lines:
        part = ""
        for word in line.split():
            longer = f"{part} {word}" if part else word
            if font.getlength(longer) <= width:
                part = longer
                continue
            if part:
                yield part
            part = word
            while font.getlength(part) > width:
                fits = next(
                    count for count in range(len(part), 0, -1) if count == 1 or font.getlength(part[:count]) <= width
                )
                yield part[:fits]
                part = part[fits:]
        yield part


def _paste(sheet: Image.Image, pixels: NDArray[np.uint8], top: int) -> int:
    """The picture as large as it fits, in the middle, in a thin frame; the row below it."""
    picture = Image.fromarray(pixels)
    scale = min(PICTURE[0] / picture.width, PICTURE[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    left = (WIDTH - size[0]) // 2
    sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), (left, top))
    ImageDraw.Draw(sheet).rectangle((left - 1, top - 1, left + size[0], top + size[1]), outline=FRAME)
    return top + size[1]


def _letters(page: Page) -> str:
    sections = [section for column in page.columns for section in column]
    texts = [page.title, page.verdict, *page.notes]
    texts += [text for section in sections for text in (section.heading, *section.lines)]
    return "".join(sorted(set("".join(texts)) - set(" \n\t")))


def _font_for(letters: str) -> str:
    """The first font that has all the letters, else the one that lacks the fewest; "" is Pillow's own."""
    lacking = {"": len(_missing(_font("", TEXT), letters))}
    for name in OTHER_FONTS:
        if min(lacking.values()) == 0:
            break
        with suppress(OSError):
            lacking[name] = len(_missing(_font(name, TEXT), letters))
    return min(lacking, key=lambda name: lacking[name])


def _font(name: str, size: int) -> Font:
    return ImageFont.truetype(name, size) if name else cast(Font, ImageFont.load_default(size))


def _missing(font: Font, letters: str) -> str:
    """Those of the letters that the font draws as it draws what is no letter."""
    none = bytes(font.getmask(NO_LETTER))
    return "".join(letter for letter in letters if bytes(font.getmask(letter)) == none)
