"""What problems given by a formula share: noise of the gradient and metadata."""

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
    """Returns the value in the dtype of the weights, which the caller may change."""
    return jax.lax.convert_element_type(value, w.dtype)


def normal(key: jax.Array, w: jax.Array) -> jax.Array:
    """Draws a standard normal number for each weight."""
    return jax.random.normal(key, w.shape, w.dtype)


def student_t(degrees: Scalar) -> Draw:
    """Returns a function that draws from Student's t for each weight.

    Bailey's polar method (1994) is exact, and has no rejection loop: under `vmap` the
    loop of a gamma variate would run as long as that of the slowest trial. A float32
    uniform has 23 bits, so a draw is below `sqrt(degrees) 2^(23 / degrees)`.
    """

    def draw(key: jax.Array, w: jax.Array) -> jax.Array:
        # float32 even for bfloat16 weights, whose 8 bits would cut off the tail.
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
    """Returns the problem of a loss, with `noise` times a draw added to its gradient.

    The value of the loss has no noise, so the loss that a run reaches is unbiased. To
    differentiate that loss through a run, use the problem without noise. The
    optimum is 0 unless the metadata have another.
    """
    noise = as_scalar("noise", noise, ">= 0")
    metadata = {"optimizer": optax.sgd, "optimum": 0.0, **metadata}
    if isinstance(noise, float) and noise == 0:
        return Problem(init, lambda w, key: loss(w), metadata=metadata)

    def noisy(w: jax.Array, key: jax.Array) -> jax.Array:
        # The difference is zero, and its derivative is the identity.
        difference = w - jax.lax.stop_gradient(w)
        return loss(w) + like(w, noise) * jnp.sum(draw(key, w) * difference)

    return Problem(init, noisy, metadata=metadata)


def sweep_ranges(stable_rate: Scalar, norm: Scalar) -> dict[str, object]:
    """Returns the metadata that follow from a stable rate and a gradient norm."""
    return {
        "stable_rate": stable_rate,
        "peak_value": (0.01 * stable_rate, 100 * stable_rate),
        "max_norm": (0.001 * norm, 10 * norm),
    }


def larger(a: Scalar, b: Scalar) -> Scalar:
    """Returns the larger of two numbers, a Python float if both are concrete."""
    return jnp.maximum(a, b) if isinstance(a > b, jax.Array) else max(a, b)


def smaller(a: Scalar, b: Scalar) -> Scalar:
    """Returns the smaller of two numbers, a Python float if both are concrete."""
    return jnp.minimum(a, b) if isinstance(a < b, jax.Array) else min(a, b)
