"""Axes of a search space, whose values are traced numbers or static Python values."""

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._sweep.free_memory import check_fits

RESULTS = (
    "final_loss",
    "best_loss",
    "mean_loss",
    "status",
    "diverged_at",
    "target_at",
    "stopped_at",
    "best_at",
    "convergence_score",
    "loss",
)
_DIMENSIONS = ("step", "evaluated_at", "trial", "rung")
_RESERVED = (*_DIMENSIONS, "rung_loss", "trained_steps", *RESULTS)
# Variables of successive halving that are also defined for dropped trials.
OF_WHAT_WAS_TRAINED = (
    "rung_loss",
    "trained_steps",
    "status",
    "diverged_at",
    "best_loss",
)
_BYTES = 72  # per number in a Python list, including its copies
_LARGEST_SEED = 2**31 - 1

_Array = np.ndarray[Any, Any]


class Static(NamedTuple):
    """Values that are passed to a factory unchanged."""

    values: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """A swept argument with an array of numbers or a tuple of static Python values."""

    name: str
    values: _Array | tuple[Any, ...]

    @property
    def is_static(self) -> bool:
        """Whether each distinct value needs a separate program."""
        return isinstance(self.values, tuple)

    @property
    def labels(self) -> _Array:
        """The values as dataset coordinates."""
        if isinstance(self.values, np.ndarray):
            return self.values
        if all(isinstance(v, bool) for v in self.values) or all(
            map(_number, self.values)
        ):
            return np.asarray(self.values)
        return np.asarray([_label(value) for value in self.values])

    @property
    def codes(self) -> _Array:
        """The index of the first equal value, for each value."""
        labels = self.labels.tolist()
        first = dict(zip(labels[::-1], range(len(labels))[::-1], strict=True))
        return np.array([first[label] for label in labels])

    @property
    def literal(self) -> str:
        """The distinct values as a Python literal, or "" if there is none."""
        distinct = [self.values[code] for code in dict.fromkeys(self.codes.tolist())]
        try:
            return repr(ast.literal_eval(repr(distinct)))
        except (ValueError, SyntaxError):  # functions and other objects
            return ""

    def take(self, rows: _Array) -> "Axis":
        """Returns an axis with the selected values, in the given order."""
        if isinstance(self.values, np.ndarray):
            return replace(self, values=_frozen(self.values[rows]))
        return replace(self, values=tuple(self.values[row] for row in rows.tolist()))


