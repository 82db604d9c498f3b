"""Gradient noise and metadata, shared by all analytic problems."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import as_scalar
from stabjax._train.problem import Init, Problem
from stabjax._types import Number

Scalar = float | jax.Array  # what `as_scalar` returns
Draw = Callable[[jax.Array, jax.Array], jax.Array]


def like(w: jax.Array, value: Number) -> jax.Array:
    """Casts a value to the dtype of the weights, which can differ from float32."""
    return jax.lax.convert_element_type(value, w.dtype)


def normal(key: jax.Array, w: jax.Array) -> jax.Array:
    """Draws a standard normal sample for each weight."""
    return jax.random.normal(key, w.shape, w.dtype)


def student_t(degrees: Scalar) -> Draw:
    """Returns a function that draws a sample of Student's t for each weight.

    Bailey's polar method (1994) is exact and has no rejection loop. `jax.random.t`
    rejects gamma samples in a loop, which under `vmap` runs until the slowest trial
    has finished. A uniform float32 sample has 23 random bits, which bounds the result
    by `sqrt(degrees) 2^(23 / degrees)`.
    """

    def draw(key: jax.Array, w: jax.Array) -> jax.Array:
        # Drawn in float32 because the 8 bits of bfloat16 would truncate the tail.
        uniform = jax.random.uniform(key, (2, *w.shape), jnp.float32)
        nu = like(uniform, degrees)
        radius = jnp.sqrt(nu * jnp.expm1(-2 / nu * jnp.log1p(-uniform[0])))
        return like(w, radius * jnp.cos(2 * jnp.pi * uniform[1]))

    return draw


def formula_problem(
    init: Init,
    loss: Callable[[jax.Array], jax.Array],
    noise: Number,
    metadata: Mapping[str, object],
    draw: Draw = normal,
) -> Problem:
    """Returns a problem with a given loss and additive gradient noise.

    The noise does not affect the value of the loss, so the reported losses are
    unbiased. To differentiate the final loss of a run, use a problem without noise. The
    optimum defaults to 0 if it is not in the metadata.
    """
    noise = as_scalar("noise", noise, ">= 0")
    metadata = {"optimizer": optax.sgd, "optimum": 0.0, **metadata}
    if isinstance(noise, float) and noise == 0:
        return Problem(init, lambda w, key: loss(w), metadata=metadata)

    def noisy(w: jax.Array, key: jax.Array) -> jax.Array:
        # The difference is zero, but its gradient with respect to w is one. The noise
        # therefore changes only the gradient.
        difference = w - jax.lax.stop_gradient(w)
        return loss(w) + like(w, noise) * jnp.sum(draw(key, w) * difference)

    return Problem(init, noisy, metadata=metadata)


def sweep_ranges(stable_rate: Scalar, norm: Scalar) -> dict[str, object]:
    """Returns the sweep ranges for a stable rate and an initial gradient norm."""
    return {
        "stable_rate": stable_rate,
        "peak_value": (0.01 * stable_rate, 100 * stable_rate),
        "max_norm": (0.001 * norm, 10 * norm),
    }


def larger(a: Scalar, b: Scalar) -> Scalar:
    """Returns the maximum of two numbers, as a Python float if both are concrete."""
    return jnp.maximum(a, b) if isinstance(a > b, jax.Array) else max(a, b)


def smaller(a: Scalar, b: Scalar) -> Scalar:
    """Returns the minimum of two numbers, as a Python float if both are concrete."""
    return jnp.minimum(a, b) if isinstance(a < b, jax.Array) else min(a, b)
