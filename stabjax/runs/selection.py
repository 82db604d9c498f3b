"""Selecting the best hyperparameters."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from stabjax._arguments import check
from stabjax._intervals import Estimate, student, within_noise
from stabjax._outcomes import best_of, is_maximized
from stabjax._types import Label
from stabjax.runs.answers import basis
from stabjax.runs.points import (
    NO_HYPERPARAMETERS,
    dimensions,
    hyperparameters,
    losses_of,
)


class Best(NamedTuple):
    """The best point of a dataset of runs, as returned by `best`.

    Attributes:
      point: the value of every axis, those of the problem and static ones included, as
        Python objects. A static value that is not a literal, such as a function, is
        represented by its label.
      arguments: the part of `point` that the sweep's `make_optimizer` accepts, for use
        as `make_optimizer(**best.arguments)`.
      positions: position along each dimension, for use as `runs.isel(best.positions)`.
      variable: the variable that was compared.
      value: mean of the variable over the seeds, with its Student t interval. The
        interval does not account for the selection: the best of many points also had
        lucky seeds. Use `retest` to train the point on fresh seeds.
      confidence: confidence level of the interval.
      seeds: number of runs in the mean.
      points: number of points without missing runs, including diverged ones.
      within_noise: number of points, including the best one, that do not differ
        significantly from it, paired by seed. None for a single seed.
      noise_range: smallest and largest value of each numeric axis among these points.
        Empty for a single seed.
      at_edge: numeric axes whose best value is the smallest one (unless it is 0) or the
        largest one (unless it is infinite), so that better values may be outside the
        grid.
    """

    point: Mapping[str, Label]
    # Any, so that `make_optimizer(**best.arguments)` type-checks.
    arguments: Mapping[str, Any]
    positions: Mapping[str, int]
    variable: str
    value: Estimate
    confidence: float
    seeds: int
    points: int
    within_noise: int | None
    noise_range: Mapping[str, tuple[float, float]]
    at_edge: tuple[str, ...]

    def __repr__(self) -> str:
        """Returns the answer in a few lines of text."""
        of = basis(self.seeds, self.confidence, points=self.points)
        mean = "mean " if self.seeds > 1 else ""
        lines = [f"{mean}{self.variable}: {self.value} {of}"]
        for name, value in self.point.items():
            low, high = self.noise_range.get(name, (value, value))
            wide = f" ({low:.4g} to {high:.4g} within noise)" if low != high else ""
            lines.append(f"  {name} = {_short(value)}{wide}")
        if self.within_noise is None:
            lines.append("Add seeds to estimate the noise.")
        elif self.within_noise == 1 < self.points:
            lines.append("No other point is within noise of it.")
        elif self.within_noise > 1:
            lines.append(
                f"{self.within_noise} points are within noise, including this one."
            )
        for name in self.at_edge:
            lines.append(
                f"{name} = {_short(self.point[name])} is at the edge of the grid. "
                f"Better values may be outside it."
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data: dicts, lists, numbers and text."""
        found = self._asdict()
        found["value"] = self.value._asdict()
        found["noise_range"] = {n: list(ends) for n, ends in self.noise_range.items()}
        return {**found, "at_edge": list(self.at_edge)}


