"""Shapes of a cooldown, and of a warmup, which is a cooldown run backwards."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import jax.numpy as jnp

from stabjax._arguments import check, check_choice
from stabjax._schedules.counts import since
from stabjax._types import Condition, Number

Shape: TypeAlias = Literal[
    "linear", "1-sqrt", "cosine", "square", "mirror-cosine", "exponential"
]

# The height above the low value when the fraction q of the steps is gone. The fraction
# `left` = 1 - q is computed from the count on its own, so that small values near the
# end keep their relative accuracy.
_Height = Callable[[Number, Number], Number]


def _linear(q: Number, left: Number) -> Number:
    return left


def _one_minus_sqrt(q: Number, left: Number) -> Number:
    # 1 - sqrt(q) without its cancellation. The root has no derivative at 0.
    begun = q > 0
    return left / (1 + jnp.where(begun, jnp.sqrt(jnp.where(begun, q, 1)), 0))


def half_cosine(left: Number) -> Number:
    """Returns (1 + cos(pi (1 - left))) / 2, accurate where `left` is small."""
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


def check_shape(shape: Shape, name: str, low: Number) -> None:
    """Raises unless the shape exists and can reach `low`, the argument `name`."""
    check_choice("shape", shape, [*_HEIGHTS, "exponential"])
    if shape == "exponential":
        check(name, low, "> 0")


def fraction_gone(count: Number, start: Number, steps: Number) -> Number:
    """Returns the fraction of the steps that is gone, in [0, 1]."""
    steps = jnp.where(jnp.asarray(steps) > 0, steps, 1)
    return jnp.clip(since(count, start) / steps, 0, 1)


def fraction_left(count: Number, start: Number, steps: Number) -> Number:
    """Returns the fraction of the steps that is left, in [0, 1]; at the end 0."""
    elapsed = since(count, start)
    # Not the end minus the count: both may be large, and the end beyond int32.
    left = (steps - jnp.maximum(elapsed, 0)) / jnp.where(
        jnp.asarray(steps) > 0, steps, 1
    )
    return jnp.where(elapsed < 0, 1, jnp.clip(left, 0, 1))


def between(shape: Shape, high: Number, low: Number, q: Number, left: Number) -> Number:
    """Returns the value on the way from `high` at q = 0 to `low` at left = 0."""
    if shape == "exponential":
        value = _geometric(high, low, q, left)
    else:
        value = low + (high - low) * _HEIGHTS[shape](q, left)
    # Without steps, both fractions are 0: the phase is over.
    return with_ends(value, high, q <= 0, low, left <= 0)


def with_ends(
    value: Number, start: Number, before: Condition, end: Number, after: Condition
) -> Number:
    """Returns `start` before, `end` after, and in between a value that lies between.

    Compiled, a division becomes a product with a rounded inverse, and products and sums
    fuse (XLA): at its end a line may stop at -1.5e-8 instead of 0, and a threshold
    below zero is no threshold.
    """
    value = within(value, start, end)
    return jnp.where(after, end, jnp.where(before, start, value))


def within(value: Number, a: Number, b: Number) -> Number:
    """Returns the value, moved into the range between a and b; NaN stays NaN."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    # Not jnp.clip, whose derivative at the bounds is a half.
    return jnp.where(value < low, low, jnp.where(value > high, high, value))


def _geometric(high: Number, low: Number, q: Number, left: Number) -> Number:
    """Returns `high ** left * low ** q`, and 0 if one of the two is not positive."""
    good = (jnp.asarray(high) > 0) & (jnp.asarray(low) > 0)
    logs = left * jnp.log(jnp.where(good, high, 1)) + q * jnp.log(
        jnp.where(good, low, 1)
    )
    return jnp.where(good, jnp.exp(logs), 0)
