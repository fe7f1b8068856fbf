"""Where everything stands on the canvas: groups from left to right, columns side by side, nodes below each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .description import Group, Node, Note, Workflow

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
    workflow: Workflow, body_height: Callable[[Node | Note], int]
) -> tuple[list[Rectangle], list[dict[str, Any]]]:
    """The rectangle of each item in the order of `workflow.items()`, and the frames of the groups that have a title."""
    rectangles: list[Rectangle] = []
    frames: list[dict[str, Any]] = []
    left = 0
    for group in workflow.groups:
        in_group = _in_columns(group, left, body_height)
        right = max(place.left + place.width for place in in_group)
        if group.title is not None:
            bottom = max(place.top + place.height for place in in_group)
            frames.append(_frame(len(frames) + 1, group, left, right, bottom))
        rectangles += in_group
        left = right + 2 * GROUP_PADDING + GROUP_GAP
    return rectangles, frames


def _in_columns(group: Group, left: int, body_height: Callable[[Node | Note], int]) -> list[Rectangle]:
    rectangles = []
    for column in group.columns:
        top = 0
        for item in column:
            rectangles.append(Rectangle(left, top, group.column_width, body_height(item)))
            top += rectangles[-1].height + NODE_GAP + TITLE_HEIGHT
        left += group.column_width + COLUMN_GAP
    return rectangles


def _frame(frame_id: int, group: Group, left: int, right: int, bottom: int) -> dict[str, Any]:
    top = -TITLE_HEIGHT - GROUP_TITLE_HEIGHT
    width, height = right - left + 2 * GROUP_PADDING, bottom - top + GROUP_PADDING
    return {
        "id": frame_id,
        "title": group.title,
        "bounding": [left - GROUP_PADDING, top, width, height],
        "color": group.colour,
        "font_size": GROUP_FONT_SIZE,
        "flags": {},
    }
