"""Repeating a single run of a sweep."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import optax
import xarray as xr

from stabjax._sweep.compiler import no_mesh
from stabjax._sweep.factories import route
from stabjax._sweep.planning import labels_of
from stabjax._sweep.program import Inputs, Program
from stabjax._sweep.space import Space, grid
from stabjax._train.problem import Problem
from stabjax._train.state import TrainResult
from stabjax.runs.points import axes_of, settings_of, values_of


def rerun(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    runs: xr.Dataset,
    point: Mapping[str, object] | None = None,
    *,
    record_every: int | None = 1,
    values: Mapping[str, object] = MappingProxyType({}),
) -> TrainResult:
    """Repeats a single run of a sweep to get its parameters and its learning curve.

    The settings of the sweep are read from the dataset. The run uses the same chunk
    size as in the sweep, because the chunk size affects rounding. It uses `vmap`, whose
    rounding differs from a sweep with the attribute `engine="lanes"`. It uses one
    device, whose rounding differs for convolutional networks on several CPU devices.

    Args:
      problem: the `problem` argument of the sweep.
      make_optimizer: the `make_optimizer` argument of the sweep.
      runs: the sweep dataset, or the dataset at a single point, such as
        `runs.sel(rate=0.1, seed=3)` or `runs.isel(trial=7)`.
      point: the values of the axes at the point, such as `runs.best(...).point`. If
        there is no `"seed"`, the first seed is used. Not needed for a dataset at a
        single point.
      record_every: records the loss and the metrics as in `train`. By default, nothing
        is recorded.
      values: a dict of static values, keyed by axis. Needed only for values that are
        not literals, such as functions. A function that was passed as `stop` is
        `values["stop"]`.

    Returns:
      The `TrainResult` of the run.

    Raises:
      ValueError: If `runs` and `point` are not a single point or a static value is
        missing.

    Example:
      >>> import optax, stabjax
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> problem = stabjax.problems.quadratic()
      >>> space = stabjax.grid(rate=[0.1, 1.5], seed=range(4))
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> point = {"rate": 1.5, "seed": 3}
      >>> run = stabjax.runs.rerun(problem, make_optimizer, runs, point)
      >>> run.loss.shape, int(run.diverged_at) == int(runs.diverged_at.sel(point))
      ((20,), True)
    """
    trial = runs if point is None else _selected(runs, point)
    settings, values = settings_of(trial, values)
    space = _point(trial, values)
    recipe = json.loads(trial.attrs["recipe"])
    settings = settings._replace(record_every=record_every)
    factories = route(problem, make_optimizer, [axis.name for axis in space.axes])
    ((statics, _),) = space.groups()
    labels = labels_of(space, 0)
    ((width, shared),) = (
        (width, shared) for known, width, shared in recipe["groups"] if known == labels
    )
    numbers = space.numbers()
    dtypes = {name: values.dtype for name, values in numbers.items()}
    program = Program(factories, statics, dtypes, settings)
    lanes = {name: np.repeat(values, width) for name, values in numbers.items()}
    given: Inputs = {"seed": space.seeds[0]}, lanes
    if not shared:
        given = {}, {**lanes, "seed": np.repeat(space.seeds, width)}
    with no_mesh():
        return program.results(*given)


def _selected(runs: xr.Dataset, point: Mapping[str, object]) -> xr.Dataset:
    """Returns the first run whose axes have the values of a point."""
    dims = [str(dim) for dim in runs["status"].dims]
    matches = {dim: np.ones(runs.sizes[dim], bool) for dim in dims}
    known = [str(name) for name, c in runs.coords.items() if {*c.dims} <= {*dims}]
    unset = {dim for dim in dims if runs.sizes[dim] > 1 and dim != "seed"}
    for name, value in point.items():
        if name not in known:
            raise ValueError(
                f"point must contain axes of the sweep ({', '.join(known)}), got "
                f"{name!r}."
            )
        for dim in map(str, runs[name].dims):
            matches[dim] &= _equal(runs[name], value)
            unset.discard(dim)
            if not matches[dim].any():
                raise ValueError(
                    f"point must be a point of the sweep, got {name}={value!r}, which "
                    f"does not match any run."
                )
    if unset:
        raise ValueError(
            f"point must also contain values for {', '.join(sorted(unset))}, got "
            f"{dict(point)!r}."
        )
    return runs.isel({dim: int(mask.argmax()) for dim, mask in matches.items()})


def _equal(axis: xr.DataArray, value: Any) -> np.ndarray[Any, Any]:
    """Returns a mask of where an axis equals a value up to float32 rounding."""
    labels = axis.values
    if labels.dtype.kind in "fiu" and isinstance(value, int | float | np.number):
        return np.asarray(np.isclose(labels, value, rtol=1e-6, atol=0.0))
    found = [label == value or str(label) == str(value) for label in values_of(axis)]
    return np.asarray(found)


def _point(trial: xr.Dataset, values: Mapping[str, Any]) -> Space:
    """Returns a space that contains only the given trial."""
    if dims := [str(dim) for dim in trial["status"].dims]:
        raise ValueError(
            f"runs must be one point of a dataset, got one with the dimensions "
            f"{', '.join(dims)}. Select it with runs.sel(...) or runs.isel(...), or "
            f"pass a point."
        )
    axes = axes_of(trial, values)
    return grid(**axes, seed=[int(trial["seed"]) if "seed" in trial.coords else 0])
