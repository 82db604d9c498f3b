"""One point of a dataset of runs: its hyperparameters, and its mean over the seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax._sweep.axes import axis_like

NO_HYPERPARAMETERS = ("seed", "step", "trial", "rung")


def hyperparameters(point: xr.Dataset) -> dict[str, Any]:
    """The swept values of one point, as Python objects."""
    return {
        str(name): values_of(coordinate)[0]
        for name, coordinate in point.coords.items()
        if name not in NO_HYPERPARAMETERS and not coordinate.dims
    }


def values_of(coordinate: xr.DataArray) -> list[Any]:
    """What labels stand for, as far as the dataset can say."""
    labels: list[Any] = np.atleast_1d(coordinate.values).tolist()
    if not (text := coordinate.attrs.get("static")):
        return labels
    return list(axis_like(str(coordinate.name), labels, text).values)


def mean_of(
    runs: xr.Dataset, variable: str, over: str | Sequence[str], maximize: bool
) -> xr.DataArray:
    """The mean, negated under `maximize`; +inf where a run diverged."""
    values = _values(runs, variable).astype(float)
    values = (-values if maximize else values).where(runs["status"] != 1, np.inf)
    return values.mean(dimensions(values, over), skipna=False)


def _values(runs: xr.Dataset, variable: str) -> xr.DataArray:
    trials = runs["status"].dims
    known = [str(n) for n, v in runs.data_vars.items() if set(v.dims) <= set(trials)]
    if variable not in known:
        raise ValueError(
            f"variable must be one with a value for each training "
            f"({', '.join(known)}), got {variable!r}."
        )
    return runs[variable]


def dimensions(values: xr.DataArray, over: str | Sequence[str]) -> list[str]:
    """Those to reduce; a dataset without the dimension `seed` has one seed."""
    names = [over] if isinstance(over, str) else list(over)
    for name in names:
        if name not in values.dims and name != "seed":
            known = ", ".join(map(str, values.dims))
            raise ValueError(f"there is no dimension {name!r}, only {known}.")
    return [name for name in names if name in values.dims]
