"""Intervals of shares, and how much of an axis belongs to a rate."""

import numpy as np
import pytest
from scipy import stats

from stabjax._intervals import decades, student, wilson


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


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_students_interval_is_scipys(confidence):
    values = np.random.default_rng(0).normal(size=7)
    found = student(values, confidence)
    of_scipy = stats.ttest_1samp(values, 0.0).confidence_interval(confidence)
    np.testing.assert_allclose(found, [values.mean(), of_scipy.low, of_scipy.high])


def test_all_estimates_are_printed_alike():
    found = student([1.0, 3.0])
    assert str(found) == f"{found}" == "2 [-10.71, 14.71]"
    assert f"{found:.1f}" == "2.0 [-10.7, 14.7]"
    assert str(student([1.5])) == "1.5"


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.inf], [1.0, np.nan, 2.0]])
def test_there_is_no_interval_of_one_seed_or_of_a_diverged_run(values):
    assert np.isnan(student(values)[1:]).all()
