"""One point of a sweep on seeds that did not choose it."""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import optax
import xarray as xr

from stabjax._arguments import as_integer
from stabjax._sweep.engine import sweep
from stabjax._sweep.space import grid
from stabjax._sweep.spec import settings_from_json
from stabjax._train.problem import Problem
from stabjax.runs.points import axes_of


def retest(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    point: xr.Dataset,
    *,
    seeds: int = 8,
    values: Mapping[str, object] = MappingProxyType({}),
) -> xr.Dataset:
    """Trains one point of a sweep on fresh seeds, which had no part in its choice.

    The best of many points owes some of its value to the luck of its seeds, so that
    value is too good. Fresh seeds give an unbiased one. The settings of the sweep are
    in the dataset.

    Args:
      problem: as in the call of `sweep`.
      make_optimizer: as in the call of `sweep`.
      point: the dataset of the sweep at one point and all its seeds:
        `runs.isel(best(runs).positions)`.
      seeds: number of fresh seeds, >= 1, which follow the largest of `point`.
        **Static.**
      values: static values by name of axis, for values that are not literals, such as
        functions.

    Returns:
      A dataset as `sweep` returns it, at this point and these seeds. `best` gives its
      value with an interval.

    Raises:
      ValueError: `point` is more than one point, `seeds` is out of range, or a static
        value is missing.

    Example:
      >>> import optax, stabjax
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> problem = stabjax.problems.quadratic(noise=1.0)
      >>> space = stabjax.grid(rate=[0.05, 0.1, 0.2], seed=range(4))
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> winner = runs.isel(stabjax.runs.best(runs).positions)
      >>> fresh = stabjax.runs.retest(problem, make_optimizer, winner, seeds=16)
      >>> fresh.seed.values.tolist() == [*range(4, 20)]
      True
    """
    number = as_integer("seeds", seeds)
    dims = [str(dim) for dim in point["status"].dims if dim != "seed"]
    if dims:
        raise ValueError(
            f"point must be one point of a dataset, got one with the dimensions "
            f"{', '.join(dims)}. Select it with runs.isel(best.positions)."
        )
    used = point["seed"].to_numpy() if "seed" in point.coords else np.zeros(1, int)
    first = int(used.max()) + 1
    space = grid(**axes_of(point, values), seed=range(first, first + number))
    settings = settings_from_json(json.loads(point.attrs["recipe"])["settings"])
    return sweep(
        problem,
        make_optimizer,
        space,
        steps=settings.steps,
        divergence_factor=settings.divergence_factor,
        summaries=settings.summaries,
        target_loss=settings.target_loss,
        evaluations=settings.evaluations,
        progress=False,
    )
