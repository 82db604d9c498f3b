"""The arithmetic of clipping: a factor that cannot overflow, applied in float32."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

from stabjax._norms import ScaledNorm, is_float0, norm_dtype, widened


class ClipFactor(NamedTuple):
    """The factor `min(1, max_norm / norm)`, as two factors applied one by one."""

    first: jax.Array
    second: jax.Array  # 1, unless the product of the two alone would underflow
    exceeded: jax.Array  # whether the norm is finite and above max_norm


# Under `jit`: in eager mode each of about thirty operations would be dispatched.
@partial(jax.jit, inline=True)
def clip_factor(norm: ScaledNorm, max_norm: jax.Array) -> ClipFactor:
    """Returns what to multiply elements by so that their norm is at most `max_norm`.

    Exactly 1 up to `max_norm`, and exactly 0 for a `max_norm` of 0. A non-finite norm
    and a negative or NaN `max_norm` give NaN. Every decision is made among scalars: a
    product with one scalar fuses into the loops that follow, which a selection among
    elements does not.
    """
    valid = jnp.isfinite(norm.value) & (max_norm >= 0)
    # XLA may round a max_norm that it computes twice in two ways: never below 0.
    max_norm = jnp.abs(max_norm)
    k = 1 / norm.unit
    limit = max_norm * k
    exceeded = valid & (norm.value > limit)
    # Where max_norm / norm is too small for the dtype: 1 / norm and then max_norm, each
    # moved away from the ends of its range (a norm may exceed the largest number).
    tiny, apart = np.finfo(norm.value.dtype).tiny, 2.0**24
    whole = (limit * (1 / tiny) >= norm.value) | (max_norm == 0)
    numerator = jnp.where(exceeded, jnp.where(whole, limit, -apart * k), 1)
    # One division, last of all: under `vmap` XLA stores its result, and what follows
    # does not compute the norm again. A negative one shows that max_norm is to come.
    first = jnp.where(valid, numerator, jnp.nan) / jnp.where(exceeded, norm.value, 1)
    second = jnp.where(first < 0, -max_norm / apart, 1)
    return ClipFactor(first, second, exceeded)


@partial(jax.jit, inline=True)
def apply_factor(x: ArrayLike, factor: ClipFactor) -> jax.Array:
    """Returns an array times both factors, in their dtype, cast back to its own."""
    if is_float0(x):
        return x
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        real, imag = apply_factor(x.real, factor), apply_factor(x.imag, factor)
        return lax.complex(real, imag)
    wide = x.astype(factor.first.dtype) * factor.first * factor.second
    return cast_back(wide, x.dtype)


def apply_factors(arrays: Sequence[jax.Array], factors: ClipFactor) -> list[jax.Array]:
    """Returns each array times its own factors, which lie along axis 0."""
    return [
        apply_factor(x, ClipFactor(*(part[i] for part in factors)))
        for i, x in enumerate(arrays)
    ]


def multiply(x: ArrayLike, scalar: ArrayLike) -> jax.Array:
    """Returns an array times a scalar, taken in float32 or wider and cast back."""
    if is_float0(x):
        return x
    wide = widened(x, norm_dtype([x, scalar]))
    product = wide * jnp.asarray(scalar).astype(wide.dtype)
    return cast_back(product, jnp.result_type(x))


def cast_back(wide: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Returns an array in the dtype it came in; what was an integer stays wide."""
    return wide.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else wide


def safe_ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns a / b of positive numbers; its derivative, with 1 / b^2, is in range."""
    exponent = np.finfo(b.dtype).maxexp
    far, up = 2.0 ** (exponent // 4), 2.0 ** (5 * exponent // 8)
    k = jnp.where(b > far, 1 / up, jnp.where(b < 1 / far, up, jnp.ones_like(b)))
    return (a * k) / (b * k)


def as_scalar(name: str, value: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """Returns a number or an array of one element as a scalar of a dtype."""
    # A Python integer may be beyond int32.
    array = jnp.asarray(float(value) if isinstance(value, int) else value)
    if array.size != 1:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}.")
    return array.reshape(()).astype(dtype)
