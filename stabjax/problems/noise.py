"""Noise of the gradient that leaves the value of the loss as it is.

So what a training reached can be read off without a bias. To differentiate that through
the training, take the loss of the problem without noise.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stabjax._train.problem import Loss
from stabjax.problems.arguments import Number, number

Draw = Callable[[jax.Array, jax.Array], jax.Array]


def like(w: jax.Array, value: ArrayLike) -> jax.Array:
    """The value in the dtype of the weights, which the caller may have changed."""
    return jax.lax.convert_element_type(value, w.dtype)


def normal(key: jax.Array, w: jax.Array) -> jax.Array:
    """A standard normal draw for each weight."""
    return jax.random.normal(key, w.shape, w.dtype)


def student_t(degrees: Number) -> Draw:
    """Draws from Student's t, for each weight, of any number of degrees of freedom.

    By Bailey's polar method (1994): exact, and without the rejection loop of a gamma
    variate, which would last as long as the unluckiest of all trials. A float32 uniform
    has 23 bits, so a draw is below sqrt(degrees) 2**(23 / degrees).
    """

    def draw(key: jax.Array, w: jax.Array) -> jax.Array:
        # In float32 even for short weights: the tail is what counts here.
        uniform = jax.random.uniform(key, (2, *w.shape), jnp.float32)
        nu = like(uniform, degrees)
        radius = jnp.sqrt(nu * jnp.expm1(-2 / nu * jnp.log1p(-uniform[0])))
        return like(w, radius * jnp.cos(2 * jnp.pi * uniform[1]))

    return draw


def with_gradient_noise(
    loss: Callable[[jax.Array], jax.Array], noise: ArrayLike, draw: Draw = normal
) -> Loss:
    """The loss, with ``noise`` times a draw of this kind added to its gradient."""
    noise = number("noise", noise, at_least=0)
    if isinstance(noise, float) and noise == 0:
        return lambda params, key: loss(params)

    def noisy(params: jax.Array, key: jax.Array) -> jax.Array:
        # The difference is zero, and its derivative is the identity.
        difference = params - jax.lax.stop_gradient(params)
        drawn = jnp.sum(draw(key, params) * difference)
        return loss(params) + like(params, noise) * drawn

    return noisy
