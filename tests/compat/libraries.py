"""Schedules beside those of an installed library: random arguments, every count."""

import random
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from curves import curve

SETS = 25
# From 0 past the end of all that `draw` makes.
COUNTS = np.arange(56)


class Case(NamedTuple):
    """A scheduler of a library and ours, as functions of the same numbers."""

    name: str
    ours: Callable  # from numbers to a schedule
    theirs: Callable  # from numbers to the values at all counts
    draw: Callable  # from a random.Random to numbers, or tuples of them
    eager_sets: int = SETS  # fewer, if each is a compilation

    def __str__(self):
        return self.name


def check(case):
    """Eagerly in float64; in float32 compiled, one set at a time and all at once."""
    rng = random.Random(case.name)
    sets = [case.draw(rng) for _ in range(SETS)]
    expected = np.array([case.theirs(**numbers) for numbers in sets], np.float64)
    peaks = np.abs(expected).max(axis=1, keepdims=True)
    with jax.enable_x64(True):
        counts = jnp.asarray(COUNTS, np.float64)
        eager = [
            np.broadcast_to(case.ours(**numbers)(counts), COUNTS.shape)
            for numbers in sets[: case.eager_sets]
        ]
    n = case.eager_sets
    assert_close(eager, expected[:n], 1e-9 * peaks[:n], sets)

    def values(numbers):
        return curve(case.ours(**numbers), jnp.asarray(COUNTS, jnp.int32))

    columns = {
        name: np.array([numbers[name] for numbers in sets], np.float32)
        for name in sets[0]
    }
    if not columns:
        return
    one = jax.jit(values)
    looped = [one(jax.tree.map(lambda x: x[i], columns)) for i in range(SETS)]  # noqa: B023
    assert_close(looped, expected, 2e-5 * peaks, sets)
    mapped = jax.jit(jax.vmap(values))(columns)
    assert_close(mapped, expected, 2e-5 * peaks, sets)


def assert_close(found, expected, tolerances, sets):
    wrong = ~(np.abs(np.asarray(found, np.float64) - expected) <= tolerances)
    rows = np.flatnonzero(wrong.any(axis=1))
    assert not rows.size, "\n".join(
        f"{sets[i]} at {COUNTS[wrong[i]]}: {np.asarray(found[i])[wrong[i]]}, "
        f"not {expected[i][wrong[i]]}"
        for i in rows[:3]
    )
