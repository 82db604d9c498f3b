"""Arguments of schedules: Python numbers, NumPy or JAX arrays, or tracers."""

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
    names = tuple(inspect.signature(build).parameters)
    promoting = standard_promotion(build)

    @functools.wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> optax.Schedule:
        for name, value in (*zip(names, args, strict=False), *kwargs.items()):
            if isinstance(value, str) and name != "interpolate_type":
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
