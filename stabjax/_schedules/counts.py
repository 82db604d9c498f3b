"""Exact arithmetic with update counts of any integer type.

Inside schedules, counts are Python numbers, int32 arrays or float arrays.
Whole-numbered steps are subtracted from integer counts in integer arithmetic because
float32 cannot represent all counts above 2**24.
"""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from stabjax._arguments import as_number
from stabjax._types import Number, Schedule

P = ParamSpec("P")
T = TypeVar("T")

_LARGEST = 2.0**31 - 128  # the largest float32 that int32 holds


def standard_promotion(function: Callable[P, T]) -> Callable[P, T]:
    """Allows a function to mix int32 counts, float32 arrays and Python numbers.

    Schedules mix dtypes by design, and must work even if the user enables strict
    promotion. Standard promotion yields the same values as Optax.
    """

    @functools.wraps(function)
    def promoting(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return promoting


def builder(build: Callable[P, Schedule]) -> Callable[P, Schedule]:
    """Decorator for functions that return a schedule.

    Converts arguments annotated as `Number` to Python numbers or float or int32 arrays,
    and raises a TypeError if they are not numbers. The schedule accepts counts of any
    integer or float type.
    """
    signature = inspect.signature(build)
    required = {n for n, p in signature.parameters.items() if p.annotation == Number}
    optional = {
        n for n, p in signature.parameters.items() if p.annotation == Number | None
    }
    promoting = standard_promotion(build)

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> Schedule:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in required or (name in optional and value is not None):
                bound.arguments[name] = as_number(name, value)
        return at_any_count(promoting(*bound.args, **bound.kwargs))

    return checked


def at_any_count(schedule: Schedule) -> Schedule:
    """Makes a schedule accept counts of any integer or float type."""

    @standard_promotion
    def value_at(count: Number) -> Number:
        if isinstance(count, jax.core.Tracer) and _is_uint32(count):
            # int32 cannot hold counts above 2**31; float32 is accurate to 1e-7 there.
            lower = schedule(count.astype(jnp.int32))
            upper = schedule(count.astype(jnp.float32))
            return jnp.where(count <= np.iinfo(np.int32).max, lower, upper)
        if isinstance(count, np.ndarray) and _beyond_int32(count):
            values = [jnp.asarray(schedule(as_number("count", c))) for c in count.flat]
            return jnp.stack(values).reshape(count.shape)
        return schedule(as_number("count", count))

    return value_at


def since(count: Number, start: Number) -> Number:
    """Computes `count - start` exactly if both are whole numbers.

    A float `start` is split into a whole part, which is subtracted in integer
    arithmetic, and a remainder, which keeps the derivative.
    """
    if not _is_integer_array(count):
        return count - start
    if isinstance(start, int | float):
        return count - as_whole(start)
    start = jnp.asarray(start)
    if jnp.issubdtype(start.dtype, jnp.integer):
        return count - start
    # The part of the whole number beyond int32 remains in the remainder.
    floor = lax.stop_gradient(jnp.clip(jnp.floor(start), -(2.0**30), _LARGEST))
    return (count - floor.astype(jnp.int32)) - (start - floor)


def later(count: Number, steps: Number) -> Number:
    """Computes `count + steps`, or returns `count` if the sum overflows."""
    if isinstance(count, int | float) and isinstance(steps, int | float):
        return as_number("count", count + steps)
    count = jnp.asarray(count)
    total = since(count, -steps)
    if not _is_integer_array(count):
        return total
    return jnp.where((steps > 0) & (total < count), count, total)


def divmod_count(count: Number, period: Number) -> tuple[Number, Number]:
    """Computes `divmod(count, period)`, exactly if both are whole numbers."""
    if isinstance(count, int | float) and isinstance(period, int | float):
        quotient, remainder = divmod(count, period)
        return as_number("count", quotient), as_number("count", remainder)
    period = as_whole(period)
    if not _is_integer_array(count):
        return _divmod(count, period)
    period = jnp.asarray(period)
    if jnp.issubdtype(period.dtype, jnp.integer):
        return jnp.floor_divide(count, period), jnp.mod(count, period)
    # Divides whole floats as integers, with the derivative of the float division.
    whole = jnp.clip(jnp.floor(lax.stop_gradient(period)), 1, _LARGEST)
    as_integer = whole.astype(jnp.int32)
    cycle, position = _divmod(count, period)
    cycle = jnp.where(whole == period, jnp.floor_divide(count, as_integer), cycle)
    position = jnp.where(whole == period, jnp.mod(count, as_integer), position)
    fixed = lax.stop_gradient(position)
    return cycle, fixed - cycle * (period - lax.stop_gradient(period))


def as_whole(number: Number) -> Number:
    """Converts a whole Python number to an integer if it fits in int32."""
    if not isinstance(number, int | float):
        return number
    whole = abs(number) < 2**31 and float(number).is_integer()
    return int(number) if whole else float(number)


def _divmod(count: Number, period: Number) -> tuple[Number, Number]:
    cycle = jnp.floor(count / period)
    # Rounding may put the position outside its cycle.
    return cycle, jnp.clip(count - cycle * period, 0, period)


def _is_integer_array(count: Number) -> bool:
    return hasattr(count, "dtype") and jnp.issubdtype(count.dtype, jnp.integer)


def _is_uint32(count: jax.Array) -> bool:
    return count.dtype == jnp.uint32 and not jax.config.read("jax_enable_x64")


def _beyond_int32(counts: np.ndarray) -> bool:
    if counts.ndim == 0 or not np.issubdtype(counts.dtype, np.integer):
        return False
    return bool(np.any(counts > np.iinfo(np.int32).max))
