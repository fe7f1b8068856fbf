"""figures: what is rounded never says what is not so."""

from __future__ import annotations

import numpy as np
import pytest

from pfv_mepa.pfv_core.figures import percent, times


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (0.0, "0%"),
        (1e-9, "<1%"),
        (0.005, "<1%"),
        (0.0051, "1%"),
        (0.25, "25%"),
        (0.994, "99%"),
        (0.996, ">99%"),
        (np.nextafter(1.0, 0.0), ">99%"),
        (1.0, "100%"),
    ],
)
def test_all_and_nothing_are_said_only_where_they_are_exact(share, told):
    assert percent(share) == told


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (1.0, "1"),
        (0.64, "0.64"),
        (2.5, "2.5"),
        (1602 / 1600, "1.001"),
        (0.9995, "0.9995"),
        (1 + 2**-40, "1.000000000001"),
    ],
)
def test_a_factor_reads_1_only_where_it_is(factor, told):
    assert times(factor) == told
