"""Schedules beyond Optax's: published values, NumPy models, composition, bad input."""

import jax
import numpy as np
import pytest
from test_schedules import curve

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
    return stabjax.with_cooldown(rising, 14, 6, shape, 0.1)


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
        stabjax.clip_schedule(stabjax.with_warmup(INVERSE(0.25, 4), 4), 1e-8),
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
            stabjax.infinite_schedule(1.0, 0.3, 4, 8), 20, 8, "exponential", 0.01
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_values(name):
    schedule, counts, expected = PUBLISHED[name]
    np.testing.assert_allclose(values(schedule, counts), expected, 4e-8, 1e-12)
