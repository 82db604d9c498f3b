"""Schedules against hand-made vectors, Optax, loops and finite differences."""

import json
import pathlib
import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import stabjax

NAMES = (
    "constant_schedule",
    "polynomial_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "exponential_decay",
    "cosine_decay_schedule",
    "linear_onecycle_schedule",
    "cosine_onecycle_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "sgdr_schedule",
    "join_schedules",
)
COUNTS = np.arange(48, dtype=np.int32)


def curve(schedule, counts=COUNTS):
    """The values at all counts, each seen as a scalar."""
    return jax.vmap(lambda count: jnp.asarray(schedule(count)))(counts)


def optax_curve(schedule, counts=COUNTS):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return curve(schedule, counts)


# Values: hand-made vectors, and Optax.

VECTORS = json.loads(
    (pathlib.Path(__file__).parent / "vectors" / "optax_schedules.json").read_text()
)
KNOTS = {5: 0.5, 8: 0.1, 12: 4.0}
FROM_VECTORS = {
    "o_const": stabjax.constant_schedule(0.3),
    "o_lin": stabjax.linear_schedule(0.1, 1.0, 7, 3),
    "o_poly": stabjax.polynomial_schedule(1.0, 0.05, 2.5, 8, 2),
    "o_cos": stabjax.cosine_decay_schedule(0.8, 10, 0.1, 1.5),
    "o_exp": stabjax.exponential_decay(0.5, 4, 0.3, 2, end_value=0.05),
    "o_exps": stabjax.exponential_decay(0.5, 4, 0.3, 2, staircase=True),
    "o_expg": stabjax.exponential_decay(0.1, 3, 2.0, end_value=0.5),
    "o_pwc": stabjax.piecewise_constant_schedule(0.8, KNOTS),
    "o_pwil": stabjax.piecewise_interpolate_schedule("linear", 0.8, KNOTS),
    "o_pwic": stabjax.piecewise_interpolate_schedule("cosine", 0.8, KNOTS),
    "o_lin1": stabjax.linear_onecycle_schedule(11, 2.0, 0.3, 0.8, 10.0, 100.0),
    "o_cos1": stabjax.cosine_onecycle_schedule(11, 2.0, 0.3, 10.0, 100.0),
    "o_wcon": stabjax.warmup_constant_schedule(0.1, 0.9, 4),
    "o_wcos": stabjax.warmup_cosine_decay_schedule(0.1, 1.0, 4, 12, 0.05, 1.3),
    "o_wcos0": stabjax.warmup_cosine_decay_schedule(0.1, 1.0, 0, 12, 0.05),
    "o_wexp": stabjax.warmup_exponential_decay_schedule(
        0.0, 1.0, 3, 4, 0.5, transition_begin=2, end_value=0.2
    ),
    "o_sgdr": stabjax.sgdr_schedule(
        dict(
            init_value=init, peak_value=peak, warmup_steps=w, decay_steps=t, end_value=e
        )
        for init, peak, w, t, e in ((0.1, 1.0, 2, 6, 0.05), (0.05, 0.5, 3, 8, 0.01))
    ),
    "o_join": stabjax.join_schedules(
        [
            stabjax.linear_schedule(0.0, 1.0, 4),
            stabjax.constant_schedule(0.7),
            stabjax.exponential_decay(0.5, 2, 0.5),
        ],
        [4, 6],
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name):
    counts, values = (np.array(VECTORS[name][key]) for key in "tv")
    with jax.enable_x64(True):
        got = curve(FROM_VECTORS[name], counts.astype(np.float64))
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, values, rtol=1e-12, atol=1e-16)


