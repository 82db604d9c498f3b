"""Shapes of a cool-down, and of a warm-up, which is a cool-down run backwards."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from stabjax._schedules.arguments import ArrayLike, known, since

# What is left of the way from high to low when the share q of the steps is gone. The
# other share comes along, `left` = 1 - q from a count of its own, so that what is small
# near the end keeps its relative accuracy.
_Shape = Callable[[ArrayLike, ArrayLike], ArrayLike]


def _linear(q: ArrayLike, left: ArrayLike) -> ArrayLike:
    return left


def _one_minus_sqrt(q: ArrayLike, left: ArrayLike) -> ArrayLike:
    # The root has no derivative at 0.
    begun = q > 0
    return left / (1 + jnp.where(begun, jnp.sqrt(jnp.where(begun, q, 1)), 0))


def _cosine(q: ArrayLike, left: ArrayLike) -> ArrayLike:
    return jnp.square(jnp.sin(jnp.pi / 2 * left))


def _square(q: ArrayLike, left: ArrayLike) -> ArrayLike:
    return left * (1 + q)


def _mirror_cosine(q: ArrayLike, left: ArrayLike) -> ArrayLike:
    return 2 * left - _cosine(q, left)


_SHAPES: dict[str, _Shape] = {
    "linear": _linear,
    "1-sqrt": _one_minus_sqrt,
    "cosine": _cosine,
    "square": _square,
    "mirror-cosine": _mirror_cosine,
}


def check_shape(shape: str, name: str, low: ArrayLike) -> None:
    """Raises unless this is a shape that can go to that value, which has this name."""
    if shape == "exponential":
        if known(low) and not np.all(np.asarray(low) > 0):
            raise ValueError(
                f"{name} must be positive for the shape 'exponential', got {low}."
            )
    elif shape not in _SHAPES:
        names = ", ".join(map(repr, [*_SHAPES, "exponential"]))
        raise ValueError(f"shape must be one of {names}, got {shape!r}.")


def share(count: ArrayLike, start: ArrayLike, steps: ArrayLike) -> ArrayLike:
    """The share of the steps that is gone, between 0 and 1."""
    steps = jnp.where(jnp.asarray(steps) > 0, steps, 1)
    return jnp.clip(since(count, start) / steps, 0, 1)


def share_ahead(count: ArrayLike, start: ArrayLike, steps: ArrayLike) -> ArrayLike:
    """The share of the steps that is left, between 0 and 1."""
    elapsed = since(count, start)
    # Not the end less the count: both may be large, and the end beyond int32.
    left = (steps - jnp.maximum(elapsed, 0)) / jnp.where(
        jnp.asarray(steps) > 0, steps, 1
    )
    return jnp.where(elapsed < 0, 1, jnp.clip(left, 0, 1))


def between(
    shape: str, high: ArrayLike, low: ArrayLike, q: ArrayLike, left: ArrayLike
) -> ArrayLike:
    """From high at q = 0 to low at q = 1."""
    if shape == "exponential":
        value = _geometric(high, low, q, left)
    else:
        value = low + (high - low) * _SHAPES[shape](q, left)
    # A phase of no length has neither: it is over.
    return jnp.where(left <= 0, low, jnp.where(q <= 0, high, value))


def _geometric(
    high: ArrayLike, low: ArrayLike, q: ArrayLike, left: ArrayLike
) -> ArrayLike:
    """`high ** left * low ** q`, which is 0 between two values one of which is 0."""
    good = (jnp.asarray(high) > 0) & (jnp.asarray(low) > 0)
    logs = left * jnp.log(jnp.where(good, high, 1)) + q * jnp.log(
        jnp.where(good, low, 1)
    )
    return jnp.where(good, jnp.exp(logs), 0)