def best(
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
    maximize: bool | None = None,
    confidence: float = 0.95,
) -> Best:
    """Returns the point with the best mean of a variable over the seeds.

    A point with a diverged run is treated as infinitely bad. Points with missing values
    (NaN) are ignored. If several points are equally good, the middle one is returned.

    Args:
      runs: a dataset returned by `sweep` or `successive_halving`, or a subset of it.
      variable: a variable with one value per run, such as a loss, an evaluation or a
        summary.
      over: dimension or dimensions to average over.
      maximize: whether larger values are better, as for an accuracy. None uses the
        problem's metadata and defaults to False.
      confidence: confidence level of the intervals, in (0, 1). **Static.**

    Returns:
      A `Best` with the point, its value and interval, the number of points within noise
      of it, and the axes at whose edge it is.

    Raises:
      ValueError: If the dataset does not have the variable or a dimension, every point
        has a diverged run, no run is complete, or `confidence` is out of range.

    Example:
      >>> import optax, stabjax
      >>> def make_optimizer(rate, decay):
      ...     return optax.sgd(rate, momentum=decay)
      >>> space = stabjax.grid(rate=[0.1, 0.4, 1.5], decay=[0.0, 0.9], seed=range(4))
      >>> problem = stabjax.problems.quadratic(noise=1.0)
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> best = stabjax.runs.best(runs)
      >>> best.point
      {'rate': 0.1, 'decay': 0.0}
      >>> optimizer = make_optimizer(**best.arguments)
    """
    check("confidence", confidence, "in (0, 1)")
    losses = losses_of(runs, variable, maximize)
    pooled = dimensions(losses, over)
    axes = [str(dim) for dim in losses.dims if dim not in pooled]
    values = losses.transpose(*axes, ...).to_numpy()
    values = values.reshape(*values.shape[: len(axes)], -1)
    # A point with a NaN is incomplete, even if one of its seeds diverged.
    with np.errstate(invalid="ignore"):
        means = values.mean(axis=-1)
    chosen = best_of(means)
    if chosen is None:
        raise ValueError(_nothing_is_best(runs, variable, means))
    index = dict(zip(axes, chosen, strict=True))
    noise = within_noise(values, values[chosen], confidence)
    point = hyperparameters(runs.isel(index))
    taken = runs.attrs.get("optimizer_takes")
    tuned = [*point] if taken is None else [n for n in taken.split(", ") if n in point]
    mask = xr.DataArray(noise, dims=axes) if values.shape[-1] > 1 else None
    sign = -1.0 if is_maximized(runs, variable, maximize) else 1.0
    return Best(
        point,
        {name: point[name] for name in tuned},
        index,
        variable,
        student(sign * values[chosen], confidence),
        confidence,
        values.shape[-1],
        int((~np.isnan(means)).sum()),
        None if mask is None else int(noise.sum()),
        {} if mask is None else _ranges(runs, mask),
        tuple(name for name in tuned if _is_at_edge(runs[name], point[name])),
    )


def _nothing_is_best(
    runs: xr.Dataset, variable: str, means: np.ndarray[Any, Any]
) -> str:
    if np.isnan(means).all():
        missing = runs[variable].isnull()
        if missing.all():
            return f"no run is complete because {variable} is NaN everywhere."
        return (
            f"no point is complete because {variable} is missing for "
            f"{int(missing.sum())} of {missing.size} runs. Select seeds that are "
            f"complete, such as with runs.dropna('seed')."
        )
    latest = int(runs["diverged_at"].max())
    return (
        f"there is no best point because every point has a diverged run (the last one "
        f"diverged at step {latest})."
    )


def _ranges(runs: xr.Dataset, mask: xr.DataArray) -> dict[str, tuple[float, float]]:
    """Returns the range of each numeric axis among the points of a mask."""
    found = {}
    for name, coordinate in runs.coords.items():
        if not _is_axis(coordinate) or coordinate.dims[0] not in mask.dims:
            continue
        some = mask.any([dim for dim in mask.dims if dim != coordinate.dims[0]])
        values = coordinate.to_numpy()[some.to_numpy()]
        found[str(name)] = (float(values.min()), float(values.max()))
    return found


def _is_at_edge(coordinate: xr.DataArray, value: Any) -> bool:
    if not _is_axis(coordinate):
        return False
    values = np.unique(coordinate.to_numpy())
    low, high = values[0], values[-1]
    return bool(low < high and (value == low != 0 or value == high < np.inf))


def _is_axis(coordinate: xr.DataArray) -> bool:
    """Returns whether this is a numeric axis that varies along one dimension."""
    named = coordinate.name not in NO_HYPERPARAMETERS
    return named and len(coordinate.dims) == 1 and coordinate.dtype.kind in "iuf"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
