"""Schedules beyond Optax's: published values, NumPy models, composition, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from curves import COUNTS, curve

import stabjax

LINEAR = stabjax.linear_schedule
INVERSE = stabjax.inverse_sqrt_schedule
COSINE = stabjax.cosine_decay_schedule
NAN = float("nan")
ONE = stabjax.constant_schedule(1.0)


def values(schedule, counts):
    """In float64, compiled, each count seen as a scalar."""
    with jax.enable_x64(True):
        counts = np.asarray(counts, np.int64)
        return np.asarray(jax.jit(lambda counts: curve(schedule, counts))(counts))


def trapezoid(shape):
    """20 steps, 4 of warm-up from 0.01, the last 6 a decay to 0.1."""
    rising = stabjax.with_warmup(ONE, 4, init_value=0.01)
    return stabjax.with_cooldown(rising, 14, 6, shape=shape, end_value=0.1)


TRAPEZOID = [1, 3, 4, 13, 14, 15, 17, 19, 20, 21]
RISING = [0.2575, 0.7525, 1, 1, 1]
INFINITE = [0, 2, 4, 6, 8, 11, 12, 19, 20, 22, 24, 27, 28, 40]
CYCLES = [0, 1, 2, 4, 5, 9, 10, 11, 14, 20, 24]
WARM_CYCLES = [0, 3, 4, 5, 8, 11, 12, 13, 27]
# schedule, counts, values: of the papers' formulas and of public implementations.
PUBLISHED = {
    "noam": (
        stabjax.noam_schedule(64, 10),
        [0, 1, 4, 8, 9, 10, 19, 39, 99],
        [0.003952847075, 0.00790569415, 0.01976423538, 0.03557562368, 0.03952847075]
        + [0.03768891807, 0.02795084972, 0.01976423538, 0.0125],
    ),
    "noam-paper": (
        stabjax.noam_schedule(512, 4000),
        [0, 3998, 3999, 4000, 7999, 15999],
        [1.746928107e-07, 0.0006985965502, 0.000698771243, 0.0006986839129]
        + [0.0004941058844, 0.0003493856215],
    ),
    "t5": (
        INVERSE(0.01, 10_000, 10_000),
        [0, 9999, 10000, 10001, 40000, 1000000],
        [0.01, 0.01, 0.01, 0.009999500037, 0.005, 0.001],
    ),
    "t5x-rsqrt": (
        stabjax.with_bounds(stabjax.with_warmup(INVERSE(0.25, 4), 4), 1e-8),
        [0, 1, 3, 4, 5, 9, 16, 64],
        [1e-8, 0.0625, 0.1875, 0.25, 0.2236067977, 0.1666666667, 0.125, 0.0625],
    ),
    "t5x-normalized": (
        stabjax.with_warmup(INVERSE(0.5, 4), 4),
        [1, 3, 4, 5, 9, 16, 64],
        [0.125, 0.375, 0.5, 0.4472135955, 0.3333333333, 0.25, 0.125],
    ),
    "inverse-sqrt-timescale": (
        stabjax.with_warmup(INVERSE(0.5, 10), 4),
        [0, 1, 3, 4, 5, 8, 16, 64],
        [0, 0.125, 0.375, 0.5, 0.4767312946, 0.4225771274, 0.3370999312]
        + [0.1889822365],
    ),
    "wsd-linear": (
        trapezoid("linear"),
        TRAPEZOID,
        [*RISING, 0.85, 0.55, 0.25, 0.1, 0.1],
    ),
    "wsd-exponential": (
        trapezoid("exponential"),
        TRAPEZOID,
        [*RISING, 0.68129207, 0.31622777, 0.14677993, 0.1, 0.1],
    ),
    "wsd-cosine": (
        trapezoid("cosine"),
        TRAPEZOID,
        [*RISING, 0.93971143, 0.55, 0.16028857, 0.1, 0.1],
    ),
    "wsd-mirror-cosine": (
        trapezoid("mirror-cosine"),
        TRAPEZOID,
        [*RISING, 0.76028857, 0.55, 0.33971143, 0.1, 0.1],
    ),
    "wsd-square": (
        trapezoid("square"),
        TRAPEZOID,
        [*RISING, 0.975, 0.775, 0.375, 0.1, 0.1],
    ),
    "wsd-1-sqrt": (
        trapezoid("1-sqrt"),
        TRAPEZOID,
        [*RISING, 0.63257654, 0.3636039, 0.17841616, 0.1, 0.1],
    ),
    "minicpm": (
        stabjax.join_schedules(
            [
                stabjax.wsd_schedule(0.8, 4, 6, 0, end_value=0.8),
                stabjax.exponential_decay(0.8, 2, 0.5),
            ],
            [10],
        ),
        [0, 2, 4, 9, 10, 11, 12, 14, 16],
        [0, 0.4, 0.8, 0.8, 0.8, 0.5656854249, 0.4, 0.2, 0.1],
    ),
    "cosine-then-constant": (
        stabjax.with_warmup(COSINE(1.0, 11, alpha=0.08), 4, init_value=0.04),
        [0, 1, 3, 4, 9, 14, 15, 20],
        [0.04, 0.28, 0.76, 1, 0.60546483, 0.098633232, 0.08, 0.08],
    ),
    "rex": (
        stabjax.rex_schedule(1.0, 10),
        [0, 1, 3, 5, 7, 8, 9, 10],
        [1, 0.9473684211, 0.8235294118, 0.6666666667, 0.4615384615, 0.3333333333]
        + [0.1818181818, 0],
    ),
    "rex-0.9": (
        stabjax.rex_schedule(1.0, 10, beta=0.9),
        [0, 1, 3, 5, 7, 8, 9, 10],
        [1, 0.989010989, 0.9589041096, 0.9090909091, 0.8108108108, 0.7142857143]
        + [0.5263157895, 0],
    ),
    "infinite": (
        stabjax.with_cooldown(
            stabjax.infinite_schedule(1.0, 0.3, 4, 8),
            20,
            8,
            shape="exponential",
            end_value=0.01,
        ),
        INFINITE,
        [0, 0.5, 1, 0.8974873734, 0.65, 0.3266421636, 0.3, 0.3, 0.3, 0.1281861019]
        + [0.05477225575, 0.01529819375, 0.01, 0.01],
    ),
    "infinite-inverse-sqrt": (
        stabjax.infinite_schedule(1.0, 0.3, 0, 8, timescale=10.0),
        [0, 1, 2, 4, 6, 8, 9],
        [1, 0.6659454216, 0.5335153137, 0.4069678964, 0.3415755901, 0.3, 0.3],
    ),
    "power": (
        stabjax.with_cooldown(stabjax.power_schedule(0.3, 1.0, -0.5, 4), 30, 10),
        [0, 2, 3, 4, 8, 12, 16, 30, 31, 35, 40],
        [0, 0.15, 0.225, 0.3, 0.3, 0.2886751346, 0.25, 0.1825741858, 0.1643167673]
        + [0.09128709292, 0],
    ),
    "straight-to-zero": (
        stabjax.wsd_schedule(0.8, 4, 0, 16),
        [0, 1, 3, 4, 5, 12, 19, 20, 21],
        [0, 0.2, 0.6, 0.8, 0.75, 0.4, 0.05, 0, 0],
    ),
    "triangular": (
        stabjax.cyclic_schedule(0.1, 1.0, 4, 6),
        CYCLES,
        [0.1, 0.325, 0.55, 1.0, 0.85, 0.25, 0.1, 0.325, 1.0, 0.1, 1.0],
    ),
    "triangular2": (
        stabjax.cyclic_schedule(0.1, 1.0, 4, 6, cycle_factor=0.5),
        CYCLES,
        [0.1, 0.325, 0.55, 1.0, 0.85, 0.25, 0.1, 0.2125, 0.55, 0.1, 0.325],
    ),
    "exp-range": (
        stabjax.cyclic_schedule(0.1, 1.0, 4, 6, decay_rate=0.97),
        CYCLES,
        [0.1, 0.31825, 0.523405, 0.896763529, 0.7440505193, 0.2140346588, 0.1]
        + [0.2609428157, 0.6875526497, 0.1, 0.5332754997],
    ),
    "warm-restarts": (
        stabjax.cosine_restarts_schedule(0.9, 4, 2, end_value=0.05),
        [0, 1, 2, 3, 4, 5, 8, 11, 12, 27, 28],
        [0.9, 0.775520382, 0.475, 0.174479618, 0.9, 0.8676488013, 0.475]
        + [0.08235119868, 0.9, 0.05816625583, 0.9],
    ),
    "shrinking-restarts": (
        stabjax.cosine_restarts_schedule(0.8, 4, 2.0, 0.5, 0.05),
        WARM_CYCLES,
        [0.8, 0.1598349571, 0.4, 0.3866789182, 0.225, 0.06332108181, 0.2, 0.198558896]
        + [0.05144110397],
    ),
}

WARMUPS = [0, 1, 2, 5, 9, 49, 99, 199, 399, 999]
PUBLISHED |= {
    "untuned-linear": (
        stabjax.untuned_linear_warmup_schedule(0.99),
        WARMUPS,
        [0.0050251256, 0.010050251, 0.015075377, 0.030150754, 0.050251256, 0.25125628]
        + [0.50251256, 1, 1, 1],
    ),
    "untuned-exponential": (
        stabjax.untuned_exponential_warmup_schedule(0.99),
        WARMUPS,
        [0.010050166, 0.019999327, 0.029848496, 0.05880606, 0.096076098, 0.3965249]
        + [0.63581781, 0.86737133, 0.98240964, 0.99995896],
    ),
    "radam 0.99": (
        stabjax.radam_warmup_schedule(0.99),
        WARMUPS,
        [0.054471044, 0.081679196, 0.10369613, 0.15516526, 0.20683686, 0.47363002]
        + [0.64495607, 0.82939524, 0.96258786, 0.99978433],
    ),
    "radam 0.999": (
        stabjax.radam_warmup_schedule(0.999),
        WARMUPS,
        [0.017311503, 0.025821113, 0.032738814, 0.048998013, 0.065460757, 0.15464597]
        + [0.21978758, 0.30965864, 0.43138198, 0.64637699],
    ),
    "exponential-warmup": (
        stabjax.exponential_warmup_schedule(1.0, 4),
        [0, 1, 2, 3, 4, 5],
        [0.22119922, 0.39346934, 0.52763345, 0.63212056, 0.7134952, 0.77686984],
    ),
    "untuned-on-cosine": (
        stabjax.multiply_schedules(
            [COSINE(1.0, 8), stabjax.untuned_linear_warmup_schedule(0.9)]
        ),
        range(9),
        [0.05, 0.09619398, 0.12803301, 0.13826834, 0.125, 0.0925974851]
        + [0.0512563133, 0.0152240935, 0],
    ),
}
with jax.enable_x64(True):  # their steps are arrays, made here
    PUBLISHED |= {
        "chebyshev": (
            stabjax.chebyshev_schedule(0.1, 1.0, 8),
            range(9),
            [9.20415163, 1.00872204, 2.16352177, 1.56791262, 5.68703104, 1.08206216]
            + [3.33340672, 1.24998968, 9.20415163],
        ),
        "silver": (
            stabjax.silver_schedule(1.0),
            [0, 1, 2, 3, 4, 7, 11, 14],
            [1.41421356, 2, 1.41421356, 3.41421356, 1.41421356, 6.82842712, 3.41421356]
            + [1.41421356],
        ),
        "silver 10": (
            stabjax.strongly_convex_silver_schedule(0.1, 1.0, 8),
            range(8),
            [1.38373601, 1.89202282, 1.38373601, 2.92967181, 1.38373601, 1.89202282]
            + [1.38373601, 4.9136463],
        ),
        "silver 100": (
            stabjax.strongly_convex_silver_schedule(0.02, 2.0, 8),
            range(8),
            0.5
            * np.array(
                [1.41127299, 1.98991508, 1.41127299, 3.37201141, 1.41127299, 1.98991508]
                + [1.41127299, 12.53351688]
            ),
        ),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name):
    schedule, counts, expected = PUBLISHED[name]
    digits = 5e-9 * np.max(expected)
    np.testing.assert_allclose(values(schedule, counts), expected, 4e-8, digits)


# float32 against a float64 model, with numbers as arrays, also where counts are large.

LARGE = 2**25 + 1  # no float32
SHAPES = {
    "linear": lambda q: 1 - q,
    "1-sqrt": lambda q: 1 - np.sqrt(q),
    "cosine": lambda q: np.cos(np.pi * q / 2) ** 2,
    "square": lambda q: 1 - q**2,
    "mirror-cosine": lambda q: 2 * (1 - q) - np.cos(np.pi * q / 2) ** 2,
}


@pytest.mark.parametrize("start, steps", [(700, 501), (LARGE, 501), (5, 10**6)])
def test_shapes_in_float32(start, steps):
    high, low = (float(np.float32(x)) for x in (0.7, 1e-3))
    counts = start + np.linspace(-0.1 * steps, 1.1 * steps, 300).astype(np.int32)

    def curves(start, steps, high, low):
        def cooled(shape):
            cooled = stabjax.with_cooldown(
                lambda _: high, start, steps, shape=shape, end_value=low
            )
            return curve(cooled, counts)

        return {shape: cooled(shape) for shape in [*SHAPES, "exponential"]}

    numbers = np.int32(start), *map(np.float32, (steps, high, low))
    q = np.clip((counts - start) / steps, 0, 1)
    expected = {name: low + (high - low) * g(q) for name, g in SHAPES.items()}
    expected["exponential"] = high ** (1 - q) * low**q
    for name, got in jax.jit(curves)(*numbers).items():
        np.testing.assert_allclose(got, expected[name], 0, 4e-7 * high, err_msg=name)


@pytest.mark.slow
def test_derivatives_are_those_of_finite_differences():
    # Counts that are no corner, and are inside different phases.
    counts, h = np.array([1.7, 5.3, 9.4, 13.6]), 1e-6
    makes = {
        (0.5, 4.2, 1.5): INVERSE,
        (64.0, 6.8, 2.0): stabjax.noam_schedule,
        (0.8, 14.5, 0.1, 0.6): stabjax.rex_schedule,
        (0.4, 0.9, -0.6, 4.4): stabjax.power_schedule,
        (0.8, 4.3, 3.5, 8.2, 0.05): lambda *a: stabjax.wsd_schedule(
            *a[:4], end_value=a[4], shape="1-sqrt"
        ),
        (0.8, 0.2, 4.2, 8.1, 10.0): lambda *a: stabjax.infinite_schedule(
            *a[:4], timescale=a[4]
        ),
        (0.1, 1.0, 3.2, 4.4, 0.5, 0.97): stabjax.cyclic_schedule,
        (0.9, 3.1, 1.7, 0.5, 0.05): stabjax.cosine_restarts_schedule,
        (0.97,): stabjax.radam_warmup_schedule,
    }

    def all_values(sets):
        return [
            curve(make(*numbers), counts)
            for make, numbers in zip(makes.values(), sets, strict=True)
        ]

    with jax.enable_x64(True):
        sets = [np.array(numbers) for numbers in makes]
        slopes = jax.jit(jax.jacrev(all_values))(sets)
        compiled = jax.jit(all_values)
        for place, numbers in enumerate(sets):
            for i in range(numbers.size):
                moved = []
                for step in (h, -h):
                    changed = [x.copy() for x in sets]
                    changed[place][i] += step
                    moved.append(np.asarray(compiled(changed)[place]))
                expected = (moved[0] - moved[1]) / (2 * h)
                got = slopes[place][place][:, i]
                np.testing.assert_allclose(got, expected, 1e-5, 1e-7)


def test_a_float_start_beyond_float32_is_subtracted_exactly():
    start = np.float32(2**25)

    def curve_of(start):
        counts = 2**25 + np.arange(-2, 12, dtype=np.int32)
        ramp = stabjax.with_cooldown(lambda _: 1.0, start, 10)
        joined = stabjax.join_schedules([lambda _: 1.0, LINEAR(1.0, 0.0, 10)], [start])
        return curve(ramp, counts), curve(joined, counts)

    expected = np.clip(1 - np.arange(-2, 12) / 10, 0, 1)
    for build in (start, float(start), int(start)):
        for got in curve_of(build):
            np.testing.assert_allclose(got, expected, atol=1e-7)
    for got in jax.jit(curve_of)(start):
        np.testing.assert_allclose(got, expected, atol=1e-7)


@pytest.mark.parametrize("period", [999, 999.0, np.float32(999), jnp.int32(999)])
def test_cycles_far_out(period):
    # 33,590 cycles of 999 steps: odd numbers beyond 2**24.
    first = 33_591 * 999
    counts = (first + np.arange(-3, 4)).astype(np.int32)

    @jax.jit
    def curves():
        position = stabjax.repeat_schedule(lambda c: jnp.asarray(c, float), period)
        waves = stabjax.cosine_restarts_schedule(1.0, period)
        return curve(position, counts), curve(waves, counts)

    positions, waves = curves()
    np.testing.assert_array_equal(positions, [996, 997, 998, 0, 1, 2, 3])
    assert np.argmax(waves) == 3


@pytest.mark.parametrize("factor", [2, 2.0, np.float32(3), 1.5, jnp.float32(1.1)])
def test_restarts_come_where_the_lengths_add_up(factor):
    period, exact = 10, float(factor)
    lengths = period * exact ** np.arange(8)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    counts = np.arange(int(min(starts[-1], 3000)), dtype=np.int32)
    counts = counts[np.abs(counts[:, None] - starts).min(axis=1) > 1e-3]
    counts = np.concatenate([counts, starts[starts == starts.round()][:8].astype(int)])
    cycle = np.searchsorted(starts, counts, "right") - 1
    expected = (counts - starts[cycle]) / exact**cycle
    schedule = stabjax.repeat_schedule(
        lambda c: jnp.asarray(c, jnp.float32), period, factor
    )
    got = np.asarray(jax.jit(lambda c: curve(schedule, c))(counts.astype(np.int32)))
    np.testing.assert_allclose(got, expected, 0, 2e-4 if exact % 1 else 2e-6 * period)


def test_the_end_of_a_cosine_keeps_its_digits():
    steps = 100_000
    counts = steps - np.array([1, 10, 100])
    expected = np.sin(np.pi / 2 * (steps - counts) / steps) ** 2

    def near_the_end(steps):
        return curve(COSINE(1.0, steps), counts.astype(np.int32))

    np.testing.assert_allclose(jax.jit(near_the_end)(np.int32(steps)), expected, 1e-6)
    np.testing.assert_allclose(jax.jit(near_the_end)(np.float32(steps)), expected, 1e-6)


def test_radam_in_float32_for_rates_close_to_one():
    b2 = 1 - np.array([0.35, 0.1, 1e-2, 1e-3, 1e-5], np.float32)

    def curves(b2):
        return jax.vmap(lambda b: curve(stabjax.radam_warmup_schedule(b), COUNTS))(b2)

    with jax.enable_x64(True):
        exact = jax.jit(curves)(b2.astype(float))
    np.testing.assert_allclose(jax.jit(curves)(b2), exact, 0, 2e-5)
    # And the formula itself, in float64.
    n, b = COUNTS + 5, b2[2:, None].astype(float)
    infinite = 2 / (1 - b) - 1
    rho = infinite - 2 * n * b**n / (1 - b**n)
    squared = (rho - 4) * (rho - 2) * infinite / rho / (infinite - 4) / (infinite - 2)
    np.testing.assert_allclose(exact[2:], np.sqrt(squared), 1e-5)


# What composition does at its edges.


def test_a_counter_that_has_stopped_does_not_start_again():
    last = jnp.int32(2**31 - 1)  # where Optax's counters stay
    decay = INVERSE(1.0, 1)
    for steps in (5, jnp.float32(5), jnp.int32(5)):
        assert float(stabjax.shift_schedule(decay, steps)(last)) < 1e-4
    assert float(stabjax.noam_schedule(1, 10)(last)) < 1e-4
    for warmup in (
        stabjax.untuned_linear_warmup_schedule,
        stabjax.untuned_exponential_warmup_schedule,
        stabjax.radam_warmup_schedule,
    ):
        assert float(warmup(0.99)(last)) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("start", [2**31 - 1, 2**40, np.inf, jnp.int32(2**31 - 1)])
def test_a_cooldown_that_never_comes(start):
    never = stabjax.with_cooldown(ONE, start, 1000)
    assert [float(never(jnp.int32(count))) for count in (0, 10**9)] == [1.0, 1.0]


def test_phases_of_no_length():
    one = stabjax.constant_schedule(1.0)
    assert float(stabjax.with_warmup(one, 0)(0)) == 1
    jump = stabjax.with_cooldown(one, 3, 0, end_value=0.25)
    assert [float(jump(count)) for count in (2, 3, 4)] == [1, 0.25, 0.25]
    nothing = stabjax.wsd_schedule(0.5, 0, 0, 0, end_value=0.125)
    assert [float(nothing(count)) for count in (0, 1)] == [0.125, 0.125]
    traced = jax.jit(
        lambda w, d: curve(stabjax.wsd_schedule(1.0, w, 4, d), np.arange(6))
    )
    np.testing.assert_array_equal(traced(0, 0), [1, 1, 1, 1, 0, 0])


def test_a_cooled_schedule_is_not_asked_beyond_its_start():
    seen = []

    def spy(count):
        seen.append(int(count))
        return 1.0

    schedule = stabjax.with_cooldown(spy, 5, 5)
    for count in (0, 5, 7, 50):
        schedule(count)
    assert seen == [0, 5, 5, 5]


def test_derivatives_through_what_is_not_selected():
    root = stabjax.with_warmup(lambda t: jnp.sqrt(t + 1e-3), 4)
    wall = stabjax.with_cooldown(lambda t: jnp.sqrt(8 - t), 7, 3)
    shifted = stabjax.shift_schedule(lambda t: jnp.sqrt(t + 1.0), -5.0)
    for schedule in (root, wall, shifted):
        slopes = jax.vmap(jax.grad(lambda t: schedule(t).astype(float)))(  # noqa: B023
            jnp.arange(0.0, 30.0)
        )
        assert np.isfinite(slopes).all()


def test_shifting_resumes():
    schedule = stabjax.wsd_schedule(1.0, 4, 6, 8)
    rest = stabjax.shift_schedule(schedule, jnp.int32(9))
    counts = np.arange(12, dtype=np.int32)
    np.testing.assert_array_equal(curve(rest, counts), curve(schedule, counts + 9))


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: stabjax.with_warmup(ONE, -1), "warmup_steps must be >= 0, got -1"),
        (lambda: stabjax.with_warmup(ONE, 4, shape="sine"), "shape must be 'linear'"),
        (
            lambda: stabjax.with_warmup(ONE, 4, shape="exponential"),
            "init_value must be > 0, got 0.0",
        ),
        (
            lambda: stabjax.with_cooldown(ONE, 4, NAN),
            "decay_steps must be >= 0, got nan",
        ),
        (
            lambda: stabjax.with_cooldown(
                ONE, 4, 4, shape="exponential", end_value=-1.0
            ),
            "end_value must be > 0, got -1",
        ),
        (lambda: stabjax.wsd_schedule(1.0, 1, -2, 3), "stable_steps must be >= 0"),
        (lambda: stabjax.multiply_schedules([]), "at least one schedule"),
        (lambda: stabjax.repeat_schedule(ONE, 0), "period must be > 0, got 0"),
        (lambda: stabjax.repeat_schedule(ONE, 5, 0.5), "period_factor must be >= 1"),
        (lambda: stabjax.with_bounds(ONE, 2.0, 1.0), "min_value must be <= max_value"),
        (lambda: INVERSE(1.0, 0), "timescale must be > 0, got 0"),
        (lambda: stabjax.noam_schedule(0, 10), "model_size must be > 0"),
        (
            lambda: stabjax.rex_schedule(1.0, 5, beta=1.0),
            "beta must be in \\[0, 1\\)",
        ),
        (lambda: stabjax.power_schedule(1.0, 1.0, 0.5), "power must be < 0"),
        (lambda: stabjax.cyclic_schedule(0, 1, 0, 5), "up_steps must be > 0"),
        (
            lambda: stabjax.infinite_schedule(1.0, 0.3, 4, 8, timescale=-1.0),
            "timescale must be > 0, got -1",
        ),
        (lambda: stabjax.radam_warmup_schedule(0.6), r"b2 must be in \(0.6, 1\)"),
        (
            lambda: stabjax.untuned_linear_warmup_schedule(1.0),
            "b2 must be in \\[0, 1\\), got 1.0",
        ),
        (lambda: stabjax.chebyshev_schedule(0.1, 1.0, 6), "steps must be a power of 2"),
        (
            lambda: stabjax.chebyshev_schedule(2.0, 1.0, 8),
            "strong_convexity must be <= smoothness",
        ),
    ],
)
def test_a_bad_value_is_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_bad_traced_values_give_nan():
    def at_one(build):
        return lambda *numbers: jnp.asarray(build(*numbers)(1), float)

    for build, numbers in (
        (lambda w: stabjax.with_warmup(ONE, w), (-1,)),
        (lambda s: stabjax.with_cooldown(ONE, 0, s), (-1,)),
        (lambda p, m: stabjax.repeat_schedule(ONE, p, m), (5, 0.5)),
        (lambda p, m: stabjax.cosine_restarts_schedule(1.0, p, m), (-5, 2.0)),
        (stabjax.radam_warmup_schedule, (0.5,)),
        (lambda m: stabjax.chebyshev_schedule(m, 1.0, 4), (2.0,)),
    ):
        numbers = [jnp.float32(number) for number in numbers]
        assert np.isnan(jax.jit(at_one(build))(*numbers))


def test_text_is_refused_where_a_number_is_meant():
    with pytest.raises(TypeError, match="peak_value must be a number, got '1'"):
        stabjax.wsd_schedule("1", 1, 2, 3)


# What the step sizes of theory promise.


@pytest.mark.parametrize("steps, rate", [(1, 0.8181818182), (8, 0.01060867347)])
def test_chebyshev_steps_contract_as_promised(steps, rate):
    eigenvalues = np.linspace(0.1, 1.0, 2001)
    with jax.enable_x64(True):
        schedule = stabjax.chebyshev_schedule(0.1, 1.0, steps)
    sizes = values(schedule, range(steps))
    left = np.prod(1 - sizes[:, None] * eigenvalues, axis=0)
    assert np.abs(left).max() == pytest.approx(rate, rel=1e-6)


def test_the_fractal_order_keeps_intermediate_growth_small():
    eigenvalues = np.linspace(0.1, 1.0, 2001)
    sizes = values(stabjax.chebyshev_schedule(0.1, 1.0, 16), range(16))
    left = np.cumprod(1 - sizes[:, None] * eigenvalues, axis=0)
    assert np.abs(left).max() == pytest.approx(8.788, rel=1e-3)


@pytest.mark.parametrize(
    "kappa, steps, rate", [(10, 4, 0.13801227), (100, 8, 0.58828848)]
)
def test_silver_steps_contract_as_promised(kappa, steps, rate):
    # The published rates are those of the squared distance.
    eigenvalues = np.linspace(1 / kappa, 1.0, 20001)
    schedule = stabjax.strongly_convex_silver_schedule(1.0, float(kappa), steps)
    sizes = kappa * values(schedule, range(steps))
    left = np.prod(1 - sizes[:, None] * eigenvalues, axis=0)
    assert np.square(left).max() == pytest.approx(rate, rel=1e-4)
