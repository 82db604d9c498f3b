"""Intervals of shares, and how much of an axis belongs to a rate."""

import numpy as np
import pytest
from scipy import stats

from stabjax._intervals import decades, wilson


@pytest.mark.parametrize("confidence", [0.95, 0.5])
def test_wilson_is_scipys(confidence):
    count, size = np.array([0, 1, 5, 8, 40]), np.array([8, 8, 8, 8, 100])
    low, high = wilson(count, size, confidence)
    for position in range(len(count)):
        test = stats.binomtest(int(count[position]), int(size[position]))
        expected = test.proportion_ci(confidence, "wilson")
        np.testing.assert_allclose(low[position], expected.low, atol=1e-15)
        np.testing.assert_allclose(high[position], expected.high)
    assert np.isnan(wilson(0, 0)).all()


def test_decades_are_the_number_of_rates_times_their_distance():
    np.testing.assert_allclose(decades(np.logspace(-3, 1, 9)), 0.5)
    np.testing.assert_allclose(decades([1.0, 10.0, 1000.0]), [1.0, 1.5, 2.0])
    assert decades([0.1]).tolist() == [0.0]
