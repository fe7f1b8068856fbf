"""Intervals by hand where they can be had by hand, and by their coverage where they cannot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from lab.evaluation.statistics import (
    Interval,
    equivalent,
    hit_difference,
    holm,
    mean_interval,
    paired_difference,
    rate,
    wilson_interval,
)


def test_wilson_is_the_published_interval():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson_interval(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_wilson_with_estimated_trials_has_students_quantile():
    z = 4.302653  # of 2 degrees of freedom
    half = z * math.sqrt(0.25 / 10 + z**2 / 400) / (1 + z**2 / 10)
    assert wilson_interval(5, 10, freedom=2) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)


def test_wilson_refuses_what_is_no_rate():
    with pytest.raises(ValueError, match="3 successes in 2 trials"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="0 successes in 0 trials"):
        wilson_interval(0, 0)


def test_mean_of_one_seed_is_students():
    found = mean_interval([1.0, 2.0, 3.0, 6.0])
    error = math.sqrt(14 / 3 / 4)  # sum of squares 14
    assert found.value == 3.0
    assert (found.low, found.high) == pytest.approx((3 - 3.182446 * error, 3 + 3.182446 * error), abs=1e-5)
    assert (found.seeds, found.pairs) == (1, 4)


def test_seeds_alone_have_their_own_few_degrees_of_freedom():
    """Three seeds that differ and pairs that do not: the interval of three values, t = 4.303."""
    found = mean_interval(np.repeat([[1.0], [2.0], [3.0]], 50, axis=1))
    half = 4.302653 * math.sqrt(1 / 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-5)


def test_seeds_and_pairs_as_the_analysis_of_variance_has_them():
    """Mean squares of seeds, pairs and the rest: 4, 4 and 1, of four values."""
    found = mean_interval([[0.0, 1.0], [1.0, 4.0]])
    variance = (4 + 4 - 1) / 4
    freedom = variance**2 / (1.0**2 / 1 + 1.0**2 / 1)  # Satterthwaite
    half = student.ppf(0.975, freedom) * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((1.5 - half, 1.5 + half))


def test_one_value_has_no_interval():
    found = mean_interval([0.25])
    assert found.value == 0.25
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_wider_level_is_wider():
    values = np.random.default_rng(0).random((3, 20))
    wide, narrow = mean_interval(values), mean_interval(values, level=0.9)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_pairs_that_all_seeds_share_do_not_count_three_times():
    once = np.random.default_rng(1).normal(size=(1, 200))
    alone, thrice = mean_interval(once), mean_interval(np.repeat(once, 3, axis=0))
    assert thrice.high - thrice.low == pytest.approx(alone.high - alone.low, rel=0.01)


@pytest.mark.parametrize(
    ("seeds", "of_seeds", "of_pairs", "rest"),
    [(3, 0.5, 1.0, 0.5), (3, 0.0, 1.0, 0.5), (3, 0.1, 0.2, 1.0), (8, 0.5, 1.0, 0.5)],
)
def test_coverage_over_seeds_and_pairs(seeds, of_seeds, of_pairs, rest):
    """Seeds and pairs both vary: the interval holds the truth about as often as it says, with three seeds too."""
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(400):
        values = generator.normal(0, of_seeds, (seeds, 1)) + generator.normal(0, of_pairs, (1, 60))
        found = mean_interval(values + generator.normal(0, rest, (seeds, 60)))
        hits += found.low <= 0 <= found.high
    assert 0.90 <= hits / 400 <= 0.995


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("of_group", [0.0, 1.0])
def test_coverage_where_pairs_have_something_in_common(seeds, of_group):
    """Ten walls, drawn with the pairs: the interval holds the truth about as often as it says, whether or not walls
    matter; without the groups it does not where they do."""
    generator = np.random.default_rng(6)
    hits = {"grouped": 0, "alone": 0}
    for _ in range(400):
        walls = generator.integers(10, size=60)
        values = generator.normal(0, of_group, 10)[walls] + generator.normal(0, 1, (seeds, 60))
        for name, groups in (("grouped", [walls]), ("alone", [])):
            found = mean_interval(values, groups=groups)
            hits[name] += found.low <= 0 <= found.high
    assert 0.90 <= hits["grouped"] / 400 <= (0.995 if of_group else 1)
    assert (hits["alone"] / 400 < 0.7) == (of_group > 0)


def test_pairs_of_a_group_that_are_alike_count_once():
    """Ten walls whose six pairs show the same: the interval of the ten values, of a mean, of a difference and of a rate."""
    once = np.random.default_rng(7).random(10)
    walls = np.repeat(np.arange(10), 6)
    ten, sixty = mean_interval(once), mean_interval(once[walls], groups=[walls])
    assert (sixty.low, sixty.high, sixty.p) == pytest.approx((ten.low, ten.high, ten.p))
    assert paired_difference(once[walls], 0 * once[walls], groups=[walls]).low == pytest.approx(ten.low)
    hits = (once > 0.4).astype(float)
    grouped, counted = rate(hits[walls], groups=[walls]), rate(hits[walls])
    share = hits.mean()
    trials = 9  # of ten walls, whose variance is estimated
    assert (grouped.low, grouped.high) == pytest.approx(wilson_interval(share * trials, trials, freedom=9), abs=1e-9)
    assert grouped.high - grouped.low > 2 * (counted.high - counted.low)
    assert (
        hit_difference(hits[walls], 0 * hits[walls], groups=[walls]).low
        < hit_difference(hits[walls], 0 * hits[walls]).low
    )


def test_groups_never_make_an_interval_narrower():
    generator = np.random.default_rng(8)
    values = generator.normal(size=(3, 40))
    walls = np.repeat(np.arange(20), 2)
    values[:, 1::2] = -values[:, ::2]  # of each wall one above and one below: its sum says there is no spread
    alone, grouped = mean_interval(values), mean_interval(values, groups=[walls])
    assert (grouped.low, grouped.high) == (alone.low, alone.high)
    with pytest.raises(ValueError, match=r"a group's labels are \(20,\), expected one for each of 40 pairs"):
        mean_interval(values, groups=[walls[:20]])


def test_p_is_students():
    values = np.random.default_rng(9).normal(0.3, 1, 30)
    assert mean_interval(values).p == pytest.approx(ttest_1samp(values, 0).pvalue)
    assert paired_difference(values, values).p == 1.0
    assert mean_interval([1.0, 1.0]).p == 0.0
    assert math.isnan(rate([1.0, 0.0]).p)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, math.nan, 0.7])[::2] == [1.0, 1.0]
    assert math.isnan(holm([0.6, math.nan, 0.7])[1])
    assert holm([]) == []


def test_an_interval_of_pairs_alone_forgets_the_seeds():
    generator = np.random.default_rng(2)
    values = generator.normal(0, 0.5, (3, 1)) + generator.normal(0, 1.0, (1, 60))
    both, pairs = mean_interval(values), mean_interval(values.mean(0))
    assert both.high - both.low > 1.4 * (pairs.high - pairs.low)


def test_paired_difference_is_narrower_than_its_sides():
    generator = np.random.default_rng(3)
    shared = generator.normal(0, 1, (1, 300))
    first, second = shared + 0.1 + generator.normal(0, 0.05, (1, 300)), shared
    found = paired_difference(first, second)
    assert found.value == pytest.approx((first - second).mean())
    assert 0 < found.low < found.value < found.high < 0.12
    with pytest.raises(ValueError, match=r"first is \(1, 300\), second \(2, 300\)"):
        paired_difference(first, np.repeat(second, 2, axis=0))


def test_hits_of_which_no_pair_differs_are_not_certain():
    same = np.ones((1, 20))
    found = hit_difference(same, same)
    assert found.value == 0.0
    assert (found.low, found.high) == pytest.approx((-2.093024 / 20, 2.093024 / 20), abs=1e-5)  # t of 19 times 1 / P
    assert paired_difference(same, same).high == 0.0


def test_a_difference_of_hits_stays_within_what_it_can_be():
    found = hit_difference([1.0, 1.0, 1.0, 1.0, 0.0], [0.0] * 5)
    assert (found.value, found.high) == (0.8, 1.0)
    assert hit_difference([0.0] * 5, [1.0, 1.0, 1.0, 1.0, 0.0]).low == -1.0


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(-0.02, 0.02, True), (-0.03, 0.0, False), (0.01, 0.04, False), (0.0, 0.029, True)]
)
def test_equivalence_needs_both_ends_within_the_margin(low, high, expected):
    assert equivalent(Interval(0.0, low, high, 1, 10), 0.03) is expected


def test_undefined_values_are_left_out():
    found = mean_interval([[1.0, math.nan, 3.0], [math.nan, math.nan, 2.0]])
    assert found.value == 2.0
    assert found.low < 2.0 < found.high
    hole = np.random.default_rng(0).normal(size=(3, 40))
    whole, holed = mean_interval(hole), mean_interval(np.where(np.arange(40) == 7, math.nan, hole))
    assert holed.high - holed.low == pytest.approx(whole.high - whole.low, rel=0.1)
    three, four = mean_interval([1.0, 2.0, 4.0]), mean_interval([1.0, 2.0, 4.0, math.nan])
    assert (four.value, four.low, four.high) == (three.value, three.low, three.high)
    nothing = mean_interval([math.nan, math.nan])
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
    alone = rate(independent[:1])
    assert rate(independent).high - rate(independent).low < alone.high - alone.low
    perfect = rate(np.ones((3, 200)))
    assert perfect.value == perfect.high == 1.0
    assert perfect.low == pytest.approx(wilson_interval(200, 200)[0])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="values other than 0, 1 and NaN"):
        rate([0.5])
    with pytest.raises(ValueError, match=r"values are \(2, 2, 2\)"):
        mean_interval(np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match="level is 95"):
        mean_interval([1.0], level=95)