def static(values: Iterable[object]) -> Static:
    """Marks the values of an axis as static, so that they are not traced.

    By default, numbers are traced and the whole axis shares one compiled program. Use
    `static` for numbers that cannot be traced because they determine a shape, such as a
    layer width or a window length, or a Python branch. Strings, booleans, None and
    callables are always static. Each combination of static values is compiled
    separately.

    Args:
      values: the values of the axis. They can be of any type.

    Returns:
      An object to pass as an axis to `grid`, `zipped` or `sample`.

    Raises:
      TypeError: If `values` is not a sequence.

    Example:
      >>> import stabjax
      >>> stabjax.grid(window=stabjax.static([8, 16]), seed=range(3))
      Space(window: 2, seed: 3; 6 trials, 2 programs)
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"values must be a sequence such as [8, 16], got {values!r}.")
    return Static(tuple(np.asarray(values).tolist() if _array(values) else values))


def axis_like(name: str, labels: Sequence[Any], literal: str) -> Axis:
    """Restores a static axis from its labels, with placeholders for functions."""
    if literal:
        distinct = Axis(name, tuple(ast.literal_eval(literal)))
        known = dict(zip(distinct.labels.tolist(), distinct.values, strict=True))
    else:
        known = {label: SimpleNamespace(__name__=label) for label in labels}
    return Axis(name, tuple(known[label] for label in labels))


def check_name(name: str) -> None:
    """Raises an error if an axis cannot have this name."""
    if name in _RESERVED:
        raise ValueError(
            f"axis {name!r} has a reserved name. Rename it. The reserved names are "
            f"{', '.join(_RESERVED)}."
        )


def axis_of(name: str, values: Any) -> Axis:
    """Checks the values and returns an axis with them."""
    check_name(name)
    given = values.values if isinstance(values, Static) else _values(name, values)
    axis = Axis(name, given)
    if len(axis.values) == 0:
        raise ValueError(f"axis {name!r} must have at least one value, got none.")
    if axis.is_static:
        _check_labels(axis)
    if name == "seed":
        check_seeds(axis)
    return axis


def check_distinct(axis: Axis) -> None:
    """Raises an error if an axis contains duplicate seeds or static values."""
    if axis.name == "seed" and len(np.unique(axis.labels)) < len(axis.labels):
        raise ValueError("axis 'seed' must not contain duplicate seeds.")
    if axis.is_static and len(set(axis.codes)) < len(axis.values):
        twice = axis.labels[np.argmax(np.bincount(axis.codes) > 1)]
        raise ValueError(f"axis {axis.name!r} must not contain {str(twice)!r} twice.")


def _values(name: str, values: Any) -> _Array | tuple[Any, ...]:
    if _array(values):
        return _array_values(name, values)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"axis {name!r} must be a list, a tuple, a range or an array, "
            f"got {values!r}. For a single value, write {name}=[{values!r}]."
        )
    check_fits(
        f"The {len(values):,} values of axis {name!r}",
        _BYTES * len(values),
        "take fewer",
    )
    items = [v.item() if _array(v) and np.ndim(v) == 0 else v for v in values]
    if any(_array(v) or isinstance(v, (list, tuple, range)) for v in items):
        raise ValueError(
            f"axis {name!r} must be one-dimensional, got a sequence of sequences. Use "
            f"static(...) if each inner sequence is a single value."
        )
    if all(map(_number, items)):
        return _numbers(name, np.asarray(items))
    if all(isinstance(v, (str, bool)) or v is None or callable(v) for v in items):
        return tuple(items)
    kinds = sorted({type(v).__name__ for v in items})
    raise TypeError(
        f"axis {name!r} must contain only numbers, or only strings, booleans, None "
        f"and callables, got {', '.join(kinds)}. Use static(...) to pass the values "
        f"unchanged. To disable a threshold, use inf, which is a number."
    )


def _array_values(name: str, values: Any) -> _Array | tuple[Any, ...]:
    if np.ndim(values) != 1:
        raise ValueError(
            f"axis {name!r} must be one-dimensional, got an array of shape "
            f"{np.shape(values)}."
        )
    if jnp.issubdtype(values.dtype, jnp.bfloat16):
        values = values.astype(np.float32)
    array = np.asarray(values)
    if array.dtype.kind in "iuf":
        return _numbers(name, array)
    return _values(name, array.tolist())


def _numbers(name: str, values: _Array) -> _Array:
    if values.dtype == object:
        raise ValueError(f"axis {name!r} must contain integers of at most 64 bits.")
    if np.isnan(values).any():
        raise ValueError(f"axis {name!r} must not contain NaN.")
    return _frozen(values.copy())


def _frozen(values: _Array) -> _Array:
    values.flags.writeable = False
    return values


def _check_labels(axis: Axis) -> None:
    """Raises an error if two different values have the same label."""
    for value, label, code in zip(axis.values, axis.labels, axis.codes, strict=True):
        first = axis.values[code]
        if (type(value), repr(value)) != (type(first), repr(first)):
            raise ValueError(
                f"axis {axis.name!r} must not contain two values with the same label, "
                f"got {str(label)!r} twice. Define functions with def, not lambda, to "
                f"give them distinct names."
            )


def check_seeds(axis: Axis) -> None:
    """Raises an error if the values of an axis are not valid seeds."""
    seeds = np.asarray(axis.values)
    whole = seeds.dtype.kind in "iu" and not axis.is_static
    if not whole or seeds.min() < 0 or seeds.max() > _LARGEST_SEED:
        raise ValueError(
            f"axis 'seed' must contain integers in [0, 2**31 - 1], such as range(8), "
            f"got {axis.labels[:5].tolist()}."
        )


def _label(value: Any) -> str:
    named: Callable[..., Any] | Any = getattr(value, "func", value)
    return str(getattr(named, "__name__", value))


def _array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, jax.Array)) or (
        hasattr(value, "__array__") and hasattr(value, "dtype")
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
