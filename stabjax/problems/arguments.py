"""Arguments of problems: numbers that may be traced, and sizes that may not."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# A Python float where the value is known, so that metadata print well; else a scalar.
Number = float | jax.Array


def number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
) -> Number:
    """The value as a float, or as a float array if it is traced; checked.

    What is out of range raises if it is known, and is NaN from here on if it is traced.
    """
    if isinstance(value, jax.core.Tracer) and value.shape == ():
        traced = value.astype(jnp.result_type(float))
        return jnp.where((traced > above) & (traced >= at_least), traced, jnp.nan)
    try:
        if isinstance(value, str) or np.shape(value) != ():
            raise TypeError
        known = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a single number, got {value!r}") from None
    if not (math.isfinite(known) and known > above and known >= at_least):
        bounds = [f"above {above:g}"] if math.isfinite(above) else []
        bounds += [f"at least {at_least:g}"] if math.isfinite(at_least) else []
        allowed = " and ".join(["finite", *bounds])
        raise ValueError(f"{name} must be {allowed}, got {known:g}")
    return known


def size(name: str, value: int, *, least: int = 1, largest: int | None = None) -> int:
    """The value as an int, checked: it fixes a shape, so it is static."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(
            f"{name} fixes the shape of an array and must be a Python int"
            f" (stabjax.static(...) in a sweep), got {value!r}"
        )
    if value < least or (largest is not None and value > largest):
        allowed = (
            f"at least {least}" if largest is None else f"from {least} to {largest}"
        )
        raise ValueError(f"{name} must be {allowed}, got {value}")
    return int(value)


def larger(a: Number, b: Number) -> Number:
    """The larger of two numbers, either of which may be traced."""
    return jnp.maximum(a, b) if _traced(a, b) else max(a, b)


def smaller(a: Number, b: Number) -> Number:
    """The smaller of two numbers, either of which may be traced."""
    return jnp.minimum(a, b) if _traced(a, b) else min(a, b)


def _traced(*numbers: Number) -> bool:
    return any(isinstance(value, jax.Array) for value in numbers)
