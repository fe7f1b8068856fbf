"""Where everything stands on the canvas: groups from left to right, in rows, columns side by side, nodes below each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from .description import Group, Instance, Node, Note

TITLE_HEIGHT = 30  # litegraph draws a node's title above its position
NODE_GAP = 30
COLUMN_GAP = 50
GROUP_GAP = 60
GROUP_PADDING = 20
GROUP_TITLE_HEIGHT = 44
GROUP_FONT_SIZE = 24


class Rectangle(NamedTuple):
    """Of a node's body, without its title; canvas pixels."""

    left: int
    top: int
    width: int
    height: int


def lay_out(
    groups: Iterable[Group], body_height: Callable[[Node | Instance | Note], int], frame_ids: Iterator[int]
) -> tuple[list[Rectangle], list[dict[str, Any]]]:
    """The rectangle of each item in the order of `items(groups)`, and the frames of the groups that have a title."""
    rectangles: list[Rectangle] = []
    frames: list[dict[str, Any]] = []
    left = top = 0
    for group in groups:
        if group.starts_row:
            left = frames[0]["bounding"][0] + GROUP_PADDING
            lowest = max(y + height for _, y, _, height in (frame["bounding"] for frame in frames))
            top = lowest + GROUP_GAP + TITLE_HEIGHT + GROUP_TITLE_HEIGHT
        in_group = _in_columns(group, left, top, body_height)
        right = max(place.left + place.width for place in in_group)
        if group.title is not None:
            frames.append(_frame(next(frame_ids), group, Rectangle(left, top, right - left, _bottom(in_group) - top)))
        rectangles += in_group
        left = right + 2 * GROUP_PADDING + GROUP_GAP
    return rectangles, frames


def _in_columns(
    group: Group, left: int, first_top: int, body_height: Callable[[Node | Instance | Note], int]
) -> list[Rectangle]:
    rectangles = []
    for column in group.columns:
        top = first_top
        for item in column:
            rectangles.append(Rectangle(left, top, group.column_width, body_height(item)))
            top += rectangles[-1].height + NODE_GAP + TITLE_HEIGHT
        left += group.column_width + COLUMN_GAP
    return rectangles


def _bottom(rectangles: Iterable[Rectangle]) -> int:
    return max(place.top + place.height for place in rectangles)


def _frame(frame_id: int, group: Group, inside: Rectangle) -> dict[str, Any]:
    above = TITLE_HEIGHT + GROUP_TITLE_HEIGHT
    width, height = inside.width + 2 * GROUP_PADDING, inside.height + above + GROUP_PADDING
    return {
        "id": frame_id,
        "title": group.title,
        "bounding": [inside.left - GROUP_PADDING, inside.top - above, width, height],
        "color": group.colour,
        "font_size": GROUP_FONT_SIZE,
        "flags": {},
    }
