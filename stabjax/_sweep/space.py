"""What varies in a sweep: dimensions of trials, each with one or more axes."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

RESULTS = ("final_loss", "best_loss", "status", "diverged_at", "loss")
_RESERVED = ("step", "trial", *RESULTS)
_LARGEST_SEED = 2**31 - 1


class Static(NamedTuple):
    """Values that a factory must see as they are."""

    values: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Axis:
    """One swept argument: an array of numbers, or a tuple of static Python values."""

    name: str
    values: np.ndarray[Any, Any] | tuple[Any, ...]

    @property
    def is_static(self) -> bool:
        """Whether each value is a program of its own."""
        return isinstance(self.values, tuple)

    @property
    def labels(self) -> np.ndarray[Any, Any]:
        """The values as the dataset's coordinate shows them."""
        if isinstance(self.values, np.ndarray):
            return self.values
        if all(isinstance(v, bool) for v in self.values) or all(
            map(_number, self.values)
        ):
            return np.asarray(self.values)
        return np.asarray([_label(value) for value in self.values])


@dataclass(frozen=True, eq=False)
class Dimension:
    """A dimension of the result: the axes that vary along it, side by side."""

    name: str
    axes: tuple[Axis, ...]

    def __len__(self) -> int:
        return len(self.axes[0].values)


@dataclass(frozen=True, eq=False)
class Space:
    """The product of its dimensions; trials are counted with the last one fastest."""

    dimensions: tuple[Dimension, ...]

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{d.name}: {len(d)}" for d in self.dimensions)
        return f"Space({sizes}; {len(self)} trials)"

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values along each dimension."""
        return tuple(len(dimension) for dimension in self.dimensions)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """All swept arguments, whatever dimension they lie along."""
        return tuple(axis for d in self.dimensions for axis in d.axes)

    def rows(self) -> dict[str, np.ndarray[Any, Any]]:
        """For each axis, the position of every trial's value in it."""
        positions = np.unravel_index(np.arange(len(self)), self.shape)
        return {
            axis.name: position
            for dimension, position in zip(self.dimensions, positions, strict=True)
            for axis in dimension.axes
        }

    def groups(self) -> list[tuple[dict[str, Any], np.ndarray[Any, Any]]]:
        """The static combinations, each with the trials that share it."""
        rows = self.rows()
        axes = [axis for axis in self.axes if axis.is_static]
        if not axes:
            return [({}, np.arange(len(self)))]
        codes = np.stack([rows[axis.name] for axis in axes])
        combinations, group = np.unique(codes, axis=1, return_inverse=True)
        return [
            (
                {
                    a.name: a.values[row]
                    for a, row in zip(axes, combination, strict=True)
                },
                np.flatnonzero(group.ravel() == number),
            )
            for number, combination in enumerate(combinations.T)
        ]


def static(values: Iterable[Any]) -> Static:
    """Marks an axis as static: the factory receives each value as it is given.

    Numbers are traced, so that all of an axis is one program. A number that fixes a
    shape or a structure (a width, a window, a choice of branch) cannot be traced: put
    it in `static`. Strings, booleans, None and callables are static without it. Each
    combination of static values is one compilation.

    Args:
      values: the values of the axis, of any kind.

    Returns:
      What `grid` takes for an axis.

    Raises:
      TypeError: if `values` is no sequence of values.

    Example:
      >>> import stabjax
      >>> stabjax.grid(window=stabjax.static([8, 16]), seed=range(3))
      Space(window: 2, seed: 3; 6 trials)
    """
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(
            f"static takes a sequence of values, such as static([8, 16]), "
            f"got {values!r}."
        )
    return Static(tuple(np.asarray(values).tolist() if _array(values) else values))


