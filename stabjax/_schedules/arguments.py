"""Former names, until compat and guards use the new ones."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from stabjax._arguments import nan_unless, select  # noqa: F401
from stabjax._schedules.counts import (  # noqa: F401
    as_whole as as_count,
)
from stabjax._schedules.counts import (  # noqa: F401
    builder,
    divmod_count,
    later,
    since,
    standard_promotion,
)

ArrayLike = Any


def known(*values: ArrayLike) -> bool:
    """Whether none is a tracer."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def check(
    name: str, value: ArrayLike, allowed: Callable[[Any], Any], what: str
) -> ArrayLike:
    """Whether `value` is allowed."""
    if not known(value):
        return allowed(value)
    try:
        good = np.all(allowed(np.asarray(value)))
    except TypeError:
        raise TypeError(f"{name} must be a number, got {value!r}.") from None
    if not good:
        raise ValueError(f"{name} must be {what}, got {value}.")
    return True


def check_positive(**values: ArrayLike) -> ArrayLike:
    """Whether all values are positive."""
    good: ArrayLike = True
    for name, value in values.items():
        good &= check(name, value, lambda x: x > 0, "positive")
    return good
