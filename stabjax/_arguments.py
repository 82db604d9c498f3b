"""Argument validation.

Concrete values out of range raise an error. Traced values cannot, so the check returns
a traced boolean, which `nan_unless` uses to turn invalid values into NaN.
"""

import difflib
import functools
import math
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._types import Condition, Number, Schedule

if TYPE_CHECKING:
    from typing_extensions import TypeIs

T = TypeVar("T")
_INT32 = np.iinfo(np.int32)


class _Range(NamedTuple):
    low: float
    high: float
    low_allowed: bool
    high_allowed: bool

    def contains(self, value: Any) -> Any:
        """Returns whether each element is in the range. NaN is never in range."""
        above = value >= self.low if self.low_allowed else value > self.low
        below = value <= self.high if self.high_allowed else value < self.high
        return above & below


def check(name: str, value: Number, allowed: str) -> bool | jax.Array:
    """Returns whether a number is in range, or raises if a concrete number is not.

    Args:
      name: argument name used in the error message.
      value: a concrete or traced number or array.
      allowed: the range, spelled as in documentation and error messages: `"> 0"`,
        `">= 0"`, `"< 0"`, `"<= 1"` or `"in [0, 1)"`.
    """
    bounds = _range(allowed)
    if not is_concrete(value):
        good: jax.Array = bounds.contains(value)
        return good
    if not np.all(bounds.contains(np.asarray(as_number(name, value), float))):
        raise ValueError(f"{name} must be {allowed}, got {_shown(value)}.")
    return True


def as_number(name: str, value: object) -> jax.Array | float:
    """Converts a value to a Python number or to a float or int32 array.

    Python and NumPy scalars become Python numbers, which keeps their arithmetic in
    float64. Integers that do not fit in int32 become floats. Unsigned and short
    integers become int32 because expressions such as `count - start` may be negative.
    Half precision becomes float32.

    Raises:
      TypeError: If the value is a bool, a string, None, complex, or not a number.
    """
    if callable(getattr(value, "__jax_array__", None)):  # a Flax NNX variable
        value = value.__jax_array__()  # type: ignore[attr-defined]
    if isinstance(value, jax.Array):
        return _as_wide_array(name, value)
    array = _as_numpy(name, value)
    if array.ndim == 0:
        whole = np.issubdtype(array.dtype, np.integer)
        return _as_python_int(int(array)) if whole else float(array)
    if np.issubdtype(array.dtype, np.integer):
        fits = array.size == 0 or (
            array.min() >= _INT32.min and array.max() <= _INT32.max
        )
        return jnp.asarray(array.astype(np.int32 if fits else np.float64))
    return _as_wide_array(name, jnp.asarray(array))


def as_integer(name: str, value: object, allowed: str = ">= 1") -> int:
    """Returns a static integer as a Python int.

    Raises:
      TypeError: If the value is not an integer that is known during tracing.
      ValueError: If the value is out of range.
    """
    try:
        if isinstance(value, bool | np.bool_ | jax.core.Tracer):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]  # raises TypeError
    except TypeError:
        traced = isinstance(value, jax.core.Tracer)
        hint = " In a sweep, pass its values as stabjax.static(...)." if traced else ""
        raise TypeError(
            f"{name} must be an integer {allowed}, known at trace time, got {value!r}."
            f"{hint}"
        ) from None
    if not _range(allowed).contains(number):
        raise ValueError(f"{name} must be an integer {allowed}, got {value!r}.")
    return number


