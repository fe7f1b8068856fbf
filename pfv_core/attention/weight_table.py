"""What tables of weights share: `name: weight` entries on lines of their own or after commas, and what is said of wrong ones."""

from __future__ import annotations

import math
from collections.abc import Iterator


def read_entries(table: str, name: str, example: str) -> Iterator[tuple[str, float]]:
    """(what stands before the colon, weight) of each entry of a table of weights.

    Args:
        table: entries on lines of their own or separated by commas; empty ones are passed over.
        name: of the input, for messages.
        example: of a table, for messages.

    Raises:
        ValueError: an entry without one colon, or without a number behind it.
    """
    for entry in table.replace(",", "\n").splitlines():
        if not entry.strip():
            continue
        place, colon, number = entry.partition(":")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not colon or math.isnan(weight):
            raise ValueError(
                f"{name} has the entry {entry.strip()!r}, expected a name, a colon and a number, such as {example}"
            )
        yield " ".join(place.split()), weight


def check_table(wanted: bool, given: bool, name: str, choice: str, example: str) -> None:
    """ValueError unless a table is there exactly where the choice is custom."""
    if wanted and not given:
        raise ValueError(f"{name} is custom and {name.removesuffix('s')}_table is empty: give one, such as {example}")
    if given and not wanted:
        raise ValueError(
            f"{name} is {choice!r} and {name.removesuffix('s')}_table has entries that would count for nothing: choose custom, "
            "or empty the table"
        )


def check_weight(weight: float, where: str) -> None:
    """ValueError if a weight is negative or not finite."""
    if not (math.isfinite(weight) and weight >= 0):
        raise ValueError(f"the weight {where} is {weight:g}, expected 0 (nothing of the image prompt) or more")
