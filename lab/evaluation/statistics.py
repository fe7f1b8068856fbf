"""Confidence intervals of what was measured on the same pairs with several trained seeds.

Values come as (S, P): S seeds of a training, P pairs, and every seed sees the same pairs. So a mean varies with the seeds
and, once for all of them, with the pairs; its interval is Student's, whose degrees of freedom say how few seeds there are.
NaN marks a value that is not defined, such as the colour of a wall of which nothing shows.

Pairs that have something in common, such as the same wall, are not as many looks as there are pairs: what they have in common
is drawn once. Groups say which do, in (P,) labels, one array for each thing in common; an interval is then the widest of those
that take the pairs, or the pairs of one label, as one draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student

LEVEL = 0.95
EQUIVALENCE_LEVEL = 0.90  # two one-sided tests at 5 % each

Array = NDArray[np.float64]
Groups = Sequence[NDArray[np.int_]]
"""(P,) labels each; pairs of one label have something in common."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; NaN where nothing was measured, ends NaN where one value is all there is.

    Attributes:
        value: the estimate.
        low, high: ends of the interval.
        seeds, pairs: what it was estimated from.
        p: two-sided, of so much or more if there were nothing: with the variance and the degrees of freedom of the interval;
            NaN for a rate.
    """

    value: float
    low: float
    high: float
    seeds: int
    pairs: int
    p: float = math.nan


def mean_interval(values: ArrayLike, level: float = LEVEL, groups: Groups = ()) -> Interval:
    """Mean over seeds and pairs, with a t-interval.

    Args:
        values: (S, P) or (P,), NaN = not defined.
        level: of confidence, between 0 and 1.
        groups: of the pairs.

    Returns:
        The mean of all defined values. Its variance is that of two ways, both random: what the sums of seeds say of it and what
        the sums of pairs, or of groups, say, less what those of their cells say, at least that of either way alone. With as
        many values in each cell it is (MS_seeds + MS_pairs - MS_rest) / N of the analysis of variance. Its degrees of freedom
        are Satterthwaite's. One seed says nothing of the spread over seeds: then the interval is over pairs alone.

    Raises:
        ValueError: wrong shape or level, or groups of another number of pairs.

    Source: Cameron, Gelbach, Miller, Robust inference with multiway clustering, 2011, of a mean.
    """
    return _mean_interval(_seeds_by_pairs(values), level, groups, least_variance=0.0)


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = LEVEL, groups: Groups = ()) -> Interval:
    """Mean of first - second, pair by pair, as `mean_interval` gives it.

    Raises:
        ValueError: shapes that differ, and what `mean_interval` raises.
    """
    return _mean_interval(_differences(first, second), level, groups, least_variance=0.0)


def hit_difference(first: ArrayLike, second: ArrayLike, level: float = LEVEL, groups: Groups = ()) -> Interval:
    """`paired_difference` of hits, 0 and 1.

    Where no pair differs there is no variance to go by; the variance is never less than that of one pair that differs,
    1 / P^2. The interval lies within -1..1.
    """
    differences = _differences(first, second)
    pairs = max(int((~np.isnan(differences)).any(0).sum()), 1)
    found = _mean_interval(differences, level, groups, least_variance=1 / pairs**2)
    low, high = (float(np.clip(end, -1, 1)) for end in (found.low, found.high))
    return replace(found, low=low, high=high)


def holm(values: Sequence[float]) -> list[float]:
    """The p of several claims, so that all of them together are wrong as seldom as one alone; at most 1, NaN where it was NaN.

    Formula: of m in ascending order the k-th is (m - k + 1) p, and no less than those before it.
    Source: Holm, A simple sequentially rejective multiple test procedure, 1979.
    """
    defined = [place for place, value in enumerate(values) if not math.isnan(value)]
    adjusted, least = list(values), 0.0
    for rank, place in enumerate(sorted(defined, key=lambda place: values[place])):
        least = max(least, min((len(defined) - rank) * values[place], 1.0))
        adjusted[place] = least
    return adjusted


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


def rate(hits: ArrayLike, level: float = LEVEL, groups: Groups = ()) -> Interval:
    """A rate over seeds and pairs with Wilson's interval.

    Args:
        hits: (S, P) or (P,) of 0 and 1, NaN = not defined.
        level: of confidence, between 0 and 1.
        groups: of the pairs.

    Returns:
        The share of hits. Looks of several seeds at one pair, or of one at pairs of a group, are not independent trials, so
        the number of trials is the effective one, r (1 - r) / variance of `mean_interval`, at most S P, and the quantile is
        Student's. Where all or none hit there is no variance to go by, and only the pairs count as trials.

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
    share, looks, pairs = float(array[defined].mean()), float(defined.sum()), float(defined.any(0).sum())
    counted, *estimated = _variances_of_mean(array, groups)
    trials = [(pairs, math.inf)]
    if 0 < share < 1:
        estimated = estimated if len(array) == 1 else [counted, *estimated]
        of_variance = share * (1 - share)
        found = [(min(max(of_variance / max(v, 1e-12), 1.0), looks), f) for v, f in estimated if f > 0]
        trials = [*(trials if len(array) == 1 else []), *found]
    intervals = [wilson_interval(share * number, number, level, freedom) for number, freedom in trials]
    low, high = max(intervals, key=lambda ends: ends[1] - ends[0])
    return Interval(share, low, high, array.shape[0], array.shape[1])


