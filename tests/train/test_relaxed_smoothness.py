"""Where curvature grows with the slope: the best constant rate against clipping.

The numbers of steps are those of the table in docs/problems.md. It says that constant
rates are slower by a factor that grows with the start, not that they fail: where none
arrives, none did within the steps given.
"""

import numpy as np
import optax
import pytest

import stabjax
from stabjax import problems

RATES = np.logspace(-8, 2, 201)
CLIPPED_RATES = [0.1, 0.5, 1.0]
# The loss where the slope is 0.01: of w^4, and of cosh(w) - 1.
TARGETS = {"quartic": 0.0025 ** (4 / 3), "cosh": np.sqrt(1 + 0.01**2) - 1}

# Problem, start, fewest steps of any of the rates, and of clipping at 1 at the three.
TABLE = [
    ("quartic", 30.0, 13_522, [357, 69, 30]),
    ("quartic", 100.0, 151_877, [1057, 209, 100]),
    ("cosh", 10.0, 2_939, [134, 25, 10]),
    ("cosh", 12.0, 18_454, [154, 29, 12]),
    ("cosh", 20.0, np.inf, [234, 45, 20]),
]


def steps_to_target(name, start, rates, max_norm, steps=200_000):
    def make_optimizer(rate, max_norm):
        return optax.chain(stabjax.clip_by_global_norm(max_norm), optax.sgd(rate))

    def problem(start):
        return getattr(problems, name)(start=start, init_spread=0.0)

    runs = stabjax.sweep(
        problem,
        make_optimizer,
        stabjax.grid(start=[start], max_norm=[max_norm], rate=rates),
        steps=steps,
        target_loss=TARGETS[name],
        progress=False,
    )
    return runs.target_at.values.ravel()


@pytest.mark.parametrize(
    ("name", "start", "constant", "clipped"),
    [
        pytest.param(*row, marks=[] if row[:2] == ("cosh", 10.0) else pytest.mark.slow)
        for row in TABLE
    ],
    ids=[f"{name} from {start:g}" for name, start, *_ in TABLE],
)
@pytest.mark.slow
def test_steps_of_the_best_constant_rate_and_of_clipping(
    name, start, constant, clipped
):
    enough = 2 * int(constant) if constant < 1e5 else 200_000
    found = steps_to_target(name, start, RATES, np.inf, enough).min()
    np.testing.assert_allclose(found, constant, rtol=1e-3)
    found = steps_to_target(name, start, CLIPPED_RATES, 1.0, 2 * max(clipped))
    np.testing.assert_allclose(found, clipped, atol=1)


@pytest.mark.slow
def test_clipping_works_at_several_times_as_many_rates():
    found = [steps_to_target("quartic", 30.0, RATES, c) for c in (np.inf, 1.0)]
    constant, clipped = (np.isfinite(steps).sum() for steps in found)
    assert constant == 24
    assert clipped == 84
