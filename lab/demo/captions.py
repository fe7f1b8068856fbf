"""What a scene shows, in words: a small grammar, and a tokenizer that knows its words."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .studio.scene import COMPANION_LOOKS, PATTERNS, PRODUCT_COLORS, SHAPES, TABLES, WALL_COLORS, Light, Scene

_WALLS = {
    "plain": "plain {wall} wall",
    "stripes": "{wall} wall with stripes",
    "bands": "{wall} wall with bands",
    "dots": "{wall} wall with dots",
    "checks": "{wall} wall with checks",
    "slants": "{wall} wall with slants",
}
TINTED = 1 / 3  # warmth of a light, either way, from which on it is called warm or cool
NAMED = 0.88  # how often a training caption names product, table and wall, each
# How often it names what is not named by default.
COMPANION_NAMED, LIGHT_NAMED = 0.6, 0.25


def product_phrase(scene: Scene) -> str:
    """Such as "red bottle"."""
    return f"{scene.product_color} {scene.shape}"


def table_phrase(scene: Scene) -> str:
    """Such as "wooden table"."""
    return f"{scene.table} table"


def wall_phrase(scene: Scene) -> str:
    """Such as "blue wall with dots"."""
    return _WALLS[scene.pattern].format(wall=scene.wall_color)


def companion_phrase(scene: Scene) -> str:
    """Such as "green plant"; empty where the product stands alone."""
    return "" if scene.companion is None else f"{scene.companion.look} {scene.companion.kind}"


def light_phrase(light: Light) -> str:
    """Such as "warm light from the left"."""
    tint = "warm " if light.warmth > TINTED else "cool " if light.warmth < -TINTED else ""
    return f"{tint}light from the {'left' if light.side < 0 else 'right'}"


def caption(
    scene: Scene,
    product: bool = True,
    table: bool = True,
    wall: bool = True,
    companion: bool = False,
    light: bool = False,
) -> str:
    """The named parts of a scene, in their fixed order: by default product, table and wall.

    Such as "a red bottle on a wooden table beside a green plant, blue wall with dots, warm light from the left".
    """
    parts = [f"a {product_phrase(scene)}"] if product else []
    if table:
        parts.append(f"on a {table_phrase(scene)}" if product else f"a {table_phrase(scene)}")
    if companion and scene.companion is not None:
        parts.append(f"beside a {companion_phrase(scene)}" if parts else f"a {companion_phrase(scene)}")
    text = " ".join(parts)
    if wall:
        text = f"{text}, {wall_phrase(scene)}" if text else f"a {wall_phrase(scene)}"
    if light:
        text = f"{text}, {light_phrase(scene.light)}" if text else light_phrase(scene.light)
    return text


def varied_caption(
    scene: Scene, rng: random.Random, product_named: float = NAMED, companion_named: float = COMPANION_NAMED
) -> str:
    """A training caption: in one of three forms, each part dropped now and then, sometimes empty.

    Args:
        scene: what it is of.
        rng: draws.
        product_named, companion_named: in how many of those that are not empty each is named.
    """
    if rng.random() < 0.10:
        return ""
    product, table, wall = (rng.random() > 1 - named for named in (product_named, NAMED, NAMED))
    companion = scene.companion is not None and rng.random() < companion_named
    light = rng.random() < LIGHT_NAMED
    if rng.random() < 0.6:
        return caption(scene, product, table, wall, companion, light)
    named = (product, table, wall, companion, light)
    phrases = (
        product_phrase(scene),
        table_phrase(scene),
        wall_phrase(scene),
        companion_phrase(scene),
        light_phrase(scene.light),
    )
    parts = [phrase for phrase, kept in zip(phrases, named, strict=True) if kept]
    rng.shuffle(parts)
    if len(parts) > 3 or rng.random() < 0.5:  # more would not fit with the words between them
        return ", ".join(parts)
    return f"photo of a {' and a '.join(parts)}" if parts else ""


def all_words() -> Iterator[str]:
    """Every word the grammar can make, and a few that people may write."""
    yield from dict.fromkeys(
        word
        for group in (
            ("a", "on", "with", "and", "of", "photo", "table", "wall", "product", "the", "in", "front"),
            PRODUCT_COLORS,
            WALL_COLORS,
            SHAPES,
            TABLES,
            PATTERNS,
            ("beside", "warm", "cool", "light", "from", "left", "right"),
            COMPANION_LOOKS,
            (look for looks in COMPANION_LOOKS.values() for look in looks),
        )
        for word in group
    )
