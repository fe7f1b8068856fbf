"""Confidence intervals of what was measured on the same pairs with several trained seeds.

Values come as (S, P): S seeds of a training, P pairs, and every seed sees the same pairs. So a mean varies with the seeds
and, once for all of them, with the pairs; its interval is Student's, whose degrees of freedom say how few seeds there are.
NaN marks a value that is not defined, such as the colour of a wall of which nothing shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

LEVEL = 0.95
EQUIVALENCE_LEVEL = 0.90  # two one-sided tests at 5 % each

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; NaN where nothing was measured, ends NaN where one value is all there is.

    Attributes:
        value: the estimate.
        low, high: ends of the interval.
        seeds, pairs: what it was estimated from.
    """

    value: float
    low: float
    high: float
    seeds: int
    pairs: int


def mean_interval(values: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean over seeds and pairs, with a t-interval.

    Args:
        values: (S, P) or (P,), NaN = not defined.
        level: of confidence, between 0 and 1.

    Returns:
        The mean of all defined values. Its variance is (MS_seeds + MS_pairs - MS_rest) / N, the two-way analysis of
        variance with both ways random, at least that of either way alone; its degrees of freedom are Satterthwaite's. One
        seed says nothing of the spread over seeds: then the interval is over pairs alone.

    Raises:
        ValueError: wrong shape or level.
    """
    return _mean_interval(_seeds_by_pairs(values), level, least_variance=0.0)


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Interval:
    """Mean of first - second, pair by pair, as `mean_interval` gives it.

    Raises:
        ValueError: shapes that differ, and what `mean_interval` raises.
    """
    return _mean_interval(_differences(first, second), level, least_variance=0.0)


def hit_difference(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Interval:
    """`paired_difference` of hits, 0 and 1.

    Where no pair differs there is no variance to go by; the variance is never less than that of one pair that differs,
    1 / P^2. The interval lies within -1..1.
    """
    differences = _differences(first, second)
    pairs = max(int((~np.isnan(differences)).any(0).sum()), 1)
    found = _mean_interval(differences, level, least_variance=1 / pairs**2)
    low, high = (float(np.clip(end, -1, 1)) for end in (found.low, found.high))
    return replace(found, low=low, high=high)


def equivalent(found: Interval, margin: float) -> bool:
    """Whether a difference is shown to be smaller than a margin, either way.

    Args:
        found: of the difference, at EQUIVALENCE_LEVEL.
        margin: what would not matter, above 0.
    """
    return -margin < found.low and found.high < margin


def wilson_interval(
    successes: float, trials: float, level: float = LEVEL, freedom: float = math.inf
) -> tuple[float, float]:
    """Ends of Wilson's score interval of a rate; within 0..1, and not empty at 0 or 1.

    Args:
        freedom: degrees of freedom that the trials were estimated with; infinity = they were counted.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    _check_level(level)
    if not trials > 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes:g} successes in {trials:g} trials: expected 0 <= successes <= trials, trials > 0")
    z = float(student.ppf((1 + level) / 2, freedom))
    rate = successes / trials
    middle = rate + z**2 / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    low, high = (middle - half) / scale, (middle + half) / scale
    return (0.0 if successes == 0 else max(low, 0.0)), (1.0 if successes == trials else min(high, 1.0))


def rate(hits: ArrayLike, level: float = LEVEL) -> Interval:
    """A rate over seeds and pairs with Wilson's interval.

    Args:
        hits: (S, P) or (P,) of 0 and 1, NaN = not defined.
        level: of confidence, between 0 and 1.

    Returns:
        The share of hits. Looks of several seeds at one pair are not independent trials, so the number of trials is
        the effective one, r (1 - r) / variance of `mean_interval`, at most S P, and the quantile is Student's. Where all
        or none hit there is no variance to go by, and only the pairs count as trials.

    Raises:
        ValueError: values other than 0, 1 and NaN, and what `mean_interval` raises.
    """
    array = _seeds_by_pairs(hits)
    _check_level(level)
    defined = ~np.isnan(array)
    if not np.isin(array[defined], (0.0, 1.0)).all():
        raise ValueError("hits hold values other than 0, 1 and NaN: a rate counts hits")
    if not defined.any():
        return Interval(math.nan, math.nan, math.nan, *array.shape)
    share = float(array[defined].mean())
    trials, freedom = float(defined.any(0).sum()), math.inf
    if 0 < share < 1 and array.shape[0] > 1:
        variance, freedom = _variance_of_mean(array)
        trials = min(max(share * (1 - share) / max(variance, 1e-12), 1.0), float(defined.sum()))
    return Interval(share, *wilson_interval(share * trials, trials, level, freedom), *array.shape)


def _mean_interval(array: Array, level: float, least_variance: float) -> Interval:
    _check_level(level)
    if np.isnan(array).all():
        return Interval(math.nan, math.nan, math.nan, *array.shape)
    mean = float(np.nanmean(array))
    variance, freedom = _variance_of_mean(array)
    if freedom == 0:
        return Interval(mean, math.nan, math.nan, *array.shape)
    half = float(student.ppf((1 + level) / 2, freedom)) * math.sqrt(max(variance, least_variance))
    return Interval(mean, mean - half, mean + half, *array.shape)


def _variance_of_mean(array: Array) -> tuple[float, float]:
    """Variance of the mean of the defined values, and its degrees of freedom; 0 of these where one pair is all."""
    defined = ~np.isnan(array)
    rest = np.where(defined, array - array[defined].mean(), 0.0)
    by_seed, seeds = _way(rest, defined, 1)
    by_pair, pairs = _way(rest, defined, 0)
    if seeds == 0 or pairs == 0:
        return by_pair, pairs
    for axis in (1, 0):
        rest = np.where(
            defined, rest - rest.sum(axis, keepdims=True) / _at_least_1(defined.sum(axis, keepdims=True)), 0.0
        )
    of_both = float((rest**2).sum()) / (seeds * pairs) / defined.sum()
    variance = max(by_seed + by_pair - of_both, by_seed, by_pair)
    spread = by_seed**2 / seeds + by_pair**2 / pairs
    return variance, variance**2 / spread if spread > 0 else pairs


def _way(rest: Array, defined: NDArray[np.bool_], axis: int) -> tuple[float, int]:
    """What the means along an axis say of the variance of the mean of all, and their number less one."""
    counts = defined.sum(axis)
    freedom = int((counts > 0).sum()) - 1
    if freedom == 0:
        return 0.0, 0
    squares = (rest.sum(axis) ** 2 / _at_least_1(counts)).sum()
    return float(squares) / freedom / float(counts.sum()), freedom


def _at_least_1(counts: NDArray[np.int_]) -> NDArray[np.int_]:
    return np.maximum(counts, 1)


def _differences(first: ArrayLike, second: ArrayLike) -> Array:
    one, other = _seeds_by_pairs(first), _seeds_by_pairs(second)
    if one.shape != other.shape:
        raise ValueError(f"first is {one.shape}, second {other.shape}: paired values need the same seeds and pairs")
    return one - other


def _seeds_by_pairs(values: ArrayLike) -> Array:
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"values are {np.shape(values)}, expected (seeds, pairs) or (pairs,), at least one of each")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a confidence between 0 and 1, such as 0.95")
