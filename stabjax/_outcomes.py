"""Scores and success of runs, shared by `runs` and `plot`."""

from typing import Any

import numpy as np
import xarray as xr

# Variables that describe divergence itself, which have values for diverged runs.
_OF_DIVERGENCE = ("status", "diverged_at")


def is_maximized(runs: xr.Dataset, variable: str, maximize: bool | None) -> bool:
    """Returns whether larger values are better.

    If `maximize` is None, reads the attribute `better` of the variable ("higher" or
    "lower"), which a sweep copies from the problem's metadata.
    """
    if maximize is None:
        return bool(runs[variable].attrs.get("better") == "higher")
    return maximize


def scores_of(runs: xr.Dataset, variable: str, maximize: bool) -> xr.DataArray:
    """Returns a variable with an infinitely bad value for each diverged run.

    Diverged runs can have finite values, such as an accuracy of their last parameters.
    """
    data = runs[variable].astype(float)
    status = runs.get("status")
    if variable in _OF_DIVERGENCE or status is None:
        return data
    if not set(status.dims) <= {*data.dims}:
        return data
    return data.where(status != 1, -np.inf if maximize else np.inf)


def success_of(
    runs: xr.Dataset, variable: str, target: float | None, maximize: bool
) -> xr.DataArray:
    """Returns 1 for each successful run, 0 for others, NaN where there is no value.

    If a target is given, a run is successful if it reaches the target. Otherwise, it is
    successful if it does not diverge.
    """
    if target is None:
        status = runs["status"]
        return (status == 0).where((status == 0) | (status == 1))
    scores = scores_of(runs, variable, maximize)
    reached = scores >= target if maximize else scores <= target
    return reached.where(scores.notnull())


def best_of(
    values: np.ndarray[Any, Any], maximize: bool = False
) -> tuple[int, ...] | None:
    """Returns the position of the best finite value, in the middle of ties."""
    worst = -np.inf if maximize else np.inf
    finite = np.where(np.isfinite(values), values, worst)
    if not np.isfinite(finite).any():
        return None
    ties = np.argwhere(finite == (finite.max() if maximize else finite.min()))
    distance = np.abs(ties - ties.mean(axis=0)).sum(axis=1)
    return tuple(map(int, ties[np.argmin(distance)]))
