"""Results by seed and setting, as arrays, from a dataset of runs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from stabjax._arguments import suggestion
from stabjax._outcomes import is_maximized
from stabjax.runs.points import hyperparameters, losses_of

_Array = np.ndarray[Any, Any]


class Table(NamedTuple):
    """Results along one axis, by seed."""

    values: _Array  # of the axis, in increasing order
    scores: _Array  # (seeds, values); smaller is better, +inf for a diverged run
    at: dict[str, Any]  # the values of the other axes
    sign: float  # times a score is the variable
    dropped: int  # seeds that are excluded because some of their runs are missing


def table_of(
    runs: xr.Dataset, axis: str, variable: str, maximize: bool | None
) -> Table:
    """Returns the results along an axis of numbers, the other axes at the best point.

    Values at which nothing was run are left out, and so are the seeds that miss a run
    at one of the others.
    """
    scores, sign = scores_of(runs, variable, maximize)
    scores = _along(scores, axis)
    others = [d for d in scores.dims if d not in ("seed", axis)]
    point = scores.mean("seed", skipna=False).fillna(np.inf)
    if scores.isnull().any("seed").all():
        raise ValueError(
            f"{axis} has no best value: no point of the runs is complete. Select seeds "
            f"that are complete, such as with runs.dropna('seed')."
        )
    if not np.isfinite(point).any():
        raise ValueError(
            f"{axis} has no best value: no point of the runs has finished without a "
            "diverged run."
        )
    chosen = point.argmin(...)
    here = scores.isel({dim: chosen[dim] for dim in others})
    at = {
        name: value
        for name, value in hyperparameters(here.to_dataset(name="score")).items()
        if name != axis and scores[name].size > 1
    }
    here = here.sortby(axis).transpose("seed", axis)
    table, kept, dropped = complete(here.values)
    values = _numbers(axis, here[axis].values[kept])
    return Table(values, table, at, sign, dropped)


def scores_of(
    runs: xr.Dataset, variable: str, maximize: bool | None
) -> tuple[xr.DataArray, float]:
    """Returns a variable with a dimension `seed`, signed so that smaller is better.

    A diverged run has the score +inf, and one that was not run NaN.
    """
    scores = losses_of(runs, variable, maximize)
    sign = -1.0 if is_maximized(runs, variable, maximize) else 1.0
    if "seed" not in scores.dims:
        scores = scores.drop_vars("seed", errors="ignore").expand_dims("seed")
    return scores, sign


def complete(scores: _Array) -> tuple[_Array, _Array, int]:
    """Returns the scores (seeds, points) without what was not run.

    Also which points are kept, and the number of seeds that are left out.
    """
    kept = ~np.isnan(scores).all(axis=0)
    whole = ~np.isnan(scores[:, kept]).any(axis=1)
    if not kept.any() or not whole.any():
        raise ValueError(
            "runs must contain a seed with all of its runs. Finish the sweep, or "
            "select complete points."
        )
    return scores[whole][:, kept], np.flatnonzero(kept), int((~whole).sum())


def seeds_left_out(dropped: int) -> tuple[str, ...]:
    """Returns the caveat about seeds that are not complete."""
    if not dropped:
        return ()
    return (f"seeds excluded because some of their runs are missing: {dropped}.",)


def _along(scores: xr.DataArray, axis: str) -> xr.DataArray:
    """Returns the scores with the axis as a dimension."""
    if axis in scores.dims:
        return scores
    if axis in scores.coords and scores[axis].dims == ("trial",):
        along = [
            str(name)
            for name, coordinate in scores.coords.items()
            if coordinate.dims == ("trial",) and name != "trial"
        ]
        if along == [axis]:
            return scores.swap_dims(trial=axis)
        raise ValueError(
            f"axis must be a dimension of a grid, got {axis!r}, which varies together "
            f"with {', '.join(name for name in along if name != axis)}."
        )
    raise unknown_axis(axis, [str(dim) for dim in scores.dims if dim != "seed"])


def unknown_axis(axis: str, known: Sequence[str]) -> ValueError:
    """Returns an error that suggests a name."""
    hint = suggestion(axis, known)
    return ValueError(f"axis must be one of {', '.join(known)}, got {axis!r}.{hint}")


def _numbers(axis: str, values: _Array) -> _Array:
    if values.dtype.kind not in "iuf":
        raise ValueError(
            f"axis must contain numbers, got {axis!r} with {values[0].item()!r}. Use "
            "stabjax.runs.compare."
        )
    return values.astype(float)