def grid(**axes: Any) -> Space:
    """The product of its axes: every value of one with every value of the others.

    Each axis goes by its name to the functions that make the problem and the
    optimizer; the axis `seed` goes to the key of a training alone. An axis of numbers
    is traced as float32, or int32 where all its values are integers (the 64-bit kinds
    under `jax_enable_x64`). Strings, booleans, None, callables and whatever stands in
    `static` are static: the function receives the Python value, and each combination
    of them is one compilation.

    Args:
      **axes: the values of each axis: a list, a tuple, a range or a one-dimensional
        array. Infinite values are allowed (`max_norm=inf` is no clipping).

    Returns:
      A space with one dimension for each axis, in the order given.

    Raises:
      ValueError: if there is no axis, or an axis is empty, is not one-dimensional,
        holds NaN, has a reserved name, or is a `seed` that is no seed.
      TypeError: if an axis is no sequence, or mixes numbers with other values.

    Example:
      >>> import stabjax
      >>> stabjax.grid(max_norm=[0.1, 1.0, float("inf")], seed=range(8))
      Space(max_norm: 3, seed: 8; 24 trials)
    """
    if not axes:
        raise ValueError("grid needs at least one axis, such as max_norm=[0.1, 1.0].")
    return Space(tuple(Dimension(name, (_axis(name, v),)) for name, v in axes.items()))


def _axis(name: str, values: Any) -> Axis:
    if name in _RESERVED:
        raise ValueError(
            f"axis {name!r} has the name of a result or of a dimension of the "
            f"dataset: rename it ({', '.join(_RESERVED)} are reserved)."
        )
    parsed = _static_values(name, values.values) if isinstance(values, Static) else None
    axis = Axis(name, _values(name, values) if parsed is None else parsed)
    if len(axis.values) == 0:
        raise ValueError(f"axis {name!r} is empty: give it at least one value.")
    if name == "seed":
        _check_seeds(axis)
    return axis


def _values(name: str, values: Any) -> np.ndarray[Any, Any] | tuple[Any, ...]:
    if _array(values):
        return _array_values(name, values)
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(
            f"axis {name!r} must be a list, a tuple, a range or an array of values, "
            f"got {values!r}: write {name}=[{values!r}] for one value."
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
        return _static_values(name, tuple(items))
    kinds = sorted({type(v).__name__ for v in items})
    raise TypeError(
        f"axis {name!r} must hold only numbers, or only strings, booleans, None and "
        f"callables, got {', '.join(kinds)}: put it in static(...) to pass each value "
        f"as it is (inf switches a threshold off and is a number)."
    )


def _array_values(name: str, values: Any) -> np.ndarray[Any, Any] | tuple[Any, ...]:
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


def _numbers(name: str, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype == object:
        raise ValueError(f"axis {name!r} holds an integer beyond 64 bits.")
    if np.isnan(values).any():
        raise ValueError(f"axis {name!r} holds NaN, which is no value to train with.")
    values = values.copy()
    values.flags.writeable = False
    return values


def _static_values(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    labels = [_label(value) for value in values]
    repeated = [label for label in labels if labels.count(label) > 1]
    if repeated:
        raise ValueError(
            f"axis {name!r} has two values labelled {repeated[0]!r}: no label could "
            f"tell them apart (name a function with def instead of lambda)."
        )
    return values


def _check_seeds(axis: Axis) -> None:
    values = axis.values
    whole = isinstance(values, np.ndarray) and values.dtype.kind in "iu"
    if not whole or min(values) < 0 or max(values) > _LARGEST_SEED:
        raise ValueError(
            f"axis 'seed' must hold integers from 0 to 2**31 - 1, such as range(8), "
            f"got {list(axis.labels[:5])}."
        )
    if len(set(values)) < len(values):
        raise ValueError("axis 'seed' holds a seed twice: it would count twice.")


def _label(value: Any) -> str:
    named: Callable[..., Any] | Any = getattr(value, "func", value)
    return str(getattr(named, "__name__", value))


def _array(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic, jax.Array)) or (
        hasattr(value, "__array__") and hasattr(value, "dtype")
    )


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
