"""Arguments of schedules: Python numbers, NumPy or JAX arrays, or tracers."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

if TYPE_CHECKING:
    # mypy allows neither arithmetic nor comparison on the union that ArrayLike is.
    ArrayLike = Any
else:
    from jax.typing import ArrayLike

P = ParamSpec("P")
T = TypeVar("T")


def standard_promotion(function: Callable[P, T]) -> Callable[P, T]:
    """Let a function mix dtypes: int32 counts, float32 arrays and Python numbers.

    To meet each other is what they are for in a schedule, also where the user keeps
    JAX's promotion strict; and Optax's values are those of standard promotion.
    """

    @functools.wraps(function)
    def promoting(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return promoting


def builder(build: Callable[P, optax.Schedule]) -> Callable[P, optax.Schedule]:
    """Let a builder, and the schedule it returns, mix dtypes; refuse text."""
    parameters = inspect.signature(build).parameters
    texts = {name for name, p in parameters.items() if p.annotation is str}
    promoting = standard_promotion(build)

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> optax.Schedule:
        for name, value in (*zip(parameters, args, strict=False), *kwargs.items()):
            if isinstance(value, str) and name not in texts:
                raise TypeError(f"{name} must be a number, got {value!r}.")
        return standard_promotion(promoting(*args, **kwargs))

    return checked


def select(condition: ArrayLike, x: Any, y: Any) -> Any:
    """`x if condition else y`, also for arrays and tracers.

    A condition known to Python picks the object itself, so that Python numbers keep
    their float64 arithmetic, and a schedule of them the very operations of Optax's.
    """
    if isinstance(condition, bool | np.bool_):
        return x if condition else y
    return jnp.where(condition, x, y)


def known(*values: ArrayLike) -> bool:
    """Whether the values can be looked at now: none is a tracer."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def check(
    name: str, value: ArrayLike, allowed: Callable[[Any], Any], what: str
) -> ArrayLike:
    """Whether `value` is allowed; a concrete one that is not raises at once."""
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
    """Whether all values, given by name, are positive; a concrete one must be."""
    good: ArrayLike = True
    for name, value in values.items():
        good &= check(name, value, lambda x: x > 0, "positive")
    return good


def nan_unless(good: ArrayLike, value: ArrayLike) -> ArrayLike:
    """The value, or NaN where a traced argument turned out not to be allowed."""
    return select(good, value, jnp.nan)


def since(count: ArrayLike, start: ArrayLike) -> ArrayLike:
    """`count - start`; what is whole is subtracted in integers.

    Above 2**24 float32 no longer tells one count from the next, and a short phase that
    begins there would stumble. A float `start` is split into a whole part, which is
    subtracted from an integer count exactly, and the rest, which keeps the derivative.
    """
    if not _is_integer_array(count):
        return count - start
    start = as_count(start)
    if isinstance(start, int | float):
        return count - start
    start = jnp.asarray(start)
    if jnp.issubdtype(start.dtype, jnp.integer):
        return count - start
    # What int32 cannot hold stays in the rest.
    whole = lax.stop_gradient(jnp.clip(jnp.floor(start), -(2.0**30), _LARGEST))
    return (count - whole.astype(jnp.int32)) - (start - whole)


def later(count: ArrayLike, steps: ArrayLike) -> ArrayLike:
    """`count + steps`, as exact; a count that has stopped growing stays where it is."""
    total = since(count, -steps)
    if not _is_integer_array(count):
        return total
    return jnp.where((steps > 0) & (total < count), count, total)


def divmod_count(count: ArrayLike, period: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    """`divmod(count, period)`; in integers if both are whole, like :func:`since`."""
    period = as_count(period)
    if isinstance(count, int) and isinstance(period, int):
        return divmod(count, period)
    if not _is_integer_array(count):
        return _divmod(count, period)
    period = jnp.asarray(period)
    if jnp.issubdtype(period.dtype, jnp.integer):
        return jnp.floor_divide(count, period), jnp.mod(count, period)
    # A whole float divides as an integer, and its derivative is that of the division.
    whole = jnp.clip(jnp.floor(lax.stop_gradient(period)), 1, _LARGEST)
    as_integer = whole.astype(jnp.int32)
    cycle, position = _divmod(count, period)
    cycle = jnp.where(whole == period, jnp.floor_divide(count, as_integer), cycle)
    position = jnp.where(whole == period, jnp.mod(count, as_integer), position)
    fixed = lax.stop_gradient(position)
    return cycle, fixed - cycle * (period - lax.stop_gradient(period))


def _divmod(count: ArrayLike, period: ArrayLike) -> tuple[ArrayLike, ArrayLike]:
    cycle = jnp.floor(count / period)
    # Rounded, the position may fall out of its cycle.
    return cycle, jnp.clip(count - cycle * period, 0, period)


# The greatest float32 that is an int32.
_LARGEST = 2.0**31 - 128


def as_count(number: ArrayLike) -> ArrayLike:
    """A Python number as an integer, if it is one that int32 holds."""
    if not isinstance(number, int | float):
        return number
    whole = abs(number) < 2**31 and float(number).is_integer()
    return int(number) if whole else float(number)


def _is_integer_array(count: ArrayLike) -> bool:
    return hasattr(count, "dtype") and jnp.issubdtype(count.dtype, jnp.integer)
