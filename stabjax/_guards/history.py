"""Histories of losses and gradient norms, and the limits derived from them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._types import Number

# Minimum standard deviation relative to the largest magnitude, to allow for rounding
# errors in constant values.
_LEAST_DEVIATION = 1e-6


class History(NamedTuple):
    """Recent losses and norms, with the latest in the last column."""

    values: jax.Array  # (2, window)
    number: jax.Array  # int32: number of recorded columns


def no_history(window: int, dtype: Any) -> History:
    """Returns an empty history."""
    return History(jnp.zeros((2, window), dtype), jnp.zeros((), jnp.int32))


def recorded(history: History, latest: jax.Array) -> History:
    """Adds the latest loss and norm to the history if both are finite."""
    window = history.values.shape[1]
    longer = History(
        jnp.concatenate([history.values[:, 1:], latest[:, None]], axis=1),
        jnp.minimum(history.number + 1, window),
    )
    finite = jnp.isfinite(latest).all()
    kept: History = jax.tree.map(partial(jnp.where, finite), longer, history)
    return kept


def limits_of(history: History, z_threshold: Number, min_count: Number) -> jax.Array:
    """Computes mean + z_threshold * deviation of each row.

    Returns inf if there are fewer than `min_count` values, or if all values are zero.
    Computations are relative to the largest magnitude to prevent overflowing squares.
    """
    values = history.values
    dtype, window = values.dtype, values.shape[1]
    held = (jnp.arange(window, dtype=jnp.int32) >= window - history.number)[None, :]
    number = history.number.astype(dtype)

    def total(terms: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(held, terms, 0), axis=1, keepdims=True)

    largest = jnp.max(jnp.abs(values), axis=1, keepdims=True)
    # 1 / largest may be subnormal and flushed to zero, so k rescales both.
    half = 2.0 ** (np.finfo(dtype).maxexp // 2)
    k = jnp.where(largest > 1, 1 / half, half)
    relative = (values * k) / (jnp.where(largest > 0, largest, 1) * k)
    mean = total(relative) / jnp.maximum(number, 1)
    squares = total((relative - mean) ** 2) / jnp.maximum(number - 1, 1)
    deviation = jnp.maximum(jnp.sqrt(squares), _LEAST_DEVIATION)
    limit = (mean + jnp.asarray(z_threshold).astype(dtype) * deviation) * largest
    known = (largest > 0) & (number >= jnp.asarray(min_count).astype(dtype))
    return jnp.where(known, limit, jnp.inf)[:, 0]