def _mean_interval(array: Array, level: float, groups: Groups, least_variance: float) -> Interval:
    _check_level(level)
    variances = _variances_of_mean(array, groups)
    if np.isnan(array).all():
        return Interval(math.nan, math.nan, math.nan, *array.shape)
    mean = float(np.nanmean(array))
    found = [(math.sqrt(max(variance, least_variance)), freedom) for variance, freedom in variances if freedom > 0]
    if not found:
        return Interval(mean, math.nan, math.nan, *array.shape)
    half, spread, freedom = max((float(student.ppf((1 + level) / 2, f)) * spread, spread, f) for spread, f in found)
    p = 2 * float(student.sf(abs(mean) / spread, freedom)) if spread > 0 else float(mean == 0)
    return replace(Interval(mean, mean - half, mean + half, *array.shape), p=p)


def _variances_of_mean(array: Array, groups: Groups) -> list[tuple[float, float]]:
    """Variances of the mean of the defined values, each with its degrees of freedom, 0 = there is but one draw: with each pair
    a draw, then with each of the groups' labels one."""
    count = array.shape[1]
    for labels in groups:
        if np.shape(labels) != (count,):
            raise ValueError(f"a group's labels are {np.shape(labels)}, expected one for each of {count} pairs")
    defined = ~np.isnan(array)
    rest = np.where(defined, array - array[defined].mean() if defined.any() else 0.0, 0.0)
    return [
        _variance_of_mean(rest, defined, np.unique(of, return_inverse=True)[1]) for of in (np.arange(count), *groups)
    ]


def _variance_of_mean(rest: Array, defined: NDArray[np.bool_], draws: NDArray[np.int_]) -> tuple[float, float]:
    """One of `_variances_of_mean`.

    Args:
        rest: (S, P) values less the mean of all, 0 where none is defined.
        defined: (S, P).
        draws: (P,) number of the draw that each pair belongs to.
    """
    of_draw = np.equal.outer(draws, np.arange(draws.max() + 1)).astype(np.float64)
    sums, counts = rest @ of_draw, defined @ of_draw
    by_seed, seeds = _way(sums.sum(1), counts.sum(1))
    by_draw, freedom = _way(sums.sum(0), counts.sum(0))
    if seeds == 0 or freedom == 0:
        return by_draw, freedom
    for axis in (1, 0):
        means = sums.sum(axis, keepdims=True) / np.maximum(counts.sum(axis, keepdims=True), 1)
        sums = sums - counts * means
    of_both = float((sums**2).sum()) * int((counts > 0).sum()) / (seeds * freedom) / float(counts.sum()) ** 2
    variance = max(by_seed + by_draw - of_both, by_seed, by_draw)
    spread = by_seed**2 / seeds + by_draw**2 / freedom
    return variance, variance**2 / spread if spread > 0 else freedom


def _way(sums: Array, counts: Array) -> tuple[float, int]:
    """What the sums of draws say of the variance of the mean of all, and the number of draws less one."""
    freedom = int((counts > 0).sum()) - 1
    if freedom <= 0:
        return 0.0, 0
    return float((sums**2).sum()) * (freedom + 1) / freedom / float(counts.sum()) ** 2, freedom


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
