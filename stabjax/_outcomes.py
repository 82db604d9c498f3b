"""What the runs of a dataset came to: which values are better, and which runs succeed.

`runs` and `plot` share these, so that a picture and an answer never disagree.
"""

from typing import Any

import numpy as np
import xarray as xr

# Variables that describe divergence itself, so that a diverged run has a value of them.
_OF_DIVERGENCE = ("status", "diverged_at")


def is_maximized(runs: xr.Dataset, variable: str, maximize: bool | None) -> bool:
    """Returns whether larger values are better; None asks the variable's attributes.

    A sweep sets the attribute `better` to `higher` or `lower` where the problem's
    metadata have it.
    """
    if maximize is None:
        return bool(runs[variable].attrs.get("better") == "higher")
    return maximize


def scores_of(runs: xr.Dataset, variable: str, maximize: bool) -> xr.DataArray:
    """Returns a variable with an infinitely bad value for each diverged run.

    A diverged run still has, for example, the accuracy of its last parameters.
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

    A run succeeds if it does not diverge; or, given a target, if it reaches the target.
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
