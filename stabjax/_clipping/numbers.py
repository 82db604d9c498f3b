"""The numbers of a method: checked when it is made, scalars when it runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stabjax._arguments import check, nan_unless
from stabjax._scaling import as_scalar
from stabjax._types import Number


def checked(
    **numbers: tuple[Number, str],
) -> Callable[[DTypeLike], list[jax.Array]]:
    """Checks numbers, and returns a function that makes scalars of a dtype of them.

    A traced number out of its range becomes NaN, which the method then shows.

    Args:
      numbers: by the argument's name, its value and the range that is allowed.
    """
    for name, (value, allowed) in numbers.items():
        check(name, value, allowed)

    def scalars(dtype: DTypeLike) -> list[jax.Array]:
        return [
            jnp.asarray(
                nan_unless(check(name, value, allowed), as_scalar(name, value, dtype))
            )
            for name, (value, allowed) in numbers.items()
        ]

    return scalars


def as_finite(scalars: list[jax.Array]) -> list[jax.Array]:
    """Scalars with the largest number instead of inf, which times zero is NaN."""
    return [jnp.minimum(x, np.finfo(x.dtype).max) for x in scalars]
