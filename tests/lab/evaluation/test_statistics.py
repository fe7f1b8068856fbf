"""Intervals by hand where they can be had by hand, and by their coverage where they cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lab.evaluation.statistics import bootstrap_mean, paired_difference, rate, wilson_interval


def test_wilson_is_the_published_interval():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_wilson_refuses_what_is_no_rate():
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="0 successes in 0 trials"):
        wilson_interval(0, 0)


def test_mean_of_one_seed_is_the_usual_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = bootstrap_mean(values, resamples=4000)
    error = values.std() / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert (found.seeds, found.pairs) == (1, 400)


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random((3, 20))
    assert bootstrap_mean(values) == bootstrap_mean(values)
    assert bootstrap_mean(values) != bootstrap_mean(values, seed=1)


def test_pairs_that_all_seeds_share_do_not_count_three_times():
    once = np.random.default_rng(1).normal(size=(1, 200))
    alone, thrice = bootstrap_mean(once), bootstrap_mean(np.repeat(once, 3, axis=0))
    assert thrice.high - thrice.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_coverage_over_seeds_and_pairs():
    """Seeds and pairs both vary: the interval holds the truth about as often as it says, and one of pairs alone does not."""
    generator = np.random.default_rng(2)
    hits = alone = 0
    for trial in range(200):
        of_seeds, of_pairs = generator.normal(0, 0.5, (8, 1)), generator.normal(0, 1.0, (1, 60))
        values = of_seeds + of_pairs + generator.normal(0, 0.5, (8, 60))
        both = bootstrap_mean(values, resamples=400, seed=trial)
        pairs = bootstrap_mean(values.mean(0), resamples=400, seed=trial)
        hits += both.low <= 0 <= both.high
        alone += pairs.low <= 0 <= pairs.high
    assert 0.88 <= hits / 200 <= 1.0
    assert alone < hits


def test_paired_difference_is_narrower_than_its_sides():
    generator = np.random.default_rng(3)
    shared = generator.normal(0, 1, (1, 300))
    first, second = shared + 0.1 + generator.normal(0, 0.05, (1, 300)), shared
    found = paired_difference(first, second)
    assert found.value == pytest.approx((first - second).mean())
    assert 0 < found.low < found.value < found.high < 0.12
    with pytest.raises(ValueError, match=r"first is \(1, 300\), second \(2, 300\)"):
        paired_difference(first, np.repeat(second, 2, axis=0))


def test_undefined_values_are_left_out():
    found = bootstrap_mean([[1.0, math.nan, 3.0], [math.nan, math.nan, 2.0]])
    assert found.value == 2.0
    assert 1.0 <= found.low <= found.high <= 3.0
    nothing = bootstrap_mean([math.nan, math.nan])
    assert math.isnan(nothing.value)
    assert math.isnan(nothing.low)


def test_rate_of_one_seed_is_wilsons():
    found = rate([1.0] * 81 + [0.0] * 182)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_rate_of_three_equal_seeds_is_no_surer_than_one():
    once = (np.random.default_rng(4).random((1, 200)) < 0.7).astype(float)
    alone, thrice = rate(once), rate(np.repeat(once, 3, axis=0))
    assert thrice.high - thrice.low == pytest.approx(alone.high - alone.low, rel=0.1)


def test_rate_of_seeds_that_differ_is_surer_but_never_empty():
    independent = (np.random.default_rng(5).random((3, 200)) < 0.7).astype(float)
    assert rate(independent).high - rate(independent).low < 0.13  # 0.127 with 200 trials
    perfect = rate(np.ones((3, 200)))
    assert perfect.value == perfect.high == 1.0
    assert perfect.low == pytest.approx(wilson_interval(200, 200)[0])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="values other than 0, 1 and NaN"):
        rate([0.5])
    with pytest.raises(ValueError, match=r"values are \(2, 2, 2\)"):
        bootstrap_mean(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="level is 95"):
        bootstrap_mean([1.0], level=95)
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_mean([1.0], resamples=0)
