"""Spaces: what varies in a sweep, as dimensions with one or more axes."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from stabjax._sweep.axes import Axis, Static, axis_of, check_distinct
from stabjax._sweep.capacity import check_fits
from stabjax._sweep.sampling import drawn_axis, unit_points

TRIAL = "trial"  # the dimension of zipped and sampled axes

_Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class Dimension:
    """A dimension of the result, and the axes that vary along it."""

    name: str
    axes: tuple[Axis, ...]
    numbers: tuple[int, ...] | None = None  # of the trials along it, if not 0, 1, ...

    def __len__(self) -> int:
        return len(self.axes[0].values)

    def take(self, rows: _Array) -> "Dimension":
        """Returns the dimension with these of its values, in this order."""
        numbers = None
        if self.name == TRIAL:
            numbers = tuple((self.numbers or range(len(self)))[r] for r in rows)
        return Dimension(self.name, tuple(a.take(rows) for a in self.axes), numbers)

    @property
    def programs(self) -> int:
        """The number of its static combinations."""
        codes = [axis.codes for axis in self.axes if axis.is_static]
        return len(np.unique(np.stack(codes), axis=1).T) if codes else 1


@dataclass(frozen=True, eq=False)
class Space:
    """What varies in a sweep: the product of its dimensions.

    `grid`, `zipped` and `sample` make one, and `*` combines two. Its trials are counted
    with the last dimension fastest, and `len` is their number.

    Attributes:
      dimensions: one for each dimension of the sweep's result, with the axes along it.
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
        """Returns every trial of one space with every trial of the other."""
        if not isinstance(other, Space):
            return NotImplemented
        twice = {a.name for a in self.axes} & {a.name for a in other.axes}
        if twice:
            raise ValueError(
                f"axis {min(twice)!r} is in both spaces: each axis varies once."
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
        """For each axis, the position of every trial's value in it."""
        positions = np.unravel_index(np.arange(len(self)), self.shape)
        # Half the memory of NumPy's own indices, which shows from a million trials on.
        return {
            axis.name: position.astype(np.int32)
            for dimension, position in zip(self.dimensions, positions, strict=True)
            for axis in dimension.axes
        }

    @cached_property
    def seeds(self) -> _Array:
        """The seed of every trial; 0 where there is no such axis."""
        for axis in self.axes:
            if axis.name == "seed":
                return np.asarray(axis.values, np.int32)[self.rows["seed"]]
        return np.zeros(len(self), np.int32)

    def numbers(self) -> dict[str, _Array]:
        """Returns the values of each traced axis, in the type of the device."""
        traced = [a for a in self.axes if not a.is_static and a.name != "seed"]
        return {axis.name: _device_values(axis) for axis in traced}

    def groups(self) -> list[tuple[dict[str, Any], _Array]]:
        """Returns the static combinations, each with the trials that share it."""
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
        """Returns the coordinates of the dataset: dimension, labels, attributes."""
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
    """Returns the product of its axes: every value of one with every value of the rest.

    Each axis goes by its name to the functions that make the problem and the optimizer;
    the axis `seed` goes to the key of a run alone. An axis of numbers is traced as
    float32, or int32 if all its values are integers (the 64-bit types under
    `jax_enable_x64`). Strings, booleans, None, callables and everything in `static` are
    static: the function receives the Python value, and each combination of static
    values is one compilation.

    Args:
      **axes: the values of each axis: a list, a tuple, a range or a one-dimensional
        array. Infinite values are allowed (`max_norm=inf` means no clipping).

    Returns:
      A space with one dimension for each axis, in the order given.

    Raises:
      ValueError: there is no axis, or an axis is empty, is not one-dimensional, holds
        NaN or a static value twice, has a reserved name, or is not a valid `seed`.
      TypeError: an axis is not a sequence, or mixes numbers with other values.

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
    """Returns its axes side by side: the first values of all, then the second ones.

    Args:
      **axes: the values of each axis, as in `grid`, all of one length. Values and seeds
        may repeat.

    Returns:
      A space with one dimension `trial`, along which all axes lie. Its product with a
      grid, `zipped(...) * grid(seed=range(8))`, also has the dimensions of the grid.

    Raises:
      ValueError: there is no axis, or the lengths differ; and as in `grid`.
      TypeError: as in `grid`.

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
        raise ValueError(f"zipped needs axes of one length, got {sizes}.")
    return Space((Dimension(TRIAL, found),))


def sample(
    n: int,
    seed: int | None = None,
    points: Literal["random", "sobol", "halton"] = "random",
    /,
    **axes: object,
) -> Space:
    """Draws the values of every axis at random, or by a low-discrepancy sequence.

    The same seed draws the same trials, and the first `n` of any larger sample.
    (Scrambled) Sobol and Halton points cover the unit cube, with one dimension for each
    axis, more evenly than random ones; Sobol points most evenly if `n` is a power of 2.

    Args:
      n: number of trials, >= 1.
      seed: seed of the drawing, >= 0. The seeds of the runs are an axis:
        `sample(64, 0, rate=loguniform(1e-3, 1.0)) * grid(seed=range(8))`.
      points: `"random"`, `"sobol"` or `"halton"`.
      **axes: a frozen distribution of `scipy.stats`, such as `loguniform(1e-3, 1.0)` or
        `randint(1, 100)`; or equally likely choices, the values of an axis of `grid`.

    Returns:
      A space with one dimension `trial`, along which all axes lie.

    Raises:
      ValueError: `n` is not positive, there is no seed or no axis, or `points` is
        unknown; and as in `grid`.
      TypeError: as in `grid`.

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
    """The product of all dimensions `trial` as one, in the place of the first."""
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
            f"axis {axis.name!r} holds values beyond {dtype}: write it as floats, or "
            f"switch jax_enable_x64 on."
        )
    return values.astype(dtype)