def as_scalar(
    name: str, value: object, allowed: str = "in (-inf, inf)"
) -> float | jax.Array:
    """Converts a value to one finite number.

    Returns a Python float, or a traced float that is NaN if out of range.

    Raises:
      TypeError: If the value is not a single number.
      ValueError: If a concrete value is out of range, infinite or NaN.
    """
    number = as_number(name, value)
    if np.ndim(number):
        raise TypeError(f"{name} must be a single number, got {value!r}.")
    if isinstance(number, jax.core.Tracer):
        traced = number.astype(jnp.result_type(float))
        return jnp.where(check(name, traced, allowed), traced, jnp.nan)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {value!r}.")
    check(name, number, allowed)
    return float(number)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raises a ValueError if the value is not one of the choices."""
    if not any(value is choice or value == choice for choice in choices):
        *first, last = map(repr, choices)
        listed = f"{', '.join(first)} or {last}" if first else last
        words = [choice for choice in choices if isinstance(choice, str)]
        hint = suggestion(value, words) if isinstance(value, str) else ""
        raise ValueError(f"{name} must be {listed}, got {value!r}.{hint}")


def unrounded(value: Number) -> Number:
    """Replaces slightly negative schedule values with 0.

    A compiled linear schedule of Optax that should end at 0 ends at -1e-8. Values
    further below zero are errors and must become NaN.
    """
    return jnp.where((value < 0) & (value > -1e-6), 0, value)


def is_schedule(value: object) -> "TypeIs[Schedule]":
    """Returns whether an argument is a schedule rather than a number.

    Every callable is a schedule unless it is a pytree with leaves. For example, an
    Equinox module of thresholds is a tree of numbers. `jax.tree_util.Partial` is always
    a function.
    """
    if not callable(value) or isinstance(value, jax.tree_util.Partial):
        return callable(value)
    return all(leaf is value for leaf in jax.tree.leaves(value))


def lookup(name: str, value: str, table: Mapping[str, T]) -> T:
    """Looks up a name in a table.

    Raises:
      ValueError: If the name is unknown. The message lists the known names and suggests
        similar ones.
    """
    if value in table:
        return table[value]
    known = ", ".join(table)
    hint = suggestion(value, table)
    raise ValueError(f"{name} must be one of {known}, got {value!r}.{hint}")


def suggestion(value: str, known: Iterable[str]) -> str:
    """Returns ` Did you mean ...?` where one to three known names are close."""
    names = [*known]
    close = [name for name in names if value and value in name]
    close = close or difflib.get_close_matches(value, names)
    return f" Did you mean {' or '.join(close)}?" if 0 < len(close) < 4 else ""


def is_concrete(*values: object) -> bool:
    """Returns whether none of the values is a tracer."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def select(condition: Condition, x: Number, y: Number) -> Number:
    """Returns `x` if the condition is true, else `y`. Supports arrays and tracers.

    A concrete condition returns one of the two objects unchanged, so Python numbers
    keep their float64 arithmetic.
    """
    if isinstance(condition, bool | np.bool_):
        return x if condition else y
    return jnp.where(condition, x, y)


def nan_unless(good: Condition, value: Number) -> Number:
    """Returns the value, or NaN if a traced argument is out of range."""
    return select(good, value, jnp.nan)


def _shown(value: object) -> str:
    return str(value) if hasattr(value, "dtype") else repr(value)


def _as_python_int(value: int) -> int | float:
    return value if _INT32.min <= value <= _INT32.max else float(value)


def _as_numpy(name: str, value: object) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.asarray(None)
    number = jnp.issubdtype(array.dtype, np.integer) or (
        jnp.issubdtype(array.dtype, np.floating)
    )
    if isinstance(value, int) and not isinstance(value, bool):
        number = True  # NumPy stores integers beyond uint64 as objects
    if not number:
        raise TypeError(f"{name} must be a number, got {value!r}.")
    return array


def _as_wide_array(name: str, array: jax.Array) -> jax.Array | float:
    dtype = array.dtype
    if jnp.issubdtype(dtype, np.floating):
        return array.astype(jnp.float32) if dtype.itemsize < 4 else array
    if not jnp.issubdtype(dtype, np.integer):
        raise TypeError(f"{name} must be a number, got an array of {dtype}.")
    if dtype.itemsize < 4:
        return array.astype(jnp.int32)
    if jnp.issubdtype(dtype, np.unsignedinteger):
        return _as_signed(array)
    return array


def _as_signed(array: jax.Array) -> jax.Array | float:
    """Converts unsigned integers to a signed type that holds their values."""
    if is_concrete(array) and array.ndim == 0:
        return _as_python_int(int(array))
    if jax.config.read("jax_enable_x64"):
        return jnp.minimum(array, np.iinfo(np.int64).max).astype(jnp.int64)
    if is_concrete(array) and not np.any(np.asarray(array) > _INT32.max):
        return array.astype(jnp.int32)
    return array.astype(jnp.float32)


@functools.cache
def _range(allowed: str) -> _Range:
    """Parses a range such as `"> 0"` or `"in [0, 1)"`."""
    if match := re.fullmatch(r"(>=?|<=?) (\S+)", allowed):
        bound, closed = float(match[2]), match[1].endswith("=")
        if match[1][0] == ">":
            return _Range(bound, math.inf, closed, True)
        return _Range(-math.inf, bound, True, closed)
    match = re.fullmatch(r"in ([\[(])(\S+), (\S+)([\])])", allowed)
    if match is None:
        raise ValueError(f"allowed must be a range such as '> 0', got {allowed!r}.")
    low, high = float(match[2]), float(match[3])
    return _Range(low, high, match[1] == "[", match[4] == "]")