class Draw:
    """Random arguments that visit the corners: zero, negative and fractional steps."""

    def __init__(self, seed, fractional):
        self.random = random.Random(seed)
        self.fractional = fractional

    def number(self, low, high):
        return self.random.uniform(low, high)

    def one_of(self, *values):
        return self.random.choice(values)

    def steps(self, low, high):
        if self.fractional and self.random.random() < 0.3:
            return self.number(max(low, 0.5), high)
        return self.random.randint(low, high)

    def percentage(self):
        grid = self.random.randint(0, 100) / 100
        return self.one_of(self.number(0, 1), grid, 0.29, 0.0, 1.0, 1)

    def knots(self):
        return {
            self.steps(0, 40): self.one_of(self.number(0, 3), 0, 1, 2.0)
            for _ in range(self.one_of(0, 1, 5))
        }

    def value(self):
        return self.one_of(self.number(-1, 2), 1)

    def arguments(self, name):
        return getattr(self, name)()

    def constant_schedule(self):
        return (self.value(),)

    def polynomial_schedule(self):
        power = self.one_of(0, 1, 2, 3, 0.5, self.number(0.1, 4))
        return self.value(), self.value(), power, self.steps(-2, 30), self.steps(-2, 9)

    def linear_schedule(self):
        return self.value(), self.value(), self.steps(-2, 30), self.steps(-2, 9)

    def piecewise_constant_schedule(self):
        return self.value(), self.one_of(None, self.knots(), self.knots())

    def piecewise_interpolate_schedule(self):
        return self.one_of("linear", "cosine"), self.value(), self.knots()

    def exponential_decay(self):
        rate = self.one_of(self.number(0.1, 1), self.number(1, 2), 1.0, 0.0, 2)
        end = self.one_of(None, self.number(0, 1), self.number(1, 3))
        staircase = self.one_of(False, True)
        return self.value(), self.steps(-1, 20), rate, self.steps(-2, 9), staircase, end

    def cosine_decay_schedule(self):
        exponent = self.one_of(0, 1, 1.0, 2, 0.3, self.number(0.2, 3))
        return self.value(), self.steps(1, 40), self.one_of(0.0, 1, 0.1), exponent

    def linear_onecycle_schedule(self):
        steps, *rest = self.cosine_onecycle_schedule()
        return steps, *rest[:2], self.percentage(), *rest[2:]

    def cosine_onecycle_schedule(self):
        steps = self.one_of(1, 2, self.steps(1, 40), self.steps(1, 40))
        factors = self.number(1, 30), self.number(1, 1e4)
        return steps, self.number(0.1, 2), self.percentage(), *factors

    def warmup_constant_schedule(self):
        return self.value(), self.value(), self.steps(-1, 20)

    def warmup_cosine_decay_schedule(self):
        warmup = self.steps(-1, 20)
        peak = self.one_of(0, self.value(), self.value())
        steps = warmup + self.steps(1, 20)
        return self.value(), peak, warmup, steps, self.value(), self.one_of(1.0, 0.4, 2)

    def warmup_exponential_decay_schedule(self):
        peak, *rest = self.exponential_decay()
        return self.value(), peak, self.steps(-1, 20), *rest

    def sgdr_schedule(self):
        names = ("init_value", "peak_value", "warmup_steps", "decay_steps", "end_value")
        cycles = self.random.randint(1, 4)
        draw = self.warmup_cosine_decay_schedule
        return ([dict(zip(names, draw(), strict=False)) for _ in range(cycles)],)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_values_are_exactly_those_of_optax(name):
    draw = Draw(seed=name, fractional=True)
    for _ in range(25):
        arguments = draw.arguments(name)
        ours = getattr(stabjax, name)(*arguments)
        theirs = getattr(optax.schedules, name)(*arguments)
        for count in (*map(jnp.int32, range(0, 48, 3)), draw.random.randrange(48)):
            with jax.numpy_dtype_promotion("standard"):
                expected = theirs(count)
            value = ours(count)
            np.testing.assert_array_equal(value, expected, f"{count}, {arguments}")
            assert jnp.result_type(value) == jnp.result_type(expected)


@pytest.mark.parametrize("name", NAMES[:-1])
def test_compiled_values_are_exactly_those_of_optax(name):
    # One count after the other, as in training. For many at once XLA replaces divisions
    # by rounded products, in which Optax's values lose their last digit, or a stair.
    # Steps are whole: in a chain of fractional ones XLA folds Optax's constants.
    draw = Draw(seed=name, fractional=False)
    for _ in range(4):
        arguments = draw.arguments(name)
        ours, theirs = (
            jax.jit(lambda counts, s=module: jax.lax.map(curve_of(s), counts))(COUNTS)
            for module in (1, 2)
        )


def test_percentages_are_cut_as_python_cuts_them():
    # 0.29 * 100 is 28.99..., 0.57 * 100 is 56.99... in float64.
    schedule = stabjax.linear_onecycle_schedule(100, 1.0, 0.29, 0.57, 10.0)
    values = curve(schedule, np.arange(101))
    assert np.argmax(values) == 28
    assert values[56] == pytest.approx(0.1) and values[57] < values[56]


def test_arguments_have_the_names_order_and_defaults_of_optax():
    import inspect

    for name in NAMES:
        ours, theirs = (
            inspect.signature(getattr(module, name)).parameters.values()
            for module in (stabjax, optax.schedules)
        )
        assert [(p.name, p.kind, p.default) for p in ours] == [
            (p.name, p.kind, p.default) for p in theirs
        ]


def test_a_constant_is_the_object_itself():
    value = object()
    assert stabjax.constant_schedule(value)(3) is value


# Traced arguments: every schedule as a function of numbers alone.


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
    "piecewise_cosine": _pair(stabjax.piecewise_interpolate_schedule, "cosine"),
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
        {"b0": [0, 20, 30], "b1": [0, 50]},
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


@each_case
def test_vmap_over_each_argument_equals_the_loop(case):
    for name, value in case.numbers.items():
        # Always as many, so that operations are compiled once for all.
        others = np.resize([*case.others.get(name, []), value, value * 0.9], 6)
        others = jnp.asarray(others, jnp.float32)

        def one(other, name=name):
            return curve(case.build(**case.numbers | {name: other}))

        looped = jnp.stack([one(other) for other in others])
        assert np.isfinite(looped).all(), name
        np.testing.assert_array_max_ulp(np.asarray(jax.vmap(one)(others)), looped, 1)


@each_case
def test_one_trace_for_all_arguments_and_the_count(case):
    traces = []

    @jax.jit
    def compiled(numbers):
        traces.append(1)
        return curve(case.build(**numbers))

    columns = variants(case)
    for row in range(len(next(iter(columns.values())))):
        numbers = {name: column[row] for name, column in columns.items()}
        expected = curve(case.build(**{k: float(v) for k, v in numbers.items()}))
        # In float32 the last digits of what cancels are rounding.
        scale = np.abs(expected).max()
        np.testing.assert_allclose(compiled(numbers), expected, 1e-5, 1e-6 * scale)
    assert len(traces) == 1


@each_case
def test_derivatives_are_finite_at_every_count(case):
    def value(count, numbers):
        return jnp.asarray(case.build(**numbers)(count), jnp.float32)

    derivatives = jax.vmap(
        jax.vmap(jax.grad(value, argnums=(0, 1)), (None, 0)), (0, None)
    )
    counts = jnp.array([*range(-2, 48), 0.5, 3.7, 1e6], jnp.float32)
    for derivative in jax.tree.leaves(jax.jit(derivatives)(counts, variants(case))):
        assert np.isfinite(derivative).all()
