"""Shapes of cooldowns and warmups. A warmup is a reversed cooldown."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax.numpy as jnp

from stabjax._arguments import as_number, check, check_choice
from stabjax._schedules.counts import since
from stabjax._types import Condition, Number

Shape: TypeAlias = (
    Literal[
        "linear",
        "1-sqrt",
        "cosine",
        "square",
        "mirror-cosine",
        "exponential",
        "harmonic",
    ]
    | Number
)
_POSITIVE = ("exponential", "harmonic")  # shapes that cannot end at 0

# Maps the elapsed fraction q of the steps to the height above the low value. `left` = 1
# - q is computed separately from the count to keep small values near the end accurate.
_Height = Callable[[Number, Number], Number]


def _linear(q: Number, left: Number) -> Number:
    return left


def _one_minus_sqrt(q: Number, left: Number) -> Number:
    # Avoids cancellation in 1 - sqrt(q), and the infinite derivative at 0.
    begun = q > 0
    return left / (1 + jnp.where(begun, jnp.sqrt(jnp.where(begun, q, 1)), 0))


def half_cosine(left: Number) -> Number:
    """Computes (1 + cos(pi (1 - left))) / 2, accurate for small `left`."""
    return jnp.square(jnp.sin(jnp.pi / 2 * left))


def _cosine(q: Number, left: Number) -> Number:
    return half_cosine(left)


def _square(q: Number, left: Number) -> Number:
    return left * (1 + q)


def _mirror_cosine(q: Number, left: Number) -> Number:
    return 2 * left - half_cosine(left)


_HEIGHTS: dict[str, _Height] = {
    "linear": _linear,
    "1-sqrt": _one_minus_sqrt,
    "cosine": _cosine,
    "square": _square,
    "mirror-cosine": _mirror_cosine,
}


def check_shape(shape: Shape, name: str, low: Number) -> Condition:
    """Raises a ValueError if the shape is unknown or cannot reach `low`.

    Returns whether a shape that is a traced power is positive.
    """
    if not isinstance(shape, str):
        return check("shape", as_number("shape", shape), "> 0")
    check_choice("shape", shape, [*_HEIGHTS, *_POSITIVE])
    if shape in _POSITIVE:
        check(name, low, "> 0")
    return True


def fraction_gone(count: Number, start: Number, steps: Number) -> Number:
    """Returns the elapsed fraction of the steps, in [0, 1]."""
    steps = jnp.where(jnp.asarray(steps) > 0, steps, 1)
    return jnp.clip(since(count, start) / steps, 0, 1)


def fraction_left(count: Number, start: Number, steps: Number) -> Number:
    """Returns the remaining fraction of the steps, in [0, 1], exactly 0 at the end."""
    elapsed = since(count, start)
    # Avoids subtracting the count from the end, which may exceed int32.
    left = (steps - jnp.maximum(elapsed, 0)) / jnp.where(
        jnp.asarray(steps) > 0, steps, 1
    )
    return jnp.where(elapsed < 0, 1, jnp.clip(left, 0, 1))


def between(shape: Shape, high: Number, low: Number, q: Number, left: Number) -> Number:
    """Interpolates between `high` at q = 0 and `low` at left = 0."""
    if not isinstance(shape, str):
        value = low + (high - low) * _power(left, shape)
    elif shape == "exponential":
        value = _geometric(high, low, q, left)
    elif shape == "harmonic":
        value = _harmonic(high, low, q, left)
    else:
        value = low + (high - low) * _HEIGHTS[shape](q, left)
    # Without any steps, both fractions are 0 and the phase has ended.
    return with_ends(value, high, q <= 0, low, left <= 0)


def with_ends(
    value: Number, start: Number, before: Condition, end: Number, after: Condition
) -> Number:
    """Returns `start` or `end` outside a phase, and `value` within their range inside.

    XLA turns divisions into products with rounded inverses and fuses products and sums.
    A linear schedule that should end at 0 may otherwise end at -1.5e-8, which is not a
    valid threshold.
    """
    value = within(value, start, end)
    return jnp.where(after, end, jnp.where(before, start, value))


def within(value: Number, a: Number, b: Number) -> Number:
    """Clips the value to the range between a and b. NaN stays NaN."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    # jnp.clip has a derivative of 1/2 at the bounds. In this form, LLVM uses a minimum
    # and a maximum.
    value = jnp.where(value > high, high, value)
    return jnp.where(value < low, low, value)


def _geometric(high: Number, low: Number, q: Number, left: Number) -> Number:
    """Computes `high ** left * low ** q`, or 0 if either is not positive."""
    good = (jnp.asarray(high) > 0) & (jnp.asarray(low) > 0)
    logs = left * jnp.log(jnp.where(good, high, 1)) + q * jnp.log(
        jnp.where(good, low, 1)
    )
    return jnp.where(good, jnp.exp(logs), 0)


def _harmonic(high: Number, low: Number, q: Number, left: Number) -> Number:
    """Computes `1 / (left / high + q / low)`, or 0 if either is not positive."""
    good = (jnp.asarray(high) > 0) & (jnp.asarray(low) > 0)
    inverse = left / jnp.where(good, high, 1) + q / jnp.where(good, low, 1)
    # Both fractions are 0 without any steps.
    return jnp.where(good & (inverse > 0), 1 / jnp.where(inverse > 0, inverse, 1), 0)


def _power(left: Number, exponent: Number) -> Number:
    """Computes `left ** exponent` with finite derivatives at 0."""
    begun = left > 0
    return jnp.where(begun, jnp.where(begun, left, 1) ** exponent, 0)
