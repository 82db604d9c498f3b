"""Hyperparameters and seed averages of points in a dataset of runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax._sweep.axes import axis_like
from stabjax._train.stopping import is_maximized

NO_HYPERPARAMETERS = ("seed", "step", "evaluated_at", "trial", "rung")
_EARLIER_IS_BETTER = ("target_at", "best_at")


def hyperparameters(point: xr.Dataset) -> dict[str, Any]:
    """Returns the swept values of a single point as Python objects."""
    return {
        str(name): values_of(coordinate)[0]
        for name, coordinate in point.coords.items()
        if name not in NO_HYPERPARAMETERS and not coordinate.dims
    }


def values_of(coordinate: xr.DataArray) -> list[Any]:
    """Returns the values of a coordinate, with functions represented by labels."""
    labels: list[Any] = np.atleast_1d(coordinate.values).tolist()
    if not (text := coordinate.attrs.get("static")):
        return labels
    return list(axis_like(str(coordinate.name), labels, text).values)


def mean_of(
    runs: xr.Dataset, variable: str, over: str | Sequence[str], maximize: bool
) -> xr.DataArray:
    """Returns the mean, negated if `maximize` is set, or +inf if a run diverged."""
    values = _values(runs, variable).astype(float)
    values = (-values if maximize else values).where(runs["status"] != 1, np.inf)
    return values.mean(dimensions(values, over), skipna=False)


def is_larger_better(runs: xr.Dataset, variable: str, maximize: bool | None) -> bool:
    """Returns the direction in which a variable improves, as the problem says."""
    if maximize is not None:
        return maximize
    declared = runs.attrs.get("maximize", "").split(", ")
    found = is_maximized(variable, declared)
    if found is None and variable not in _EARLIER_IS_BETTER:
        raise ValueError(
            f"maximize must be True or False, since the problem does not say whether "
            f"larger values of {variable!r} are better, got None."
        )
    return bool(found)


def _values(runs: xr.Dataset, variable: str) -> xr.DataArray:
    trials = runs["status"].dims
    known = [str(n) for n, v in runs.data_vars.items() if set(v.dims) <= set(trials)]
    if variable not in known:
        raise ValueError(
            f"variable must be one with a value for each run "
            f"({', '.join(known)}), got {variable!r}."
        )
    return runs[variable]


def dimensions(values: xr.DataArray, over: str | Sequence[str]) -> list[str]:
    """Returns the dimensions to reduce, omitting `seed` if the dataset lacks it."""
    names = [over] if isinstance(over, str) else list(over)
    for name in names:
        if name not in values.dims and name != "seed":
            known = ", ".join(map(str, values.dims))
            raise ValueError(
                f"the dataset has no dimension {name!r}. Choose from {known}."
            )
    return [name for name in names if name in values.dims]
