"""What a scene shows, in words: a small grammar, and a tokenizer that knows its words."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .scenes import PATTERNS, PRODUCT_COLORS, SHAPES, TABLES, WALL_COLORS, Scene

_WALLS = {
    "plain": "plain {wall} wall",
    "stripes": "{wall} wall with stripes",
    "bands": "{wall} wall with bands",
    "dots": "{wall} wall with dots",
    "checks": "{wall} wall with checks",
    "slants": "{wall} wall with slants",
}


def product_phrase(scene: Scene) -> str:
    """Such as "red bottle"."""
    return f"{scene.product_color} {scene.shape}"


def table_phrase(scene: Scene) -> str:
    """Such as "wooden table"."""
    return f"{scene.table} table"


def wall_phrase(scene: Scene) -> str:
    """Such as "blue wall with dots"."""
    return _WALLS[scene.pattern].format(wall=scene.wall_color)


def caption(scene: Scene, product: bool = True, table: bool = True, wall: bool = True) -> str:
    """The full caption, or the named parts of it, in their fixed order."""
    parts = [f"a {product_phrase(scene)}"] if product else []
    if table:
        parts.append(f"on a {table_phrase(scene)}" if product else f"a {table_phrase(scene)}")
    text = " ".join(parts)
    if wall:
        text = f"{text}, {wall_phrase(scene)}" if text else f"a {wall_phrase(scene)}"
    return text


def varied_caption(scene: Scene, rng: random.Random) -> str:
    """A training caption: in one of three forms, each part dropped now and then, sometimes empty."""
    if rng.random() < 0.10:
        return ""
    keep = [rng.random() > 0.12 for _ in range(3)]
    if rng.random() < 0.6:
        return caption(scene, *keep)
    phrases = (product_phrase(scene), table_phrase(scene), wall_phrase(scene))
    parts = [phrase for phrase, kept in zip(phrases, keep, strict=True) if kept]
    rng.shuffle(parts)
    return ", ".join(parts) if rng.random() < 0.5 else f"photo of a {' and a '.join(parts)}" if parts else ""


def all_words() -> Iterator[str]:
    """Every word the grammar can make."""
    yield from dict.fromkeys(
        word
        for group in (
            ("a", "on", "with", "and", "of", "photo", "table", "wall", "product", "the", "in", "front"),
            PRODUCT_COLORS,
            WALL_COLORS,
            SHAPES,
            TABLES,
            PATTERNS,
        )
        for word in group
    )
