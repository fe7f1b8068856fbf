"""Interleaved timing, and what a figure is made of. Knows nothing of models."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

Contestant = Callable[[], object]
Clock = Callable[[Contestant], float]


@dataclass(frozen=True)
class Measured:
    """One cell of a figure's table.

    Attributes:
        case: the row: what was measured.
        who: the column: whose it is.
        value: the median, a ratio of medians, or a count.
        low, high: quartiles, where there were rounds.
        unit: "x" (ratio), "s", "ms", "MB" or "" (a count).
        at_most, stretch: what it must be and what it should be, where something was demanded of it.
    """

    case: str
    who: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = "x"
    at_most: float | None = None
    stretch: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is what it must be; None where nothing was demanded."""
        return None if self.at_most is None else self.value <= self.at_most


@dataclass
class Figure:
    """A table of measurements with one question behind it."""

    name: str
    title: str
    how: str
    measured: list[Measured] = field(default_factory=list)


def interleaved(
    contestants: Mapping[str, Contestant], rounds: int, clock: Clock, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each contestant in each round: A B C, then C B A, and so on, so that drift hits all of them alike.

    Args:
        contestants: name -> what is timed.
        rounds: at least 1.
        clock: runs a contestant and gives its seconds.
        warm_up: runs of each that are not counted.
    """
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}, expected 1 or more")
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(-warm_up, rounds):
        for name in names if number % 2 == 0 else reversed(names):
            took = clock(contestants[name])
            if number >= 0:
                seconds[name].append(took)
    return seconds


def ratio(
    case: str,
    who: str,
    seconds: Sequence[float],
    to: Sequence[float],
    at_most: float | None = None,
    stretch: float | None = None,
    scale: float = 1.0,
) -> Measured:
    """Ratio of medians, times `scale`, with the quartiles of the ratios round by round."""
    value = scale * statistics.median(seconds) / statistics.median(to)
    low, high = quartiles([scale * one / other for one, other in zip(seconds, to, strict=True)])
    return Measured(case, who, value, low, high, "x", at_most, stretch)


def absolute(
    case: str,
    who: str,
    seconds: Sequence[float],
    at_most: float | None = None,
    stretch: float | None = None,
    unit: str = "s",
) -> Measured:
    """Median and quartiles, in seconds or milliseconds."""
    values = [second * {"s": 1.0, "ms": 1e3}[unit] for second in seconds]
    return Measured(case, who, statistics.median(values), *quartiles(values), unit, at_most, stretch)


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; of one value that value, twice."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def clock_for(device: torch.device) -> Clock:
    """Processor time on a CPU, events on a CUDA device.

    Processor time of this process, all threads: what other processes of a shared machine take is not in it, nor is waiting
    for a disk. On CUDA launches return before their work is done, so the device itself is asked.
    """
    return _cuda_seconds if device.type == "cuda" else _cpu_seconds


def _cpu_seconds(contestant: Contestant) -> float:
    started = time.process_time()
    contestant()
    return time.process_time() - started


def _cuda_seconds(contestant: Contestant) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    contestant()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3  # milliseconds
