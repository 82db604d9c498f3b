"""The divergence criterion."""

import jax
import jax.numpy as jnp

from stabjax._types import Number

DIVERGENCE_FACTOR = 1e3


def bound_of(first_loss: jax.Array, factor: Number) -> jax.Array:
    """Returns the upper bound for a stable loss, or inf if the initial loss is <= 0."""
    factor = jnp.asarray(factor, first_loss.dtype)
    return jnp.where(first_loss > 0, factor * first_loss, jnp.inf)


def is_stable(loss: jax.Array, bound: jax.Array) -> jax.Array:
    """Returns whether a loss is finite and within the bound."""
    return jnp.isfinite(loss) & (loss <= bound)
