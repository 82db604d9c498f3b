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
from stabjax._sweep.spec import settings_from_json
from stabjax._train.problem import Problem
from stabjax._train.state import TrainResult
from stabjax.runs.points import axes_of


def rerun(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    trial: xr.Dataset,
    *,
    record_every: int | None = 1,
    values: Mapping[str, object] = MappingProxyType({}),
) -> TrainResult:
    """Repeats a single run of a sweep to get its parameters and its learning curve.

    The settings of the sweep are read from the dataset. The run uses the same chunk
    size as in the sweep, because the chunk size affects rounding.

    Args:
      problem: the `problem` argument of the sweep.
      make_optimizer: the `make_optimizer` argument of the sweep.
      trial: the sweep dataset at a single point, such as `runs.sel(rate=0.1, seed=3)`
        or `runs.isel(trial=7)`.
      record_every: records the loss and the metrics as in `train`. None records
        nothing.
      values: a dict of static values, keyed by axis. Needed only for values that are
        not literals, such as functions.

    Returns:
      The `TrainResult` of the run.

    Raises:
      ValueError: If `trial` is not a single point or a static value is missing.

    Example:
      >>> import optax, stabjax
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> problem = stabjax.problems.quadratic()
      >>> space = stabjax.grid(rate=[0.1, 1.5], seed=range(4))
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> trial = runs.sel(rate=1.5, seed=3)
      >>> run = stabjax.runs.rerun(problem, make_optimizer, trial)
      >>> run.loss.shape, int(run.diverged_at) == int(trial.diverged_at)
      ((20,), True)
    """
    space = _point(trial, values)
    recipe = json.loads(trial.attrs["recipe"])
    settings = settings_from_json(recipe["settings"])
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


def _point(trial: xr.Dataset, values: Mapping[str, Any]) -> Space:
    """Returns a space that contains only the given trial."""
    if dims := [str(dim) for dim in trial["status"].dims]:
        raise ValueError(
            f"trial must be one point of a dataset, got one with the dimensions "
            f"{', '.join(dims)}: select it with runs.sel(...) or runs.isel(...)."
        )
    axes = axes_of(trial, values)
    return grid(**axes, seed=[int(trial["seed"]) if "seed" in trial.coords else 0])
