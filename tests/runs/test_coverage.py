"""Intervals hold a known truth as often as they say; `benchmarks/answers.py` counts."""

import pathlib
import runpy

import numpy as np
import pytest
from scipy import stats

SCRIPT = pathlib.Path(__file__).parents[2] / "benchmarks" / "answers.py"
DRAWS = 200

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(SCRIPT))


def assert_plausible(coverage, low=0.93, high=0.97, draws=DRAWS):
    """One in 10,000 tests fails by chance if the true coverage is in this range."""
    count = round(coverage * draws)
    assert stats.binom.cdf(count, draws, low) > 1e-4, coverage
    assert stats.binom.sf(count - 1, draws, high) > 1e-4, coverage


@pytest.mark.parametrize("curve", ["parabola", "skewed", "exponential"])
@pytest.mark.parametrize("noise", [0.02, 0.3])
def test_optimum_covers(benchmark, curve, noise):
    rng = np.random.default_rng(1)
    coverage, width = benchmark["optimum_coverage"](rng, DRAWS, curve, 8, noise)
    assert_plausible(coverage)
    assert width < 4 * noise


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_optimum_covers_beside_a_cliff(benchmark, noise):
    rng = np.random.default_rng(1)
    coverage, _ = benchmark["optimum_coverage"](rng, DRAWS, "cliff", 8, noise)
    assert_plausible(coverage)


@pytest.mark.parametrize("curve", ["parabola", "skewed", "exponential", "cliff"])
@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_optimum_covers_with_five_rates(benchmark, curve, noise):
    rng, few = np.random.default_rng(1), benchmark["FEW_RATES"]
    found = benchmark["optimum_coverage"](rng, DRAWS, curve, 8, noise, few)
    assert_plausible(found[0], high=1.0)


def test_a_bootstrapped_parabola_does_not(benchmark):
    rng = np.random.default_rng(1)
    coverage, _ = benchmark["bootstrap_coverage"](rng, 100, "skewed", 8, 0.1)
    assert coverage < 0.2


def test_edge_flags_are_right(benchmark):
    rng = np.random.default_rng(1)
    flags = benchmark["edge_flags"](rng, 100, 8, 0.3)
    for right in flags.values():
        assert_plausible(right, low=0.99, high=1.0, draws=100)


@pytest.mark.parametrize("settings", [(9, 9), (81, 9), (9, 1)])
def test_compare_covers_without_bias(benchmark, settings):
    rng = np.random.default_rng(1)
    found = benchmark["compare_coverage"](rng, DRAWS, settings, 16, 0.3)
    coverage, bias, _ = found["stabjax"]
    assert_plausible(coverage)
    assert abs(bias) < 0.2
    assert found["one left out"][0] < coverage


def test_scaling_covers(benchmark):
    rng = np.random.default_rng(1)
    for coverage in benchmark["scaling_coverage"](rng, DRAWS, 8, 0.2):
        assert_plausible(coverage)
