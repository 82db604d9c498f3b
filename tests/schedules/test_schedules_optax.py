"""Schedules against Optax's: names, arguments, and values to the last bit."""

import inspect
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from curves import COUNTS

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


def test_arguments_have_the_names_order_and_defaults_of_optax():
    for name in NAMES:
        ours, theirs = (
            inspect.signature(getattr(module, name)).parameters.values()
            for module in (stabjax, optax.schedules)
        )
        assert [(p.name, p.kind, p.default) for p in ours] == [
            (p.name, p.kind, p.default) for p in theirs
        ]


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
        # Few sizes, so that few operations are compiled.
        scales = [self.one_of(self.number(0, 3), 0, 1) for _ in "abcd"]
        boundaries = self.random.sample(range(40), 4)
        if self.fractional:
            boundaries[1] += self.one_of(0.0, 0.25, self.number(0, 1))
        return dict(list(zip(boundaries, scales, strict=True))[: self.one_of(0, 1, 4)])

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


# Products of scales are taken in float64 here, and in float32 in Optax.
ACCUMULATING = {
    "piecewise_interpolate_schedule",
    "linear_onecycle_schedule",
    "cosine_onecycle_schedule",
}


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.slow
def test_values_are_exactly_those_of_optax(name):
    draw = Draw(seed=name, fractional=True)
    for _ in range(10):
        arguments = draw.arguments(name)
        ours = getattr(stabjax, name)(*arguments)
        theirs = getattr(optax.schedules, name)(*arguments)
        for count in (*COUNTS, draw.random.randrange(48)):
            count = jnp.asarray(count) if isinstance(count, np.int32) else count
            with jax.numpy_dtype_promotion("standard"):
                expected = theirs(count)
                with jax.enable_x64(True):
                    exact = np.float32(theirs(float(count)))
            value = ours(count)
            # At its ends, and where scales accumulate, ours is rounded only once.
            rounding = 3e-7 if name in ACCUMULATING else 0
            if np.float32(value) != exact:
                message = f"{count}, {arguments}"
                np.testing.assert_allclose(
                    value, expected, rounding, rounding / 3, True, message
                )
            assert jnp.result_type(value) == jnp.result_type(expected)


@pytest.mark.parametrize("name", NAMES[:-1])
@pytest.mark.slow
def test_compiled_values_are_those_of_optax(name):
    # Of Optax's before compilation: XLA turns a division by a constant into a rounded
    # product, which costs Optax the last digit, or a stair, or the end of a root.
    draw = Draw(seed=name, fractional=False)
    for _ in range(2):
        arguments = draw.arguments(name)
        schedule = getattr(stabjax, name)(*arguments)
        theirs = getattr(optax.schedules, name)(*arguments)
        with jax.numpy_dtype_promotion("standard"):
            expected = np.array([theirs(jnp.asarray(count)) for count in COUNTS])
        atol = 5e-7 * np.abs(expected).max()
        for each in (jax.vmap, lambda f: lambda counts: jax.lax.map(f, counts)):
            values = jax.jit(each(lambda count, f=schedule: jnp.asarray(f(count))))
            got = values(COUNTS)
            np.testing.assert_allclose(got, expected, 1e-6, atol, err_msg=arguments)


def test_a_compiled_root_ends_at_its_end():
    # Here compiled Optax is NaN from step 15 on: it takes the root of -6e-8.
    schedule = jax.jit(stabjax.polynomial_schedule(1.0, 0.25, 0.5, 9, 6))
    assert schedule(14) == 0.5 and schedule(15) == schedule(99) == 0.25


def test_compiled_stairs_are_where_they_should_be():
    # Compiled Optax takes three of these a step late: 41 * (1 / 41) is less than 1.
    schedule = stabjax.exponential_decay(1.0, 41, 0.5, staircase=True)
    counts = jnp.arange(300)
    expected = 0.5 ** (np.arange(300) // 41)
    np.testing.assert_array_equal(jax.jit(schedule)(counts), expected)
    one_by_one = jax.jit(lambda counts: jax.lax.map(schedule, counts))
    np.testing.assert_array_equal(one_by_one(counts), expected)
