"""Converting sweep results to a labeled dataset."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from stabjax._sweep.archive import numpy_dtype
from stabjax._sweep.axes import RESULTS
from stabjax._sweep.plan import Chunk, Plan
from stabjax._sweep.program import CURVE, STATE

NOT_RUN = -1  # status of a trial without a result

_DESCRIPTIONS = {
    "final_loss": {"long_name": "final loss"},
    "best_loss": {"long_name": "best loss"},
    "status": {"long_name": "status (0 stable, 1 diverged, -1 not run)"},
    "diverged_at": {"long_name": "first diverged step", "units": "steps"},
    "mean_loss": {"long_name": "mean loss of all steps"},
    "stopped_at": {"long_name": "updates before early stopping", "units": "steps"},
    "best_at": {"long_name": "updates before the best evaluation", "units": "steps"},
    "target_at": {"long_name": "steps to the target", "units": "steps"},
    "convergence_score": {"long_name": "convergence score"},
    "loss": {"long_name": "loss"},
}

_Array = np.ndarray[Any, Any]


def unfilled(plan: Plan, full: Callable[..., _Array] = np.full) -> dict[str, _Array]:
    """Allocates the variables of all programs, filled with NaN or -1 (integers)."""
    groups = [group.variables for group in plan.groups]
    given = {name for g in groups for name in g if not name.startswith(STATE)}
    results = {}
    for name in [*filter(given.__contains__, RESULTS), *sorted(given - {*RESULTS})]:
        found = [variables[name] for variables in groups if name in variables]
        dtype = np.result_type(*(numpy_dtype(variable.dtype) for variable in found))
        if len(found) < len(groups):
            dtype = np.result_type(dtype, np.float32)
        missing = {"f": np.nan, "i": NOT_RUN}.get(dtype.kind, 0)
        results[name] = full((len(plan.space), *found[0].shape), missing, dtype)
    return results


def labelled(
    plan: Plan, results: Mapping[str, _Array], more: Mapping[str, Any]
) -> xr.Dataset:
    """Returns the results as a dataset, with axis values in the user's order."""
    space, settings = plan.space, plan.settings
    dims = [dimension.name for dimension in space.dimensions]
    coords = {name: _variable(*c, name) for name, c in space.coordinates().items()}
    coords |= _steps(plan)
    along = "step"
    if settings.rungs:
        along, rungs = "rung", np.array(settings.rungs)
        coords["rung"] = _variable("rung", rungs, {}, "rung")
        trained = int(results["trained_steps"].sum()) / (len(space) * settings.steps)
        more = {**more, "share_of_steps": round(trained, 4)}
    holes = results["status"] == NOT_RUN
    variables = {
        name: _variable(
            _dims(name, values, dims, along),
            _shown(values, holes).reshape(*space.shape, *values.shape[1:]),
            {**_DESCRIPTIONS.get(name, {}), **_direction(name, plan)},
        )
        for name, values in results.items()
    }
    found = xr.Dataset(variables, coords, {**_attributes(plan), **more})
    moved = {n: p for n, p in plan.order.items() if (p != np.arange(len(p))).any()}
    return found.isel(moved)


def labelled_chunk(
    plan: Plan, chunk: Chunk, results: Mapping[str, _Array]
) -> xr.Dataset:
    """Returns the results of a chunk as a dataset along the dimension `trial`."""
    rows = plan.space.rows
    coords = {
        axis.name: _variable("trial", axis.labels[rows[axis.name][chunk.trials]], {})
        for axis in plan.space.axes
    }
    coords |= _steps(plan)
    variables = {
        name: _variable(
            _dims(name, values, ["trial"], "step"), values, _direction(name, plan)
        )
        for name, values in results.items()
        if not name.startswith(STATE)
    }
    return xr.Dataset(variables, coords, {"chunk": chunk.number})


def _steps(plan: Plan) -> dict[str, xr.Variable]:
    """Returns the coordinates of what is recorded and evaluated on the way."""
    settings, found = plan.settings, {}
    if settings.record_every is not None:
        found["step"] = np.arange(0, settings.steps, settings.record_every)
    if (every := settings.evaluate_every) is not None:
        found["evaluated_at"] = np.arange(every, settings.steps + 1, every)
    return {name: _variable(name, values, {}, name) for name, values in found.items()}


def _variable(
    dims: str | list[str],
    values: _Array,
    attributes: Mapping[str, str],
    name: str | None = None,
) -> xr.Variable:
    """Returns a variable, which is an index if its name is that of its dimension.

    Before xarray (2025.9 to 2026.9) converts an array, it imports Dask if it is
    installed, which takes 0.3 s. Arrays of numbers need no conversion.
    """
    is_number = values.dtype.kind in "iuf" and values.dtype.itemsize >= 4
    if dims == name and is_number:
        index: Any = xr.IndexVariable
        found: xr.Variable = index(dims, pd.Index(values), {**attributes})
        return found
    ready = values.dtype.kind not in "OMm"  # objects and dates
    return xr.Variable(dims, values, {**attributes}, fastpath=ready)


def _attributes(plan: Plan) -> dict[str, Any]:
    """Returns the settings and versions of a sweep as scalars and strings."""
    widths = sorted({group.width for group in plan.groups})
    settings = plan.settings.as_data()
    # For `rerun`, which uses `vmap`: a chunk of lanes would be too large for it.
    groups = [
        [group.labels, group.width if group.engine == "vmap" else 1, group.shared_seed]
        for group in plan.groups
    ]
    shown = {
        name: ", ".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in settings.items()
        if value is not None and name != "rungs"  # a coordinate
    }
    return {
        **{n: v for n, v in plan.about.items() if isinstance(v, str)},
        **shown,
        "chunk_size": widths[0] if len(widths) == 1 else ", ".join(map(str, widths)),
        "engine": ", ".join(sorted({group.engine for group in plan.groups})),
        "trials": len(plan.space),
        "programs": len(plan.groups),
        "platform": plan.numerics["platform"],
        "jax": plan.numerics["jax"],
        "recipe": json.dumps({"settings": settings, "groups": groups}),  # for `rerun`
    }


def _direction(name: str, plan: Plan) -> dict[str, str]:
    """Returns whether higher or lower values are better, as an attribute."""
    compared = plan.settings.compared_by if name == "rung_loss" else None
    larger = plan.maximizes(compared or name.removeprefix("best_").removesuffix(CURVE))
    return {} if larger is None else {"better": "higher" if larger else "lower"}


def _dims(name: str, values: _Array, dims: list[str], along: str) -> list[str]:
    if values.ndim == 1:
        return dims
    return [*dims, "evaluated_at" if name.endswith(CURVE) else along]


def _shown(values: _Array, holes: _Array) -> _Array:
    """Converts booleans to floats if some values are missing."""
    if values.dtype == bool and holes.any():
        values = values.astype(np.float32)
        values[holes] = np.nan
    return values
