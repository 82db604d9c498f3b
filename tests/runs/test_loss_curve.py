"""The Multi-Power Law: its sum, its fit, its derivatives, and wrong calls."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax
from stabjax.runs import LossCurve, fit_loss_curve, loss_curve

# Luo et al., 2025: the parameters of their model with 25 M parameters.
LAW = LossCurve(
    3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257
)
PEAK = 3e-4
CONSTANT = stabjax.constant_schedule(PEAK)
HALVED = stabjax.piecewise_constant_schedule(PEAK, {400: 0.3})
COSINE = stabjax.warmup_cosine_decay_schedule(0.0, PEAK, 50, 1000, 1e-5)
STEPS = np.arange(100, 1000, 30)


def by_hand(law, rates, step):
    """The double sum of the paper, with a loop."""
    floor, scale, alpha, drop, speed, beta, gamma = law
    total = 0.0
    for k in range(1, step + 1):
        spent = rates[k : step + 1].sum()
        effect = 1 - (1 + speed * rates[k] ** -gamma * spent) ** -beta
        total += (rates[k - 1] - rates[k]) * effect
    return floor + scale * rates[: step + 1].sum() ** -alpha - drop * total


@pytest.mark.slow
def test_the_law_is_the_sum_of_the_paper():
    rates = np.asarray(jax.vmap(COSINE)(jnp.arange(1000)), float)
    steps = np.array([[1, 60], [500, 999]])
    expected = [[by_hand(LAW, rates, step) for step in row] for row in steps]
    with jax.enable_x64(True):
        np.testing.assert_allclose(LAW.predict(rates, steps), expected, rtol=1e-12)
    np.testing.assert_allclose(LAW.predict(COSINE, steps), expected, rtol=1e-5)
    assert LAW.predict(COSINE, 999).shape == ()


@pytest.mark.slow
def test_a_fit_recovers_the_law_and_predicts_another_schedule():
    curves = [(s, STEPS, LAW.predict(s, STEPS)) for s in (CONSTANT, HALVED)]
    found = fit_loss_curve(curves)
    expected = LAW.predict(COSINE, STEPS)
    np.testing.assert_allclose(found.predict(COSINE, STEPS), expected, rtol=1e-3)
    for schedule, steps, losses in curves:
        np.testing.assert_allclose(found.predict(schedule, steps), losses, rtol=1e-3)
    # The unit of the rate does not matter.
    scaled = [(lambda count, s=s: 1e3 * s(count), *measured) for s, *measured in curves]
    again = fit_loss_curve(scaled).predict(lambda count: 1e3 * COSINE(count), STEPS)
    np.testing.assert_allclose(again, found.predict(COSINE, STEPS), rtol=1e-5)
    assert str(found).startswith("LossCurve(floor=") and len(found.to_dict()) == 7


def test_consecutive_changes_may_be_merged_in_a_fit():
    rates = np.asarray(jax.vmap(COSINE)(jnp.arange(1000)), float)
    rates[700:] *= 0.5  # a sudden change among gradual ones
    losses = np.array([by_hand(LAW, rates, step) for step in STEPS])
    with jax.enable_x64(True):
        merged = loss_curve._measured(PEAK, rates, STEPS, losses)
        assert merged.falls.amounts.size < 100
        law = LAW._replace(
            scale=LAW.scale * PEAK**-LAW.alpha,
            drop=LAW.drop * PEAK,
            speed=LAW.speed * PEAK ** (1 - LAW.gamma),
        )
        got = loss_curve._law(law, merged.falls, merged.sums)
    np.testing.assert_allclose(got, losses, atol=1e-3)


@pytest.mark.slow
def test_the_numbers_of_a_schedule_have_derivatives():
    def final_loss(length, end):
        schedule = stabjax.wsd_schedule(PEAK, 50, 949 - length, length, end_value=end)
        return LAW.predict(schedule, 999)

    slopes = jax.jit(jax.grad(final_loss, (0, 1)))(200.0, 1e-5)
    with jax.enable_x64(True):
        expected = [
            (final_loss(205.0, 1e-5) - final_loss(195.0, 1e-5)) / 10,
            (final_loss(200.0, 1.1e-5) - final_loss(200.0, 0.9e-5)) / 2e-6,
        ]
    np.testing.assert_allclose(slopes, expected, rtol=0.02)
    # A rate of zero has no effect left, and finite derivatives.
    value, slopes = jax.value_and_grad(final_loss, (0, 1))(200.0, 0.0)
    assert np.isfinite([value, *slopes]).all()


@pytest.mark.slow
def test_a_dataset_of_runs_can_be_fitted():
    problem = stabjax.problems.quadratic_deep()
    lengths = {"none": 1, "half": 100, "all": 200}

    def make_optimizer(decay):
        length = lengths[decay]
        schedule = stabjax.wsd_schedule(0.02, 0, 200 - length, length, end_value=1e-3)
        return stabjax.with_learning_rate(optax.sgd, schedule)

    space = stabjax.grid(decay=["none", "half"], seed=range(3))
    runs = stabjax.sweep(problem, make_optimizer, space, steps=200, record_every=1)
    found = fit_loss_curve(runs)
    rates = runs.learning_rate.sel(decay="half", seed=0).to_numpy()
    loss = runs.loss.sel(decay="half").mean("seed").to_numpy()
    predicted = found.predict(rates, np.arange(100, 199))
    assert abs(np.median(predicted / loss[101:] - 1)) < 0.2
    sparse = runs.isel(step=slice(0, None, 5))
    with pytest.raises(ValueError, match="every step"):
        fit_loss_curve(sparse)
    with pytest.raises(ValueError, match="learning_rate"):
        fit_loss_curve(runs.drop_vars("learning_rate"))


GOOD = (CONSTANT, STEPS, np.ones(STEPS.size))


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ([], "at least one curve"),
        ([(CONSTANT, [1, 2], [1.0, 1.0])], "at least seven losses"),
        ([(CONSTANT, [1, 2], [1.0])], "of one size"),
        ([(CONSTANT, [-1, 2], [1.0, 1.0])], "steps must be >= 0"),
        ([(CONSTANT, [1, 2], [1.0, -1.0])], "losses must be in"),
        ([(CONSTANT, [1, 2], [1.0, np.nan])], "losses must be in"),
        ([([PEAK] * 3, [1, 3], [1.0, 1.0])], "at least 4 rates"),
        ([GOOD, ([PEAK, -PEAK, PEAK], [1, 2], [1.0, 1.0])], "schedule must be >= 0"),
    ],
)
def test_wrong_curves_are_refused(curves, message):
    with pytest.raises(ValueError, match=message):
        fit_loss_curve(curves)
