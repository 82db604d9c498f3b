"""The range test: rates, running means, stops, and the rules that suggest a rate."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax

STEPS = np.arange(100)
RATES = 1e-7 * 1e8 ** (STEPS / 100)
U = np.log10(RATES)
LOSSES = 2.3 - 1.5 / (1 + np.exp(-2 * (U + 3))) + np.exp(3 * (U + 0.7))


@pytest.mark.parametrize(
    "rule, rate",
    [
        ("valley", 9.120108394e-05),
        ("slide", 2.754228703e-04),
        ("minimum", 2.290867653e-03),
        ("steep", 8.317637711e-04),
    ],
)
def test_published_suggestions(rule, rate):
    assert stabjax.suggest_rate(RATES, LOSSES, rule) == pytest.approx(rate, rel=1e-8)
    over = np.where(STEPS > 96, np.nan, LOSSES)
    both = stabjax.suggest_rate(RATES, [LOSSES, over], rule)
    assert both.shape == (2,) and both[0] == pytest.approx(rate, rel=1e-8)
    kept = np.isfinite(over)[:-8].sum()
    assert both[1] in RATES[:kept] or rule == "minimum"


def test_a_trial_that_is_over_at_once_suggests_nothing():
    losses = np.where(STEPS > 12, np.nan, LOSSES)
    assert np.isnan(stabjax.suggest_rate(RATES, losses, "slide"))
    assert stabjax.suggest_rate(RATES, np.exp(U)).item() in RATES  # only ever rising


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="rule must be 'valley', 'slide', .*'steep'"):
        stabjax.suggest_rate(RATES, LOSSES, "hill")
    with pytest.raises(ValueError, match="as many steps as rates"):
        stabjax.suggest_rate(RATES, LOSSES[1:])


CURVATURE = 50.0


def trace(rates, start):
    """The losses of gradient descent on c x^2 / 2, their running mean, and the stop."""
    x, mean, best, losses, smoothed = start, 0.0, np.inf, [], []
    for step, rate in enumerate(rates):
        losses.append(CURVATURE * x * x / 2)
        mean = 0.98 * mean + 0.02 * losses[-1]
        smoothed.append(mean / (1 - 0.98 ** (step + 1)))
        best = min(best, smoothed[-1])
        if smoothed[-1] > 4 * best:
            break
        x -= rate * CURVATURE * x
    return losses, smoothed


@pytest.mark.slow
def test_trials_run_at_once_and_stop_as_a_loop_would():
    def init(key):
        return jnp.stack([jax.random.uniform(key, minval=1.0, maxval=2.0)])

    problem = stabjax.problems.Problem(
        init, lambda x, _: CURVATURE * jnp.sum(x * x) / 2
    )
    keys = jax.random.split(jax.random.key(0), 3)
    test = stabjax.range_test(problem, optax.sgd, keys)
    np.testing.assert_allclose(test.rates, RATES, 1e-5)
    assert test.loss.shape == test.smoothed.shape == (3, 100)
    for trial in range(3):
        start = float(jnp.sqrt(2 * test.loss[trial, 0] / CURVATURE))
        losses, smoothed = trace(np.asarray(test.rates, float), start)
        assert 60 < len(smoothed) < 90
        assert np.isnan(test.smoothed[trial, len(smoothed) :]).all()
        np.testing.assert_allclose(
            test.smoothed[trial, : len(smoothed)], smoothed, 1e-3
        )
        np.testing.assert_allclose(test.loss[trial, : len(losses)], losses, 1e-3)
    one = stabjax.range_test(problem, optax.sgd, keys[1])
    np.testing.assert_allclose(one.smoothed, test.smoothed[1], 1e-6)


@pytest.mark.slow
def test_another_schedule_of_the_rate():
    problem = stabjax.problems.quadratic()
    ramp = stabjax.linear_schedule(0.0, 3.0, 50)
    test = stabjax.range_test(
        problem, optax.sgd, jax.random.key(0), steps=50, schedule=ramp
    )
    np.testing.assert_allclose(test.rates, 3.0 * np.arange(50) / 50, 2e-6)
