"""Validation of numeric arguments and conversion to scalars."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stabjax._arguments import check, is_concrete
from stabjax._scaling import as_scalar
from stabjax._types import Number


def checked(**numbers: tuple[Number, str]) -> Callable[[DTypeLike], list[jax.Array]]:
    """Checks numbers and returns a function that converts them to scalars.

    If the requested dtype is floating-point, traced numbers out of range become NaN.

    Args:
      numbers: maps argument names to tuples of value and allowed range.
    """
    for name, (value, allowed) in numbers.items():
        check(name, value, allowed)
        if np.size(value) != 1:
            raise ValueError(f"{name} must be a scalar, got shape {np.shape(value)}.")

    def scalars(dtype: DTypeLike) -> list[jax.Array]:
        found = []
        for name, (value, allowed) in numbers.items():
            scalar = as_scalar(name, value, dtype)
            if jnp.issubdtype(dtype, np.floating) and not is_concrete(value):
                scalar = jnp.where(check(name, scalar, allowed), scalar, jnp.nan)
            found.append(scalar)
        return found

    return scalars


def as_finite(scalars: list[jax.Array]) -> list[jax.Array]:
    """Replaces inf with the largest finite number, because inf times zero is NaN."""
    return [jnp.minimum(x, np.finfo(x.dtype).max) for x in scalars]
