"""Search spaces, which consist of dimensions with one or more axes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from stabjax._sweep.axes import Axis, Static, axis_of, check_distinct
from stabjax._sweep.free_memory import check_fits
from stabjax._sweep.sampling import drawn_axis, unit_points

TRIAL = "trial"  # name of the dimension for zipped and sampled axes

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Dimension:
    """A dimension of the result with the axes that vary along it."""

    name: str
    axes: tuple[Axis, ...]
    numbers: tuple[int, ...] | None = None  # trial numbers, if not 0, 1, ...

    def __len__(self) -> int:
        return len(self.axes[0].values)

    def take(self, rows: _Array) -> "Dimension":
        """Returns a dimension with the selected values, in the given order."""
        numbers = None
        if self.name == TRIAL:
            numbers = tuple((self.numbers or range(len(self)))[r] for r in rows)
        return Dimension(self.name, tuple(a.take(rows) for a in self.axes), numbers)

    @property
    def programs(self) -> int:
        """The number of combinations of static values."""
        codes = [axis.codes for axis in self.axes if axis.is_static]
        return len(np.unique(np.stack(codes), axis=1).T) if codes else 1


@dataclass(frozen=True, eq=False)
class Space:
    """A search space, which is the product of its dimensions.

    Use `grid`, `zipped` and `sample` to create spaces, and `*` to combine them. `len`
    returns the number of trials. Trials are ordered with the last dimension varying
    fastest.

    Attributes:
      dimensions: the dimensions of the resulting dataset, each with its axes.
    """

    dimensions: tuple[Dimension, ...]

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{d.name}: {len(d)}" for d in self.dimensions)
        programs = math.prod(d.programs for d in self.dimensions)
        compiled = f", {programs} programs" if programs > 1 else ""
        return f"Space({sizes}; {len(self)} trials{compiled})"

    def __mul__(self, other: "Space") -> "Space":
        """Returns the product of two spaces."""
        if not isinstance(other, Space):
            return NotImplemented
        twice = {a.name for a in self.axes} & {a.name for a in other.axes}
        if twice:
            raise ValueError(
                f"axis {min(twice)!r} must not be in both spaces. Remove it from one "
                f"of them."
            )
        return Space(_merged([*self.dimensions, *other.dimensions]))

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of values along each dimension."""
        return tuple(len(dimension) for dimension in self.dimensions)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The axes of all dimensions."""
        return tuple(axis for d in self.dimensions for axis in d.axes)

    @cached_property
    def rows(self) -> dict[str, _Array]:
        """The index of each trial's value, keyed by axis."""
        positions = np.unravel_index(np.arange(len(self)), self.shape)
        # int32 needs half the memory of NumPy's default indices, which matters for
        # spaces with millions of trials.
        return {
            axis.name: position.astype(np.int32)
            for dimension, position in zip(self.dimensions, positions, strict=True)
            for axis in dimension.axes
        }

    @cached_property
    def seeds(self) -> _Array:
        """The seed of every trial, or 0 if there is no axis `seed`."""
        for axis in self.axes:
            if axis.name == "seed":
                return np.asarray(axis.values, np.int32)[self.rows["seed"]]
        return np.zeros(len(self), np.int32)

    def numbers(self) -> dict[str, _Array]:
        """Returns the values of each traced axis, in the dtype used on the device."""
        traced = [a for a in self.axes if not a.is_static and a.name != "seed"]
        return {axis.name: _device_values(axis) for axis in traced}

    def groups(self) -> list[tuple[dict[str, Any], _Array]]:
        """Returns the combinations of static values, each with its trials."""
        axes = [axis for axis in self.axes if axis.is_static]
        if not axes:
            return [({}, np.arange(len(self)))]
        codes = np.stack([axis.codes[self.rows[axis.name]] for axis in axes])
        combinations, group = np.unique(codes, axis=1, return_inverse=True)
        return [
            (
                {
                    a.name: a.values[code]
                    for a, code in zip(axes, combination, strict=True)
                },
                np.flatnonzero(group.ravel() == number),
            )
            for number, combination in enumerate(combinations.T)
        ]

    def coordinates(self) -> dict[str, tuple[str, _Array, dict[str, str]]]:
        """Returns the dataset coordinates as (dimension, labels, attributes)."""
        found: dict[str, tuple[str, _Array, dict[str, str]]] = {}
        for dimension in self.dimensions:
            if dimension.name == TRIAL:
                numbers = dimension.numbers or range(len(dimension))
                found[TRIAL] = (TRIAL, np.array(numbers), {})
            for axis in dimension.axes:
                about = {"static": axis.literal} if axis.is_static else {}
                found[axis.name] = (dimension.name, axis.labels, about)
        return found


def grid(**axes: Iterable[object] | Static) -> Space:
    """Returns a space with every combination of the axis values.

    `sweep` passes each axis by name to the functions that create the problem and the
    optimizer. The axis `seed` is used only for the random key of a run. Numbers are
    traced as float32, or as int32 if all values of the axis are integers (64-bit types
    if `jax_enable_x64` is set). Strings, booleans, None, callables and values marked by
    `static` are static. The functions receive static values as Python objects, and each
    combination of static values is compiled separately.

    Args:
      **axes: the values of each axis as a list, tuple, range or one-dimensional array.
        Infinite values are allowed. For example, `max_norm=inf` disables clipping.

    Returns:
      A space with one dimension per axis, in the given order.

    Raises:
      ValueError: If there is no axis, or if an axis is empty, is not one-dimensional,
        contains NaN or a duplicate static value, or has a reserved name, or if `seed`
        is invalid.
      TypeError: If an axis is not a sequence or mixes numbers with other values.

    Example:
      >>> import stabjax
      >>> stabjax.grid(max_norm=[0.1, 1.0, float("inf")], seed=range(8))
      Space(max_norm: 3, seed: 8; 24 trials)
    """
    if not axes:
        raise ValueError("grid needs at least one axis, such as max_norm=[0.1, 1.0].")
    found = [axis_of(name, values) for name, values in axes.items()]
    for axis in found:
        check_distinct(axis)
    return Space(tuple(Dimension(axis.name, (axis,)) for axis in found))


