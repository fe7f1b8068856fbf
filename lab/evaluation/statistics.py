"""Confidence intervals of what was measured on the same pairs with several trained seeds.

Values come as (S, P): S seeds of a training, P pairs, and every seed sees the same pairs. So a draw resamples the seeds
and, once for all of them, the pairs: drawing pairs anew for each seed would take S looks at one pair for S pairs.
NaN marks a value that is not defined, such as the colour of a wall of which nothing shows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval; all NaN where nothing was measured.

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


def bootstrap_mean(values: ArrayLike, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over seeds and pairs, with a percentile interval of the two-way bootstrap.

    Args:
        values: (S, P) or (P,), NaN = not defined.
        level: of confidence, between 0 and 1.
        resamples: draws.
        seed: of the draws; the same gives the same interval.

    Returns:
        The mean of all defined values; its draws resample seeds and pairs with replacement. One seed says nothing of
        the spread over seeds: then the interval is over pairs alone.

    Raises:
        ValueError: wrong shape, level or number of draws.
    """
    array = _seeds_by_pairs(values)
    _check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, expected 1 or more")
    defined = ~np.isnan(array)
    if not defined.any():
        return Interval(math.nan, math.nan, math.nan, *array.shape)
    means = _resampled_means(array, defined, resamples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(array[defined].mean()), float(low), float(high), *array.shape)


def paired_difference(
    first: ArrayLike, second: ArrayLike, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Mean of first - second, pair by pair, as `bootstrap_mean` gives it.

    Raises:
        ValueError: shapes that differ, and what `bootstrap_mean` raises.
    """
    one, other = _seeds_by_pairs(first), _seeds_by_pairs(second)
    if one.shape != other.shape:
        raise ValueError(f"first is {one.shape}, second {other.shape}: paired values need the same seeds and pairs")
    return bootstrap_mean(one - other, level, resamples, seed)


def wilson_interval(successes: float, trials: float, level: float = LEVEL) -> tuple[float, float]:
    """Ends of Wilson's score interval of a rate; within 0..1, and not empty at 0 or 1.

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    _check_level(level)
    if not trials > 0 or not 0 <= successes <= trials:
        raise ValueError(f"{successes:g} successes in {trials:g} trials: expected 0 <= successes <= trials, trials > 0")
    z = float(norm.ppf((1 + level) / 2))
    rate = successes / trials
    middle = rate + z**2 / (2 * trials)
    half = z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    low, high = (middle - half) / scale, (middle + half) / scale
    return (0.0 if successes == 0 else max(low, 0.0)), (1.0 if successes == trials else min(high, 1.0))


def rate(hits: ArrayLike, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """A rate over seeds and pairs with Wilson's interval.

    Args:
        hits: (S, P) or (P,) of 0 and 1, NaN = not defined.
        level, resamples, seed: see `bootstrap_mean`.

    Returns:
        The share of hits. Looks of several seeds at one pair are not independent trials, so the number of trials is
        the effective one, r (1 - r) / variance of the two-way bootstrap, at most S P. Where all or none hit there is
        no variance to go by, and only the pairs count as trials.

    Raises:
        ValueError: values other than 0, 1 and NaN, and what `bootstrap_mean` raises.
    """
    array = _seeds_by_pairs(hits)
    _check_level(level)
    defined = ~np.isnan(array)
    if not np.isin(array[defined], (0.0, 1.0)).all():
        raise ValueError("hits hold values other than 0, 1 and NaN: a rate counts hits")
    if not defined.any():
        return Interval(math.nan, math.nan, math.nan, *array.shape)
    share = float(array[defined].mean())
    trials = float(defined.any(0).sum())
    if 0 < share < 1 and array.shape[0] > 1:
        variance = float(_resampled_means(array, defined, resamples, seed).var())
        trials = min(max(share * (1 - share) / max(variance, 1e-12), 1.0), float(defined.sum()))
    return Interval(share, *wilson_interval(share * trials, trials, level), *array.shape)


def _seeds_by_pairs(values: ArrayLike) -> NDArray[np.float64]:
    array = np.atleast_2d(np.asarray(values, dtype=np.float64))
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"values are {np.shape(values)}, expected (seeds, pairs) or (pairs,), at least one of each")
    return array


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a confidence between 0 and 1, such as 0.95")


def _resampled_means(
    array: NDArray[np.float64], defined: NDArray[np.bool_], resamples: int, seed: int
) -> NDArray[np.float64]:
    """(R,) means; a draw is how often it takes each seed and each pair, so a mean is two products."""
    generator = np.random.default_rng(seed)
    seeds, pairs = array.shape
    of_seeds = generator.multinomial(seeds, np.full(seeds, 1 / seeds), resamples).astype(np.float64)
    of_pairs = generator.multinomial(pairs, np.full(pairs, 1 / pairs), resamples).astype(np.float64)
    total = ((of_seeds @ np.where(defined, array, 0.0)) * of_pairs).sum(1)
    count = ((of_seeds @ defined.astype(np.float64)) * of_pairs).sum(1)
    means: NDArray[np.float64] = total[count > 0] / count[count > 0]
    return means
