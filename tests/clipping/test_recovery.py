"""After a NaN, and after a hundredfold change for good, every method works again."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import battery
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stabjax


class Recovery(NamedTuple):
    """After how many updates a method works again, by its docstring."""

    make: Callable[[], optax.GradientTransformation]
    rise: float  # of gradients, a hundredfold
    fall: float
    # Whether its updates grow with the gradients.
    follows: bool = False


def forgotten(decay, ratio):
    """Updates after which an average has forgotten all but 1/ratio."""
    return math.log(ratio) / (1 - decay)


STEPS, CHANGE, RESET = 320, 100, 150
NORMS = forgotten(0.9, 1e4)
RECOVERIES = {
    "clip_by_second_moment": Recovery(stabjax.clip_by_second_moment, 3, 0, True),
    "scale_by_spam": Recovery(
        lambda: stabjax.scale_by_spam(reset_every=RESET, warmup_steps=10, clip_delay=5),
        rise=RESET + 10,
        fall=RESET + 10,
    ),
    "clip_by_tracked_max": Recovery(
        lambda: stabjax.clip_by_tracked_max(0.98), forgotten(0.98, 2), 0, True
    ),
    "normalize_by_tracked_norm": Recovery(
        stabjax.normalize_by_tracked_norm, rise=0, fall=NORMS
    ),
    "scale_by_stable_spam": Recovery(
        lambda: stabjax.scale_by_stable_spam(reset_every=0),
        rise=0,
        fall=NORMS + 10,
    ),
    "scale_by_stable_adam": Recovery(
        lambda: stabjax.scale_by_stable_adam(b2=0.92),
        rise=1 / (1 - 0.9),
        fall=forgotten(0.92, 1e4),
    ),
    "reset_moments": Recovery(
        lambda: stabjax.reset_moments(optax.scale_by_adam(), RESET, 10),
        rise=RESET + 10,
        fall=RESET + 10,
    ),
    "adaptive_quantile_clip": Recovery(
        lambda: battery.of_examples(stabjax.adaptive_quantile_clip(2.0)),
        rise=math.log(100) / (0.2 * 0.5),
        fall=0,
        follows=True,
    ),
}
methods = pytest.mark.parametrize("name", RECOVERIES)


def updates_of(grads):
    """The updates of every method, over steps."""

    def over_steps(tx):
        params = jnp.zeros(grads.shape[1:])

        def step(state, g):
            updates, state = tx.update(g, state, params)
            return state, updates

        return jax.lax.scan(step, tx.init(params), grads)[1]

    return {name: over_steps(how.make()) for name, how in RECOVERIES.items()}


@functools.cache
def updates():
    """One program: the same gradients unchanged, risen, fallen, with NaN in between."""
    steady = np.tile(np.array([3.0, -1.0, 2.0], "float32"), (STEPS, 1))
    runs = np.stack([steady, steady, steady, steady])
    runs[1, CHANGE:] *= 100
    runs[2, CHANGE:] /= 100
    runs[3, CHANGE, 1] = np.nan
    with jax.numpy_dtype_promotion("standard"):
        return jax.tree.map(np.asarray, jax.jit(jax.vmap(updates_of))(runs))


@methods
@pytest.mark.parametrize("run, factor", [(1, 100), (2, 0.01)])
def test_it_works_after_a_lasting_change(name, run, factor):
    """Updates have the size they would have had, within a factor of 2."""
    how, sizes = RECOVERIES[name], np.linalg.norm(updates()[name], axis=-1)
    ratios = sizes[run] / sizes[0] / (factor if how.follows else 1)
    assert np.all(ratios[:CHANGE] == pytest.approx(1 / (factor if how.follows else 1)))
    after = np.abs(np.log(ratios[CHANGE:]))
    promised = math.ceil(how.rise if run == 1 else how.fall)
    assert np.all(after[promised:] <= np.log(2))
    # The promise says something: before, they had not.
    assert promised == 0 or np.any(after[:promised] > np.log(2))


@methods
def test_it_works_after_a_nan(name):
    found = updates()[name]
    if name == "reset_moments":  # around Optax's Adam, which keeps a NaN till then
        assert np.isnan(found[3, CHANGE : RESET - 1, 1]).all()
        np.testing.assert_array_equal(found[3, RESET - 1 :], found[0, RESET - 1 :])
    else:
        assert np.isnan(found[3, CHANGE]).all()
        np.testing.assert_array_equal(found[3, :CHANGE], found[0, :CHANGE])
        np.testing.assert_array_equal(
            found[3, CHANGE + 1 :], found[0, CHANGE : STEPS - 1]
        )
