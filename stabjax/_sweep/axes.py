"""One axis of a space: numbers, which are traced, or static Python values."""

import ast
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from stabjax._sweep.capacity import check_fits

RESULTS = (
    "final_loss",
    "best_loss",
    "mean_loss",
    "status",
    "diverged_at",
    "target_at",
    "convergence_score",
    "loss",
)
_RESERVED = ("step", "trial", "rung", "rung_loss", "trained_steps", *RESULTS)
# The results of halving that dropped trials have, too.
OF_WHAT_WAS_TRAINED = (
    "rung_loss",
    "trained_steps",
    "status",
    "diverged_at",
    "best_loss",
)
_BYTES = 72  # of a number in a list of Python, and of its copies
_LARGEST_SEED = 2**31 - 1

_Array = np.ndarray[Any, Any]


class Static(NamedTuple):
    """Values that a factory receives as they are."""

    values: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """One swept argument: an array of numbers, or a tuple of static Python values."""

    name: str
    values: _Array | tuple[Any, ...]

    @property
    def is_static(self) -> bool:
        """Whether each value is a separate program."""
        return isinstance(self.values, tuple)

    @property
    def labels(self) -> _Array:
        """The values as a coordinate of the dataset."""
        if isinstance(self.values, np.ndarray):
            return self.values
        if all(isinstance(v, bool) for v in self.values) or all(
            map(_number, self.values)
        ):
            return np.asarray(self.values)
        return np.asarray([_label(value) for value in self.values])

    @property
    def codes(self) -> _Array:
        """For each value, the position of the first equal one."""
        labels = self.labels.tolist()
        first = dict(zip(labels[::-1], range(len(labels))[::-1], strict=True))
        return np.array([first[label] for label in labels])

    @property
    def literal(self) -> str:
        """The distinct values as Python source; empty if that is not possible."""
        distinct = [self.values[code] for code in dict.fromkeys(self.codes.tolist())]
        try:
            return repr(ast.literal_eval(repr(distinct)))
        except (ValueError, SyntaxError):  # functions and other objects
            return ""

    def take(self, rows: _Array) -> "Axis":
        """Returns the axis with these of its values, in this order."""
        if isinstance(self.values, np.ndarray):
            return replace(self, values=_frozen(self.values[rows]))
        return replace(self, values=tuple(self.values[row] for row in rows.tolist()))


def static(values: Iterable[object]) -> Static:
    """Marks an axis as static: the factory receives each value as it is given.

    Numbers are traced, so that an axis is one program. A number that fixes a shape or
    a structure (a width, a window, a branch of Python) cannot be traced: put it in
    `static`. Strings, booleans, None and callables are static without it. Each
    combination of static values is one compilation.

    Args:
      values: the values of the axis, of any kind.

    Returns:
      The values of an axis, for `grid`, `zipped` and `sample`.

    Raises:
      TypeError: `values` is not a sequence of values.

    Example:
      >>> import stabjax
      >>> stabjax.grid(window=stabjax.static([8, 16]), seed=range(3))
      Space(window: 2, seed: 3; 6 trials, 2 programs)
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(
            f"static takes a sequence of values, such as static([8, 16]), "
            f"got {values!r}."
        )
    return Static(tuple(np.asarray(values).tolist() if _array(values) else values))


def axis_like(name: str, labels: Sequence[Any], literal: str) -> Axis:
    """Returns the static axis with these labels; functions become placeholders."""
    if literal:
        distinct = Axis(name, tuple(ast.literal_eval(literal)))
        known = dict(zip(distinct.labels.tolist(), distinct.values, strict=True))
    else:
        known = {label: SimpleNamespace(__name__=label) for label in labels}
    return Axis(name, tuple(known[label] for label in labels))


def check_name(name: str) -> None:
    """Raises if an axis cannot have this name."""
    if name in _RESERVED:
        raise ValueError(
            f"axis {name!r} has the name of a result or of a dimension of the "
            f"dataset: rename it ({', '.join(_RESERVED)} are reserved)."
        )


def axis_of(name: str, values: Any) -> Axis:
    """Returns the axis with these values, checked."""
    check_name(name)
    given = values.values if isinstance(values, Static) else _values(name, values)
    axis = Axis(name, given)
    if len(axis.values) == 0:
        raise ValueError(f"axis {name!r} is empty: give it at least one value.")
    if axis.is_static:
        _check_labels(axis)
    if name == "seed":
        check_seeds(axis)
    return axis


def check_distinct(axis: Axis) -> None:
    """Raises if a value would be trained twice."""
    if axis.name == "seed" and len(np.unique(axis.labels)) < len(axis.labels):
        raise ValueError("axis 'seed' holds a seed twice: it would count twice.")
    if axis.is_static and len(set(axis.codes)) < len(axis.values):
        twice = axis.labels[np.argmax(np.bincount(axis.codes) > 1)]
        raise ValueError(f"axis {axis.name!r} holds {str(twice)!r} twice.")


def _values(name: str, values: Any) -> _Array | tuple[Any, ...]:
    if _array(values):
        return _array_values(name, values)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"axis {name!r} must be a list, a tuple, a range or an array of values, "
            f"got {values!r}: write {name}=[{values!r}] for one value."
        )
    check_fits(
        f"The {len(values):,} values of axis {name!r}",
        _BYTES * len(values),
        "take fewer",
    )
    items = [v.item() if _array(v) and np.ndim(v) == 0 else v for v in values]
    if any(_array(v) or isinstance(v, (list, tuple, range)) for v in items):
        raise ValueError(
            f"axis {name!r} must be one-dimensional, got a sequence of sequences: "
            f"put it in static(...) if each is one value."
        )
    if all(map(_number, items)):
        return _numbers(name, np.asarray(items))
    if all(isinstance(v, (str, bool)) or v is None or callable(v) for v in items):
        return tuple(items)
    kinds = sorted({type(v).__name__ for v in items})
    raise TypeError(
        f"axis {name!r} must hold only numbers, or only strings, booleans, None and "
        f"callables, got {', '.join(kinds)}: put it in static(...) to pass each value "
        f"as it is (inf switches a threshold off and is a number)."
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
        raise ValueError(f"axis {name!r} holds an integer beyond 64 bits.")
    if np.isnan(values).any():
        raise ValueError(f"axis {name!r} holds NaN, which cannot be trained with.")
    return _frozen(values.copy())


def _frozen(values: _Array) -> _Array:
    values.flags.writeable = False
    return values


def _check_labels(axis: Axis) -> None:
    """Raises if two different values have one label."""
    for value, label, code in zip(axis.values, axis.labels, axis.codes, strict=True):
        first = axis.values[code]
        if (type(value), repr(value)) != (type(first), repr(first)):
            raise ValueError(
                f"axis {axis.name!r} has two values labelled {str(label)!r}: no label "
                f"could tell them apart (name a function with def instead of lambda)."
            )


def check_seeds(axis: Axis) -> None:
    """Raises if the values of an axis are not seeds."""
    seeds = np.asarray(axis.values)
    whole = seeds.dtype.kind in "iu" and not axis.is_static
    if not whole or seeds.min() < 0 or seeds.max() > _LARGEST_SEED:
        raise ValueError(
            f"axis 'seed' must hold integers from 0 to 2**31 - 1, such as range(8), "
            f"got {list(axis.labels[:5])}."
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
