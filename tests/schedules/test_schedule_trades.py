"""Decays of papers, and what replaces a decay: averages, larger batches, decay of
weights. Each is exact against the rule of its paper.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from curves import curve

import stabjax

PEAK = 0.3


@pytest.mark.slow
def test_a_power_cooldown_is_a_power_of_the_steps_left():
    # Li et al., 2026: eta(z) = peak (1 - z / N)^p. Luo et al., 2025: p = 1.5.
    counts = np.arange(25)
    for power in (0.5, 1.5, 3.0):
        whole = stabjax.wsd_schedule(PEAK, 0, 0, 20, shape=power)
        expected = PEAK * np.clip(1 - counts / 20, 0, 1) ** power
        np.testing.assert_allclose(curve(whole, counts), expected, rtol=1e-4)
        same = stabjax.polynomial_schedule(PEAK, 0.0, power, 20)
        np.testing.assert_allclose(curve(whole, counts), curve(same, counts), 1e-4)
    slope = jax.grad(lambda p: stabjax.wsd_schedule(PEAK, 0, 0, 20, shape=p)(5))(2.0)
    np.testing.assert_allclose(slope, PEAK * 0.75**2 * np.log(0.75), rtol=1e-5)
    # A warmup is a reversed cooldown.
    constant = stabjax.constant_schedule(PEAK)
    warm = stabjax.with_warmup(constant, 10, shape=2.0)
    expected = PEAK * counts[:11] ** 2 / 100
    np.testing.assert_allclose(curve(warm, counts[:11]), expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [0.0, -1.0, np.nan, "power"])
def test_a_shape_is_a_name_or_a_positive_power(shape):
    with pytest.raises(ValueError, match="shape must be"):
        stabjax.wsd_schedule(PEAK, 0, 5, 5, shape=shape)
    if not isinstance(shape, str):
        traced = jax.jit(lambda p: stabjax.wsd_schedule(PEAK, 0, 5, 5, shape=p)(3))
        assert np.isnan(traced(shape))


def test_wsd_s_decays_harmonically_and_restarts_at_the_peak():
    # Wen et al., 2024, as in their code: lr / (1 + (lr / min - 1) q).
    low, boundaries, decays = 0.03, (10, 30), (4, 8)
    schedule = stabjax.wsd_s_schedule(PEAK, 2, boundaries, decays, end_value=low)
    expected = np.full(40, PEAK)
    expected[:2] = 0.0, PEAK / 2
    for end, length in zip(boundaries, decays, strict=True):
        q = np.arange(length) / length
        expected[end - length : end] = PEAK / (1 + (PEAK / low - 1) * q)
    expected[30:] = low
    np.testing.assert_allclose(curve(schedule, np.arange(40)), expected, rtol=1e-6)
    for wrong in (((), ()), ((5,), (1, 2))):
        with pytest.raises(ValueError, match="of one length"):
            stabjax.wsd_s_schedule(PEAK, 2, *wrong, end_value=low)


def trajectory(rates, updates):
    """Weights before and after each update, which the weights do not influence."""
    return np.vstack([np.ones(3), 1 - np.cumsum(rates[:, None] * updates, axis=0)])


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["linear", "1-sqrt", "cosine", 1.5])
def test_an_average_of_checkpoints_equals_a_decay(shape):
    updates = np.random.default_rng(0).normal(size=(50, 3))
    schedule = stabjax.wsd_schedule(PEAK, 0, 30, 20, shape=shape)
    decayed = trajectory(np.asarray(curve(schedule, np.arange(50))), updates)[-1]
    saved = trajectory(np.full(50, PEAK), updates)
    counts = np.arange(30, 51)
    weights = stabjax.weights_for(schedule, counts, PEAK)
    np.testing.assert_allclose(weights @ saved[counts], decayed, atol=1e-5)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-6)
    assert (weights > -1e-6).all()
    # Tian et al., 2025, Theorem 3.1: c_j = w_j - w_{j+1}; sparse checkpoints as well.
    sparse = counts[::5]
    shares = np.asarray(curve(schedule, np.arange(30, 50))).reshape(4, 5).mean(1) / PEAK
    expected = -np.diff([1, *shares, 0])
    found = stabjax.weights_for(schedule, sparse, PEAK)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("counts", [[3], [3, 3], [4, 2], [-1, 2]])
def test_checkpoints_must_be_in_order(counts):
    schedule = stabjax.constant_schedule(PEAK)
    with pytest.raises(ValueError, match="ascending order"):
        stabjax.weights_for(schedule, counts, PEAK)


def test_tokens_are_the_sum_of_the_batch_sizes():
    ramp = {3: 2.0, 5: 1.5, 9: 0.5}
    sizes = curve(stabjax.piecewise_constant_schedule(1e9, ramp), np.arange(30))
    tokens = np.concatenate([[0], np.cumsum(np.asarray(sizes, float))])[:30]
    decay = stabjax.cosine_decay_schedule(PEAK, 40e9)
    schedule = stabjax.token_schedule(decay, 1e9, ramp)
    expected = PEAK * (1 + np.cos(np.pi * np.minimum(tokens / 40e9, 1))) / 2
    np.testing.assert_allclose(curve(schedule, np.arange(30)), expected, atol=1e-6)


@pytest.mark.slow
def test_seesaw_divides_the_rate_by_the_root_of_what_the_batch_grows_by():
    tokens, size = 100_000.0, 10.0
    for factor in (2.0, 1.1):
        decay = stabjax.linear_schedule(PEAK, 0.0, tokens)
        rate, batch = stabjax.seesaw_schedules(
            decay, tokens, size, factor=factor, cuts=3
        )
        seen, cut = 0.0, 0
        for step in range(10_000):
            # The cuts of the schedule at a constant batch size, by hand.
            while cut < 3 and seen >= tokens * (1 - factor ** -(cut + 1.0)):
                cut += 1
            expected = PEAK * factor ** (-cut / 2), size * factor**cut
            if step % 97 == 0:
                found = float(rate(step)), float(batch(step))
                np.testing.assert_allclose(found, expected, rtol=1e-5)
            seen += expected[1]
            if seen >= tokens:
                break


@pytest.mark.slow
def test_seesaw_saves_the_steps_that_the_paper_reports():
    # A quarter of a cosine: 1 - 2 / pi of the steps, 36%, in the limit of small cuts.
    def quarter(tokens):
        return PEAK * jnp.cos(jnp.pi / 2 * tokens / 1e5)

    _, batch = stabjax.seesaw_schedules(quarter, 1e5, 1.0, factor=1.06, cuts=60)
    steps = np.arange(100_000, dtype=np.int32)
    sizes = np.asarray(jax.jit(batch)(steps), float)
    needed = np.searchsorted(np.cumsum(sizes), 1e5)
    assert 2 / np.pi < needed / 1e5 < 1.06 * 2 / np.pi


def test_seesaw_warms_up_at_the_initial_batch_size():
    decay = stabjax.warmup_cosine_decay_schedule(0.0, PEAK, 1000, 10_000)
    rate, batch = stabjax.seesaw_schedules(decay, 1e4, 10, warmup_tokens=1000)
    np.testing.assert_allclose(
        [rate(0), rate(50), rate(99), rate(100), rate(101)],
        PEAK * np.array([0, 0.5, 0.99, 1, 1]),
        rtol=1e-5,
    )
    assert float(batch(100)) == 10
    with pytest.raises(ValueError, match="factor must be > 1"):
        stabjax.seesaw_schedules(decay, 1e4, 10, factor=1.0)
    traced = jax.jit(lambda a: stabjax.seesaw_schedules(decay, 1e4, 10, factor=a)[1](3))
    assert np.isnan(traced(0.5)) and traced(2.0) == 10


def test_adamc_decays_weights_by_the_square_of_the_rate(standard_promotion):
    # Defazio, 2025: the weights lose gamma_t^2 / gamma_max lambda of themselves.
    rate = stabjax.warmup_cosine_decay_schedule(0.0, PEAK, 3, 10)
    decay = stabjax.multiply_schedules([rate, stabjax.constant_schedule(0.5 / PEAK)])
    tx = optax.inject_hyperparams(optax.adamw)(rate, weight_decay=decay)
    params = jnp.array([1.0, -2.0])
    state, expected = tx.init(params), np.asarray(params, float)
    for step in range(10):
        updates, state = tx.update(jnp.zeros(2), state, params)
        params = optax.apply_updates(params, updates)
        expected = expected * (1 - float(rate(step)) ** 2 / PEAK * 0.5)
    np.testing.assert_allclose(params, expected, rtol=1e-5)


def test_the_timescale_of_adamw_is_the_inverse_of_rate_times_decay(standard_promotion):
    # Wang and Aitchison, 2024, and Bergsma et al., 2025: after tau = 1 / (eta lambda)
    # steps, an update has about the share 1 / e of its initial weight.
    timescale = 200
    tx = optax.adamw(PEAK, weight_decay=1 / (PEAK * timescale))
    params, state = jnp.ones(1), tx.init(jnp.ones(1))
    for _ in range(timescale):
        updates, state = tx.update(jnp.zeros(1), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, (1 - 1 / timescale) ** timescale, rtol=1e-4)
    assert float(params[0]) == pytest.approx(np.exp(-1), rel=0.01)
