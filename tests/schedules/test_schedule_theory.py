"""The bound, what follows from it, and refined schedules: published numbers, models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax

LINEAR = stabjax.linear_schedule
WSD = stabjax.wsd_schedule


def cooling(steps, fraction, shape="linear", plateau=1.0):
    return WSD(plateau, 0, steps * (1 - fraction), steps * fraction, shape=shape)


# schedule, steps, best rate, best value: those of the authors' code.
PUBLISHED = {
    "wsd 0.2": (cooling(400, 0.2), 400, 0.02537366, 0.10932301),
    "wsd 0.4": (cooling(400, 0.4), 400, 0.03007013, 0.10376161),
    "linear": (LINEAR(1.0, 0.0, 400), 400, 0.04956313, 0.10062987),
    "cosine": (stabjax.cosine_decay_schedule(1.0, 400), 400, 0.04824189, 0.10338591),
    "1/sqrt": (stabjax.inverse_sqrt_schedule(1.0, 1), 400, 0.21208558, 0.12226427),
    "constant": (stabjax.constant_schedule(1.0), 400, 0.01817590, 0.13754481),
    "1-sqrt": (cooling(400, 0.2, "1-sqrt"), 400, 0.02684614, 0.10728815),
    "linear 100": (LINEAR(1.0, 0.0, 100), 100, 0.09725521, 0.20360842),
    "wsd 100": (cooling(100, 0.2), 100, 0.04954420, 0.22302758),
    "wsd 4000": (cooling(4000, 0.2), 4000, 0.00811829, 0.03421152),
    "linear 4000": (LINEAR(1.0, 0.0, 4000), 4000, 0.01579290, 0.03165189),
}


@pytest.mark.slow
@pytest.mark.parametrize("steps", [100, 400, 4000])
def test_published_bounds(steps):
    rows = [row for row in PUBLISHED.values() if row[1] == steps]

    @jax.jit
    def bounds():
        return [stabjax.schedule_bound(schedule, steps) for schedule, *_ in rows]

    with jax.enable_x64(True):
        exact = bounds()
    for bound, in_float32, (_, _, rate, value) in zip(
        exact, bounds(), rows, strict=True
    ):
        assert float(bound.best_rate) == pytest.approx(rate, rel=6e-7)
        assert float(bound.best_value) == pytest.approx(value, rel=2e-7)
        assert in_float32.best_value.dtype == jnp.float32
        np.testing.assert_allclose(in_float32.best_value, value, 1e-5)


def test_the_terms_of_a_short_bound():
    def schedule(count):
        return jnp.array([1.0, 1.0, 1.0, 2 / 3, 1 / 3])[count]

    bound = stabjax.schedule_bound(schedule, 5, distance=3.0, gradient_norms=2.0)
    assert float(bound.value) == pytest.approx(8.125, rel=1e-6)
    assert float(bound.best_rate) ** 2 == pytest.approx(1.125 / 7, rel=1e-6)
    norms = np.array([3.0, 2.0, 1.0, 2.0, 1.0])
    bound = stabjax.schedule_bound(schedule, 5, distance=1.5, gradient_norms=norms)
    assert float(bound.value) == pytest.approx(0.28125 + 1.98611111 + 3.84722222)
    assert float(bound.best_rate) == pytest.approx(0.21957752, rel=1e-6)
    assert float(bound.best_value) == pytest.approx(2.56173769, rel=1e-6)


def test_the_bound_of_a_multiple_is_told_by_the_best():
    schedule = cooling(50, 0.3)
    best = stabjax.schedule_bound(schedule, 50, distance=2.0, gradient_norms=0.5)
    scaled = stabjax.multiply_schedules([schedule, lambda _: best.best_rate])
    bound = stabjax.schedule_bound(scaled, 50, distance=2.0, gradient_norms=0.5)
    np.testing.assert_allclose(bound.value, best.best_value, 1e-6)
    np.testing.assert_allclose(bound.best_rate, 1.0, 1e-6)


def test_steps_that_do_not_move_change_nothing():
    ramp = LINEAR(1.0, 0.0, 20)
    warmed = stabjax.with_warmup(ramp, 10)

    @jax.jit
    def bounds():
        return [
            stabjax.schedule_bound(ramp, 20),
            stabjax.schedule_bound(ramp, 30),  # zeros at the end
            stabjax.schedule_bound(warmed, 30),
            stabjax.schedule_bound(stabjax.shift_schedule(warmed, -9), 39),  # at first
        ]

    shorter, longer, early, late = bounds()
    np.testing.assert_allclose(longer, shorter, 1e-6)
    np.testing.assert_allclose(late, early, 1e-6)


@pytest.mark.slow
def test_the_bound_can_be_mapped_and_differentiated():
    def best(fraction):
        return stabjax.schedule_bound(cooling(40, fraction), 40).best_value

    fractions = jnp.array([0.2, 0.5, 1.0])
    values, slopes = jax.jit(jax.vmap(jax.value_and_grad(best)))(fractions)
    np.testing.assert_allclose(values[1], best(0.5), 1e-6)
    assert np.isfinite(slopes).all() and slopes[0] < 0


@pytest.mark.slow
def test_growing_and_shrinking_gradients():
    # G_t = t ** a at T = 400: the trapezoid is ahead where gradients shrink.
    cosine = stabjax.cosine_decay_schedule(1.0, 400)
    found = []
    for power in (-0.5, -1.0):
        norms = np.arange(1.0, 401.0) ** power
        for schedule in (cosine, cooling(400, 0.2)):
            bound = stabjax.schedule_bound(schedule, 400, gradient_norms=norms)
            found.append(float(bound.best_value))
    np.testing.assert_allclose(found, [0.013436, 0.009056, 0.006445, 0.003586], 2e-4)


@pytest.mark.slow
def test_the_best_cooldown_at_a_given_rate():
    for rate, fraction in ((0.02, 0.29), (0.04, 0.79), (0.05, 1.0), (0.07, 1.0)):
        found = stabjax.best_cooldown_fraction(400, rate)
        assert float(found) == pytest.approx(fraction, abs=1e-6)


def longer_trapezoid(steps):
    return lambda fraction: cooling(steps, fraction)


def lowered_plateau(tuned, steps):
    """Lower from the end of the first plateau on, and cool down over the last fifth."""

    def make(rho):
        plateau = stabjax.piecewise_constant_schedule(1.0, ([0.8 * tuned], [rho]))
        return stabjax.with_cooldown(plateau, 0.8 * steps, 0.2 * steps)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("make", [longer_trapezoid, lambda n: lowered_plateau(40, n)])
def test_a_tuned_run_goes_on_to_a_longer_horizon(make):
    @jax.jit
    def found():
        tuned = stabjax.schedule_bound(cooling(40, 0.2), 40).best_rate
        x = stabjax.transfer_to_horizon(make(60), 60, tuned, low=0.3)
        # Nothing there has that rate: the nearer end.
        clipped = stabjax.transfer_to_horizon(make(60), 60, tuned, low=x + 0.01)
        rate = stabjax.schedule_bound(make(60)(x), 60).best_rate
        return x, clipped, rate / tuned

    x, clipped, ratio = found()
    assert float(ratio) == pytest.approx(1, rel=1e-5)
    assert float(clipped) == pytest.approx(float(x) + 0.01, rel=1e-5)


@pytest.mark.slow
def test_the_published_horizons():
    # Share, its bound, lower plateau, its bound. The published shares come from a
    # polynomial through best rates; the last column is where the best rates of a model
    # in NumPy are nearest to the tuned one, among multiples of 1/320.
    published = {
        1.5: (0.4375, 0.026448, 0.625, 0.026742, 0.446875),
        2.5: (0.775, 0.020041, 0.475, 0.020731, 0.771875),
        3.5: (0.9719, 0.016910, 0.4, 0.017697, 0.959375),
    }

    @functools.partial(jax.jit, static_argnums=0)
    def found(steps, share, rho):
        tuned = stabjax.schedule_bound(cooling(4000, 0.2), 4000).best_rate
        makes = longer_trapezoid(steps), lowered_plateau(4000, steps)

        def at_the_tuned_rate(schedule):
            scaled = stabjax.multiply_schedules([schedule, lambda _: tuned])
            return stabjax.schedule_bound(scaled, steps).value

        shares = [
            stabjax.transfer_to_horizon(make, steps, tuned, low=0.2) for make in makes
        ]
        bounds = [
            at_the_tuned_rate(make(x))
            for make, x in zip(makes, (share, rho), strict=True)
        ]
        return [*shares, *bounds]

    with jax.enable_x64(True):
        for times, row in published.items():
            share, share_bound, rho, rho_bound, exact_share = row
            got = [float(x) for x in found(int(4000 * times), share, rho)]
            assert got[0] == pytest.approx(exact_share, abs=1 / 320)
            assert got[1] == pytest.approx(rho, abs=0.0125)  # the authors' grid
            np.testing.assert_allclose(got[2:], [share_bound, rho_bound], 1e-4)


# Refined schedules.

NORMS = [10, 3, 8, 2, 1, 1.2, 9, 1, 1.1, 0.9, 1, 2, 3, 1, 0.5, 4, 6, 5, 7, 8]
SMOOTHED = [10, 8, 3, 2, 2, 1.2, 1.1, 1.1, 1, 1, 1.1, 1, 1, 2, 3, 4, 5, 6, 7, 7]


def refined(norms, **options):
    schedule = stabjax.refine_schedule(norms, **options)
    return np.asarray(schedule(jnp.arange(len(norms))))


def test_published_refinements():
    short = [4, 3, 2, 1, 1, 1, 1.5, 2]
    np.testing.assert_allclose(
        refined(short, smoothing=0),
        [0.09407216, 0.1626575, 0.34278351, 1, 0.62886598, 0.25773196, 0.04123711, 0],
        1e-5,
    )
    np.testing.assert_allclose(
        refined(short, power=1, smoothing=0),
        [0.39473684, 0.49122807, 0.65789474, 1, 0.68421053, 0.36842105, 0.10526316, 0],
        1e-5,
    )
    by_median = [
        *(0.016301, 0.025423, 0.178372, 0.389111, 0.376884, 0.952555, 1, 0.866381),
        *(0.85269, 0.657058, 0.409404, 0.299748, 0.104116, 0.013802, 0.003719),
        *(0.001328, 0.000537, 0.000222, 0.000081, 0),
    ]
    np.testing.assert_allclose(refined(NORMS, smoothing=0.25), by_median, 1e-5, 1e-6)
    np.testing.assert_allclose(refined(SMOOTHED, smoothing=0), by_median, 1e-5, 1e-6)


def test_constant_norms_give_a_straight_line():
    np.testing.assert_allclose(
        refined(np.full(8, 3e-20), peak_value=0.7), 0.7 * np.arange(7, -1, -1) / 7, 1e-6
    )


def test_stretched_to_other_lengths_and_held():
    schedule = stabjax.refine_schedule(np.ones(5), steps=9)
    values = [float(schedule(count)) for count in (0, 1, 7, 8, 9, 10**6)]
    np.testing.assert_allclose(values, [1, 7 / 8, 1 / 8, 0, 0, 0], 1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([1.0, 0.0],), "gradient_norms must be in \\(0, inf\\)"),
        (([1.0, np.inf],), "gradient_norms must be in \\(0, inf\\)"),
        (([1.0],), "at least two elements, got shape"),
        (([[1.0, 2.0]],), "gradient_norms must be one-dimensional"),
    ],
)
def test_bad_norms_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        stabjax.refine_schedule(*arguments)


def test_bad_numbers_of_the_bound():
    with pytest.raises(ValueError, match="steps must be an integer >= 1, got 0"):
        stabjax.schedule_bound(LINEAR(1.0, 0.0, 4), 0)
    with pytest.raises(ValueError, match="distance must be > 0, got -1"):
        stabjax.schedule_bound(LINEAR(1.0, 0.0, 4), 4, distance=-1.0)
    traced = jax.jit(lambda norms: stabjax.refine_schedule(norms)(0))
    assert np.isnan(traced(jnp.array([1.0, -1.0])))


# A convex problem ranks schedules as the bound does: benchmarks/schedule_ranking.py has
# more of them, and more seeds.


@pytest.mark.slow
def test_a_convex_problem_agrees_with_the_bound():
    steps, entries = 100, 20

    def init(key):
        return jax.random.normal(key, (entries,))

    def loss(x, key):
        # |a . x| of a random a: convex, not smooth, and 0 at its minimum.
        return jnp.abs(jax.random.normal(key, (entries,)) @ x)

    def evaluate(x, key):
        return {"distance": jnp.linalg.norm(x)}

    named = {
        "constant": stabjax.constant_schedule(1.0),
        "wsd": cooling(steps, 0.2),
        "linear": LINEAR(1.0, 0.0, steps),
    }
    problem = stabjax.problems.Problem(init, loss, evaluate)
    heights = jnp.stack(
        [
            jnp.broadcast_to(schedule(jnp.arange(steps)), steps)
            for schedule in named.values()
        ]
    )

    def distance(heights, rate, key):
        optimizer = optax.sgd(lambda count: rate * heights[count])
        run = stabjax.train(problem, optimizer, key, steps=steps)
        return run.evaluation["distance"]

    for_seeds = jax.vmap(distance, (None, None, 0))
    for_rates = jax.vmap(for_seeds, (None, 0, None))
    all_distances = jax.jit(jax.vmap(for_rates, (0, None, None)))
    rates = jnp.geomspace(0.01, 1.0, 13)
    measured = all_distances(heights, rates, jax.random.split(jax.random.key(0), 16))
    best = dict(zip(named, measured.mean(axis=-1).min(axis=-1).tolist(), strict=True))
    bounds = {
        name: float(stabjax.schedule_bound(schedule, steps).best_value)
        for name, schedule in named.items()
    }
    assert sorted(best, key=best.get) == sorted(bounds, key=bounds.get)


def test_a_bad_smoothing_is_refused():
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\], got 1.5"):
        stabjax.refine_schedule([1.0, 2.0], smoothing=1.5)
