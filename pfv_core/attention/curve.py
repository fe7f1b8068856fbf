"""A weight over the sampling: straight lines between points, 0 = the beginning and 1 = the end."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from itertools import pairwise

from ..choices import parse_choice
from .weight_table import check_table, check_weight, read_entries

EXAMPLE = "0: 0, 0.5: 1, 1: 1"


class Sampling(str, Enum):
    """Curves that have a name; CUSTOM is a table of points."""

    CONSTANT = "constant"
    RISING = "rising"
    FALLING = "falling"
    RISING_FALLING = "rising_falling"
    FALLING_RISING = "falling_rising"
    CUSTOM = "custom"


@dataclass(frozen=True)
class Curve:
    """Straight lines between points, and the first and the last weight beyond them.

    Attributes:
        points: (share of the sampling, weight), shares rising within 0..1; a weight is 0 or more.

    Raises:
        ValueError: no point, shares that do not rise or lie outside 0..1, a weight that is negative or not finite.
    """

    points: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError(f"the curve over the sampling has no point: give some, such as {EXAMPLE}")
        for share, weight in self.points:
            if not 0.0 <= share <= 1.0:
                raise ValueError(
                    f"a point of the curve lies at {share:g} of the sampling: expected 0 (its beginning) to 1 (its end)"
                )
            check_weight(weight, f"at {share:g} of the sampling")
        for (share, _), (following, _) in pairwise(self.points):
            if following <= share:
                raise ValueError(
                    f"the curve's point at {following:g} stands behind that at {share:g}: name each share once, rising"
                )

    @property
    def constant(self) -> float | None:
        """The weight, where it is the same all the time."""
        weights = {weight for _, weight in self.points}
        return weights.pop() if len(weights) == 1 else None

    def at(self, share: float) -> float:
        """The weight at a share of the sampling, exactly a point's own there."""
        for (start, before), (end, after) in pairwise(self.points):
            if start <= share < end:
                return before + (after - before) * ((share - start) / (end - start))
        return self.points[0][1] if share < self.points[0][0] else self.points[-1][1]


NAMED = {
    Sampling.CONSTANT: Curve(),
    Sampling.RISING: Curve(((0.0, 0.0), (1.0, 1.0))),
    Sampling.FALLING: Curve(((0.0, 1.0), (1.0, 0.0))),
    Sampling.RISING_FALLING: Curve(((0.0, 0.0), (0.5, 1.0), (1.0, 0.0))),
    Sampling.FALLING_RISING: Curve(((0.0, 1.0), (0.5, 0.0), (1.0, 1.0))),
}


def sampling_curve(sampling: Sampling | str, table: str = "") -> Curve:
    """The curve of a name, or of a table.

    Args:
        sampling: a name, or custom for the table.
        table: `share: weight` entries, one a line or separated by commas, such as `0: 0, 0.5: 1, 1: 1`.

    Raises:
        ValueError: an unknown name, a table that is missing or has no use, an entry that cannot be read.
    """
    sampling = parse_choice(Sampling, sampling, "sampling")
    entries = list(read_entries(table, "sampling_table", EXAMPLE))
    check_table(sampling is Sampling.CUSTOM, bool(entries), "sampling", sampling.value, EXAMPLE)
    if sampling is not Sampling.CUSTOM:
        return NAMED[sampling]
    return Curve(tuple((_share(name), weight) for name, weight in entries))


def share_of_timestep(timestep: float, num_timesteps: int) -> float:
    """How much of the sampling is over at a timestep: 0 at the schedule's highest, 1 at timestep 0."""
    return 1.0 - timestep / (num_timesteps - 1)


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"sampling_table has a point at {text!r}, expected a share of the sampling from 0 to 1, such as {EXAMPLE}"
        ) from None
