"""Norms as products of a number that is about 1 and a power of two."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike


class ScaledNorm(NamedTuple):
    """A norm `value * unit` whose parts stay finite even if their product overflows.

    The value is about 1, or further away for norms close to the limits of the dtype.
    """

    value: jax.Array
    unit: jax.Array  # a power of two with no derivative

    @property
    def product(self) -> jax.Array:
        """The norm as one number, or inf if it exceeds the dtype's range."""
        return self.value * self.unit


def as_scaled(value: jax.Array, unit: ArrayLike = 1) -> ScaledNorm:
    """Moves a power of two from the value of a norm to its unit."""
    up = 2.0 ** (5 * np.finfo(value.dtype).maxexp // 8)
    unit = jnp.asarray(unit, value.dtype)
    k = inverse_power(bits_of(value), value.dtype)
    k = jnp.clip(k, jnp.minimum(unit / up, 1), unit * up)
    return ScaledNorm(value * k, unit / k)


def bits_of(x: jax.Array) -> jax.Array:
    """Returns the bits of |x| as integers, which have the same order."""
    kind = np.dtype(f"int{8 * x.dtype.itemsize}")
    bits: jax.Array = lax.bitcast_convert_type(jnp.abs(lax.stop_gradient(x)), kind)
    return bits


def inverse_power(bits: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Returns the power of two k with 1 <= k x < 2 for the number x with these bits.

    Close to the limits of the dtype, k x is smaller or larger, so that derivatives
    times k or 1 / k stay in the range of the dtype.
    """
    limits = np.finfo(dtype)
    one, bias, far = 1 << limits.nmant, limits.maxexp - 1, 5 * limits.maxexp // 8
    exponent = jnp.clip(bits, (bias - far) * one, (bias + far) * one) & -one
    power: jax.Array = lax.bitcast_convert_type(2 * bias * one - exponent, dtype)
    return power


@jax.custom_jvp
def safe_root(x: jax.Array) -> jax.Array:
    """Computes the square root, with derivative 0 at 0."""
    return jnp.sqrt(x)


@safe_root.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> Any:
    (x,), (tangent,) = primals, tangents
    root = safe_root(x)
    return root, jnp.where(x > 0, 0.5 * tangent / jnp.where(x > 0, root, 1), 0)
