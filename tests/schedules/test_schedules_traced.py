"""Schedules of traced numbers: vmap, one trace, derivatives, dtypes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from curves import COUNTS, curve

import stabjax


class Case(NamedTuple):
    """A builder, typical numbers for it, and for each of them others worth a try."""

    build: object
    numbers: dict
    others: dict = {}


def _pair(build, *kind):
    def built(init_value, b0, b1, b2, s0, s1, s2):
        return build(*kind, init_value, ([b0, b1, b2], [s0, s1, s2]))

    others = {"b0": [0, 9, 20], "b1": [0, 5, 30], "s0": [0, 1, 2], "s2": [0, 4]}
    numbers = dict(init_value=0.8, b0=5, b1=9, b2=17, s0=0.5, s1=0.1, s2=4.0)
    return Case(built, numbers, others)


def _sgdr(p0, w0, t0, e0, p1, w1, t1):
    first = dict(init_value=0.1, peak_value=p0, warmup_steps=w0, decay_steps=t0)
    last = dict(init_value=0.05, peak_value=p1, warmup_steps=w1, decay_steps=t1)
    return stabjax.sgdr_schedule([first | dict(end_value=e0), last])


def _join(b0, b1, rate, value):
    growing = stabjax.exponential_decay(1e-3, 1, rate)
    constant = stabjax.constant_schedule(value)
    return stabjax.join_schedules(
        [growing, constant, stabjax.linear_schedule(value, 0, 9)], [b0, b1]
    )


STEPS = [-2, 0, 1, 5, 40]
EXPONENTIAL = dict(init_value=0.5, transition_steps=4, decay_rate=0.3)
RATES = {"decay_rate": [0, 0.9, 1, 2], "end_value": [0.01, 0.7]}
ONECYCLE = dict(transition_steps=21, peak_value=2.0, pct_start=0.3)
CASES = {
    "constant": Case(stabjax.constant_schedule, dict(value=0.3)),
    "polynomial": Case(
        stabjax.polynomial_schedule,
        dict(
            init_value=1.0,
            end_value=0.05,
            power=2.5,
            transition_steps=8,
            transition_begin=2,
        ),
        {"power": [0, 0.5, 1, 2], "transition_steps": STEPS, "transition_begin": STEPS},
    ),
    "linear": Case(
        stabjax.linear_schedule,
        dict(init_value=0.1, end_value=1.0, transition_steps=7, transition_begin=3),
        {"transition_steps": STEPS, "transition_begin": STEPS},
    ),
    "piecewise_constant": _pair(stabjax.piecewise_constant_schedule),
    "piecewise_linear": _pair(stabjax.piecewise_interpolate_schedule, "linear"),
    "exponential": Case(
        stabjax.exponential_decay,
        EXPONENTIAL | dict(transition_begin=2, end_value=0.05),
        RATES | {"transition_steps": STEPS, "transition_begin": STEPS},
    ),
    "exponential_unbounded": Case(
        stabjax.exponential_decay, EXPONENTIAL, {"decay_rate": [0, 0.9, 1]}
    ),
    "stairs": Case(
        lambda **numbers: stabjax.exponential_decay(staircase=True, **numbers),
        EXPONENTIAL | dict(end_value=0.05),
        RATES | {"transition_steps": STEPS},
    ),
    "cosine": Case(
        stabjax.cosine_decay_schedule,
        dict(init_value=0.8, decay_steps=10, alpha=0.1, exponent=1.5),
        {"decay_steps": [1, 7, 40], "exponent": [0, 0.3, 1, 2]},
    ),
    "linear_onecycle": Case(
        stabjax.linear_onecycle_schedule,
        ONECYCLE | dict(pct_final=0.8, div_factor=10.0, final_div_factor=100.0),
        {
            "transition_steps": [1, 2, 3, 10],
            "pct_start": [0, 0.01, 0.8, 0.9, 1],
            "pct_final": [0, 0.1, 0.3, 1],
        },
    ),
    "cosine_onecycle": Case(
        stabjax.cosine_onecycle_schedule,
        ONECYCLE | dict(div_factor=10.0, final_div_factor=100.0),
        {"transition_steps": [1, 2, 3, 10.5], "pct_start": [0, 0.01, 1]},
    ),
    "warmup_constant": Case(
        stabjax.warmup_constant_schedule,
        dict(init_value=0.1, peak_value=0.9, warmup_steps=4),
        {"warmup_steps": STEPS},
    ),
    "warmup_cosine": Case(
        stabjax.warmup_cosine_decay_schedule,
        dict(
            init_value=0.1,
            peak_value=1.0,
            warmup_steps=4,
            decay_steps=12,
            end_value=0.05,
            exponent=1.3,
        ),
        {
            "peak_value": [0, 2],
            "warmup_steps": [-2, 0, 1, 11],
            "decay_steps": [5, 40],
            "exponent": [0, 0.3, 1, 2],
        },
    ),
    "warmup_exponential": Case(
        stabjax.warmup_exponential_decay_schedule,
        EXPONENTIAL
        | dict(peak_value=1.0, warmup_steps=3, transition_begin=2, end_value=0.2),
        RATES | {"warmup_steps": STEPS, "transition_steps": STEPS},
    ),
    "sgdr": Case(
        _sgdr,
        dict(p0=1.0, w0=2, t0=6, e0=0.05, p1=0.5, w1=3, t1=8),
        {"p0": [0], "w0": [0, 5], "t0": [3, 20], "w1": [0]},
    ),
    "join": Case(
        _join,
        dict(b0=6, b1=20, rate=2.0, value=0.7),
        {"b0": [0, 20], "b1": [6, 50]},
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def variants(case):
    """All numbers as columns: the typical ones, and rows that vary one of them."""
    rows = [case.numbers]
    for name, value in case.numbers.items():
        others = [*case.others.get(name, []), value * 0.9]
        rows += [case.numbers | {name: other} for other in others]
    return {
        name: np.array([row[name] for row in rows], np.float32) for name in case.numbers
    }


@pytest.mark.slow  # the battery asks the same of each number by itself
@each_case
def test_vmap_over_each_argument_equals_the_loop(case):
    """The loop over arrays, which is one trace, and that over Python numbers."""
    traces = []

    @jax.jit
    def one(numbers):
        traces.append(1)
        return curve(case.build(**numbers))

    def mapped_over(name, column):
        """One argument is traced, the others are Python numbers."""
        return jax.vmap(lambda x: curve(case.build(**case.numbers | {name: x})))(column)

    @jax.jit
    def mapped(columns):
        return {name: mapped_over(name, column) for name, column in columns.items()}

    columns = {
        name: np.array([value, value * 0.9, *case.others.get(name, [])], np.float32)
        for name, value in case.numbers.items()
    }
    for name, values in mapped(columns).items():
        for got, number in zip(values, columns[name], strict=True):
            numbers = case.numbers | {name: float(number)}
            expected = curve(case.build(**numbers))
            assert np.isfinite(expected).all()
            assert_close(got, expected)
            assert_close(one(jax.tree.map(np.float32, numbers)), expected)
    assert len(traces) == 1


def assert_close(got, expected):
    """Equal up to a few roundings, of the value or of the largest one on its curve."""
    largest = np.abs(expected).max(axis=-1, keepdims=True)
    error = np.abs(np.asarray(got, np.float64) - expected)
    assert (error <= 1e-6 * (np.abs(expected) + 0.5 * largest)).all()


@pytest.mark.slow
def test_eager_vmap_equals_the_loop_to_the_last_digit():
    case = CASES["warmup_cosine"]
    for name, value in case.numbers.items():

        def one(other, name=name):
            return curve(case.build(**case.numbers | {name: other}))

        # Always as many, so that operations are compiled once for all.
        others = np.resize([*case.others.get(name, []), value, value * 0.9], 6)
        others = jnp.asarray(others, jnp.float32)
        looped = np.stack([one(other) for other in others])
        np.testing.assert_array_max_ulp(np.asarray(jax.vmap(one)(others)), looped, 1)


@each_case
@pytest.mark.slow
def test_derivatives_are_finite_at_every_count(case):
    def value(count, numbers):
        return jnp.asarray(case.build(**numbers)(count), jnp.float32)

    derivatives = jax.vmap(
        jax.vmap(jax.grad(value, argnums=(0, 1)), (None, 0)), (0, None)
    )
    counts = jnp.array([*range(-2, 48), 0.5, 3.7, 1e6], jnp.float32)
    for derivative in jax.tree.leaves(jax.jit(derivatives)(counts, variants(case))):
        assert np.isfinite(derivative).all()


SMOOTH = (
    "polynomial",
    "exponential",
    "cosine",
    "piecewise_linear",
    "linear_onecycle",
    "warmup_cosine",
    "join",
)


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_those_of_finite_differences(name):
    case = CASES[name]
    # Counts that are no corner of any case; half of the rows a step up, half down.
    counts, h = np.array([1.7, 7.4, 13.3]), 1e-6
    names = list(case.numbers)

    def values(numbers):
        return curve(case.build(**dict(zip(names, numbers, strict=True))), counts)

    with jax.enable_x64(True):
        numbers = np.array([case.numbers[name] for name in names], np.float64)
        steps = h * np.eye(len(names))
        moved = np.concatenate([numbers + steps, numbers - steps])
        up, down = np.split(np.asarray(jax.jit(jax.vmap(values))(moved)), 2)
        derivatives = jax.jit(jax.jacfwd(values))(numbers)
        np.testing.assert_allclose(derivatives.T, (up - down) / (2 * h), 1e-5, 1e-7)
        assert np.abs(derivatives).max() > 0.01


@pytest.mark.slow
@each_case
def test_integer_arrays_are_as_good_as_python_numbers(case):
    whole = {k: jnp.int32(v) for k, v in case.numbers.items() if isinstance(v, int)}
    got = jax.jit(lambda whole: curve(case.build(**case.numbers | whole)))(whole)
    assert_close(got, curve(case.build(**case.numbers)))


@pytest.mark.slow
@each_case
def test_counts_of_any_shape(case):
    def values(counts):
        return jnp.broadcast_to(case.build(**case.numbers)(counts), counts.shape)

    got = jax.jit(values)(COUNTS.reshape(4, 12))
    assert_close(got.ravel(), curve(case.build(**case.numbers)))


@each_case
def test_drives_sgd_in_bfloat16_with_traced_numbers(case):
    @jax.jit
    def first_update(numbers):
        schedule = case.build(**numbers)
        optimizer = optax.sgd(schedule)
        gradient = jnp.ones(3, jnp.bfloat16)
        updates, _ = optimizer.update(gradient, optimizer.init(gradient))
        return updates, jnp.asarray(schedule(jnp.int32(0)), jnp.bfloat16)

    updates, rate = first_update(jax.tree.map(jnp.float32, case.numbers))
    assert updates.dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates, jnp.full(3, -rate))
