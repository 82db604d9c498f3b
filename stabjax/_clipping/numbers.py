"""The numbers of a method: checked when it is made, scalars when it runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stabjax._arguments import check, is_concrete
from stabjax._scaling import as_scalar
from stabjax._types import Number


def checked(**numbers: tuple[Number, str]) -> Callable[[DTypeLike], list[jax.Array]]:
    """Checks numbers, and returns a function that makes scalars of a dtype of them.

    A traced number out of its range becomes NaN, so that it shows, except in a dtype of
    integers.

    Args:
      numbers: by the argument's name, its value and the range that is allowed.
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
    """Scalars with the largest number instead of inf, which times zero is NaN."""
    return [jnp.minimum(x, np.finfo(x.dtype).max) for x in scalars]
