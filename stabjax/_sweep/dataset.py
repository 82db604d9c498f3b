"""The labelled result: what every trial gave, along the dimensions of the space."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from stabjax._sweep.axes import RESULTS
from stabjax._sweep.spec import Spec

NOT_RUN = -1  # the status of a trial that has no result yet

_DESCRIPTIONS = {
    "final_loss": {"long_name": "final loss"},
    "best_loss": {"long_name": "best loss"},
    "status": {"long_name": "status (0 held, 1 diverged, -1 not run)"},
    "diverged_at": {"long_name": "first diverged step", "units": "steps"},
    "mean_loss": {"long_name": "mean loss of all steps"},
    "target_at": {"long_name": "steps to the target", "units": "steps"},
    "convergence_score": {"long_name": "convergence score"},
    "loss": {"long_name": "loss"},
}

_Array = np.ndarray[Any, Any]
_Variables = Mapping[str, jax.ShapeDtypeStruct]


def unfilled(
    groups: Collection[_Variables],
    size: int,
    full: Callable[..., _Array] = np.full,
) -> dict[str, _Array]:
    """Arrays for the variables of all groups: NaN, or -1 in those of integers."""
    given = {name for variables in groups for name in variables}
    results = {}
    for name in [*filter(given.__contains__, RESULTS), *sorted(given - {*RESULTS})]:
        found = [variables[name] for variables in groups if name in variables]
        dtype = np.result_type(*(numpy_dtype(variable.dtype) for variable in found))
        if len(found) < len(groups):
            dtype = np.result_type(dtype, np.float32)
        missing = {"f": np.nan, "i": NOT_RUN}.get(dtype.kind, 0)
        results[name] = full((size, *found[0].shape), missing, dtype)
    return results


def numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """The type itself, or float32 for the short floats that NumPy lacks."""
    if jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).kind != "f":
        return np.dtype(np.float32)
    known: np.dtype[Any] = np.dtype(dtype)
    return known


def labelled(
    spec: Spec, results: Mapping[str, _Array], more: Mapping[str, Any]
) -> xr.Dataset:
    """Names the dimensions of what the trials gave, in the user's order."""
    space, _, order = spec.layout
    dims = [dimension.name for dimension in space.dimensions]
    coords: dict[str, Any] = {**space.coordinates()}
    if spec.settings.record_every is not None:
        steps = np.arange(0, spec.settings.steps, spec.settings.record_every)
        coords["step"] = steps
    holes = results["status"] == NOT_RUN
    variables = {
        name: (
            [*dims, "step"] if values.ndim > 1 else dims,
            _shown(values, holes).reshape(*space.shape, *values.shape[1:]),
            _DESCRIPTIONS.get(name, {}),
        )
        for name, values in results.items()
    }
    found = xr.Dataset(variables, coords, {**_attributes(spec), **more})
    moved = {n: p for n, p in order.items() if (p != np.arange(len(p))).any()}
    return found.isel(moved)


def _attributes(spec: Spec) -> dict[str, Any]:
    """What was done and with what: scalars and text."""
    widths = sorted({group.width for group in spec.groups})
    settings = {
        name: ", ".join(value) if isinstance(value, tuple) else value
        for name, value in spec.settings._asdict().items()
        if value is not None
    }
    return {
        **{n: v for n, v in spec.about.items() if isinstance(v, str)},
        **settings,
        "chunk_size": widths[0] if len(widths) == 1 else ", ".join(map(str, widths)),
        "shared_seed": int(all(group.shared_seed for group in spec.groups)),
        "trials": len(spec.layout.space),
        "programs": len(spec.groups),
        "platform": spec.numerics["platform"],
        "jax": spec.numerics["jax"],
    }


def _shown(values: _Array, holes: _Array) -> _Array:
    """The values, with NaN for a yes or no that is not known."""
    if values.dtype == bool and holes.any():
        values = values.astype(np.float32)
        values[holes] = np.nan
    return values