def zipped(**axes: Iterable[object] | Static) -> Space:
    """Returns a space that varies all axes together, like Python's `zip`.

    The i-th trial uses the i-th value of every axis.

    Args:
      **axes: the values of each axis, as in `grid`. All axes must have the same length.
        Values and seeds can repeat.

    Returns:
      A space with a single dimension, `trial`. The product with a grid, such as
      `zipped(...) * grid(seed=range(8))`, adds the dimensions of the grid.

    Raises:
      ValueError: If there is no axis, if the lengths differ, or for the reasons listed
        in `grid`.
      TypeError: For the reasons listed in `grid`.

    Example:
      >>> import stabjax
      >>> pairs = stabjax.zipped(max_norm=[0.1, 1.0], peak_value=[0.3, 0.1])
      >>> pairs * stabjax.grid(seed=range(8))
      Space(trial: 2, seed: 8; 16 trials)
    """
    if not axes:
        raise ValueError("zipped needs at least one axis, such as rate=[0.1, 1.0].")
    found = tuple(axis_of(name, values) for name, values in axes.items())
    lengths = {axis.name: len(axis.values) for axis in found}
    if len(set(lengths.values())) > 1:
        sizes = ", ".join(f"{name}: {length}" for name, length in lengths.items())
        raise ValueError(f"axes must have the same length, got {sizes}.")
    return Space((Dimension(TRIAL, found),))


def sample(
    n: int,
    seed: int | None = None,
    points: Literal["random", "sobol", "halton"] = "random",
    /,
    **axes: object,
) -> Space:
    """Returns a space whose axis values are sampled randomly or quasi-randomly.

    A larger sample with the same seed starts with the same trials. Sobol and Halton
    points are scrambled and cover the space more evenly than random points. Sobol
    points have the best coverage if `n` is a power of 2.

    Args:
      n: number of trials, >= 1. **Static.**
      seed: seed for sampling, >= 0. To train each trial with several seeds, multiply by
        a grid: `sample(64, 0, rate=loguniform(1e-3, 1.0)) * grid(seed=range(8))`.
        **Static.**
      points: `"random"`, `"sobol"` or `"halton"`.
      **axes: a frozen distribution from `scipy.stats` for each axis, such as
        `loguniform(1e-3, 1.0)` or `randint(1, 100)`, or a sequence of equally likely
        choices.

    Returns:
      A space with a single dimension, `trial`.

    Raises:
      ValueError: If `n` is not positive, if the seed or the axes are missing, if
        `points` is unknown, or for the reasons listed in `grid`.
      TypeError: For the reasons listed in `grid`.

    Example:
      >>> import stabjax
      >>> from scipy.stats import loguniform
      >>> stabjax.sample(64, 0, "sobol", rate=loguniform(1e-3, 1.0), decay=[0.0, 0.9])
      Space(trial: 64; 64 trials)
    """
    if not axes:
        raise ValueError("sample needs at least one axis, such as rate=[0.1, 1.0].")
    unit = unit_points(n, len(axes), seed, points)
    drawn = (drawn_axis(*axis, u) for axis, u in zip(axes.items(), unit, strict=True))
    return Space((Dimension(TRIAL, tuple(drawn)),))


def _merged(dimensions: list[Dimension]) -> tuple[Dimension, ...]:
    """Merges all `trial` dimensions into one, at the position of the first."""
    merging = [d for d in dimensions if d.name == TRIAL]
    if len(merging) < 2:
        return tuple(dimensions)
    sizes = [len(dimension) for dimension in merging]
    size = 16 * math.prod(sizes) * sum(len(dimension.axes) for dimension in merging)
    shown = " x ".join(f"{size:,}" for size in sizes)
    check_fits(f"{shown} trials", size, "combine fewer")
    positions = np.unravel_index(np.arange(math.prod(sizes)), sizes)
    axes = [
        axis.take(rows)
        for dimension, rows in zip(merging, positions, strict=True)
        for axis in dimension.axes
    ]
    whole = Dimension(TRIAL, tuple(axes))
    first = dimensions.index(merging[0])
    others = [d for d in dimensions if d.name != TRIAL]
    return (*others[:first], whole, *others[first:])


def _device_values(axis: Axis) -> _Array:
    values = np.asarray(axis.values)
    dtype = jnp.result_type(int if values.dtype.kind in "iu" else float)
    limits = np.iinfo(dtype) if dtype.kind == "i" else np.finfo(dtype)
    finite = values[np.isfinite(values)]
    if finite.size and (finite.min() < limits.min or finite.max() > limits.max):
        raise ValueError(
            f"axis {axis.name!r} must contain values within the range of {dtype}. Use "
            f"floats or set jax_enable_x64."
        )
    return values.astype(dtype)
