"""Overflow-safe scale factors, applied in float32 or wider."""

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
    """The factor `min(1, max_norm / norm)`, split into two multipliers."""

    first: jax.Array
    second: jax.Array  # 1, unless a single factor would underflow
    exceeded: jax.Array  # whether the norm is finite and above max_norm


# Without `jit`, eager mode would dispatch about thirty operations one by one.
@partial(jax.jit, inline=True)
def clip_factor(norm: ScaledNorm, max_norm: jax.Array) -> ClipFactor:
    """Computes the factor that limits a norm to `max_norm`.

    The factor is exactly 1 for norms up to `max_norm` and exactly 0 if `max_norm` is 0.
    It is NaN for a non-finite norm and for a negative or NaN `max_norm`. All selections
    are between scalars because XLA fuses a multiplication by a scalar into later loops,
    but not an elementwise selection.
    """
    # NaN passes through all selections below.
    value = jnp.where(norm.value < jnp.inf, norm.value, jnp.nan)
    max_norm = jnp.where(max_norm >= 0, max_norm, jnp.nan)
    k = 1 / norm.unit
    limit = max_norm * k
    within = value <= limit
    # If max_norm / norm might underflow, applies 1 / norm and max_norm separately. Both
    # are scaled away from the limits of the dtype (the norm may exceed its largest
    # value), and less so if max_norm itself is close to the smallest.
    limits = np.finfo(value.dtype)
    whole = limit >= 2.0 ** (8 - 5 * limits.maxexp // 8)
    apart = jnp.where(max_norm < limits.tiny * 2.0**25, 2.0**-4, 2.0**-24)
    apart = apart.astype(value.dtype)
    inverse = jnp.where(max_norm == 0, 0, -1 / apart)
    numerator = jnp.where(whole, limit, inverse * k)
    # One division, at the end: under `vmap`, XLA stores its result, and later loops
    # need not compute the norm again. Its sign says whether the second factor applies.
    first = jnp.where(within, 1, numerator) / jnp.where(within, 1, value)
    second = jnp.where(first < 0, -max_norm * apart, 1)
    exceeded = value > limit
    return ClipFactor(first, second, exceeded)


@partial(jax.jit, inline=True)
def apply_factor(x: ArrayLike, factor: ClipFactor) -> jax.Array:
    """Multiplies an array by both factors in their dtype and casts it back."""
    if is_float0(x):
        return x
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        real, imag = apply_factor(x.real, factor), apply_factor(x.imag, factor)
        return lax.complex(real, imag)
    wide = x.astype(factor.first.dtype) * factor.first * factor.second
    return cast_back(wide, x.dtype)


def apply_factors(arrays: Sequence[jax.Array], factors: ClipFactor) -> list[jax.Array]:
    """Multiplies each array by its own factors, which are stacked along axis 0."""
    return [
        apply_factor(x, ClipFactor(*(part[i] for part in factors)))
        for i, x in enumerate(arrays)
    ]


def multiply(x: ArrayLike, scalar: ArrayLike) -> jax.Array:
    """Multiplies an array by a scalar in float32 or wider and casts it back."""
    if is_float0(x):
        return x
    wide = widened(x, norm_dtype([x, scalar]))
    product = wide * jnp.asarray(scalar).astype(wide.dtype)
    return cast_back(product, jnp.result_type(x))


def cast_back(wide: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Casts to the given dtype if it is inexact. Other results stay wide."""
    return wide.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else wide


def safe_ratio(a: jax.Array, b: jax.Array) -> jax.Array:
    """Computes a / b for positive numbers without overflow in the derivative."""
    exponent = np.finfo(b.dtype).maxexp
    far, up = 2.0 ** (exponent // 4), 2.0 ** (5 * exponent // 8)
    k = jnp.where(b > far, 1 / up, jnp.where(b < 1 / far, up, jnp.ones_like(b)))
    return (a * k) / (b * k)


def as_scalar(name: str, value: ArrayLike, dtype: DTypeLike) -> jax.Array:
    """Converts a number or one-element array to a scalar of the given dtype."""
    # Python integers may exceed the int32 range.
    array = jnp.asarray(float(value) if isinstance(value, int) else value)
    if array.size != 1:
        raise ValueError(f"{name} must be a scalar, got shape {array.shape}.")
    return array.reshape(()).astype(dtype)
