"""The divergence criterion."""

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._types import Number

DIVERGENCE_FACTOR = 1e3


def bound_of(first_loss: jax.Array, factor: Number) -> jax.Array:
    """Returns the upper bound for a stable loss.

    It is the largest finite number if the initial loss is not positive.
    """
    largest = np.finfo(first_loss.dtype).max
    bound = jnp.asarray(factor, first_loss.dtype) * first_loss
    return jnp.where(first_loss > 0, jnp.minimum(bound, largest), largest)


def is_stable(loss: jax.Array, bound: jax.Array) -> jax.Array:
    """Returns whether a loss is finite and within the bound, which is finite, too."""
    lowest = np.finfo(loss.dtype).min
    stable: jax.Array = (loss >= lowest) & (loss <= bound)
    return stable
