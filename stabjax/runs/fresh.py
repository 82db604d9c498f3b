"""Training a selected point again with fresh seeds."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import optax
import xarray as xr

from stabjax._arguments import as_integer
from stabjax._sweep.engine import sweep
from stabjax._sweep.space import grid
from stabjax._train.problem import Problem
from stabjax.runs.points import axes_of, settings_of


def retest(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    point: xr.Dataset,
    *,
    seeds: int = 8,
    values: Mapping[str, object] = MappingProxyType({}),
) -> xr.Dataset:
    """Trains one point of a sweep again with fresh seeds.

    The best of many points was also selected for its lucky seeds, so its value is
    biased. Seeds that were not used for the selection give an unbiased value. All
    settings are taken from the dataset.

    Args:
      problem: the argument of `sweep`.
      make_optimizer: the argument of `sweep`.
      point: the dataset at a single point with all its seeds, such as
        `runs.isel(best(runs).positions)`.
      seeds: number of fresh seeds, >= 1. They start after the largest seed of `point`.
        **Static.**
      values: values by axis name, for static values that are not literals, such as
        functions. A function that was passed as `stop` is `values["stop"]`.

    Returns:
      A dataset like that of `sweep` at this point, with the fresh seeds.

    Raises:
      ValueError: If `point` contains several points, `seeds` is out of range, or a
        static value is missing.

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
            f"point must be a single point of a dataset, got the dimensions "
            f"{', '.join(dims)}. Select it with runs.isel(best.positions)."
        )
    used = point["seed"].to_numpy() if "seed" in point.coords else np.zeros(1, int)
    first = int(used.max()) + 1
    settings, values = settings_of(point, values)
    space = grid(**axes_of(point, values), seed=range(first, first + number))
    return sweep(
        problem,
        make_optimizer,
        space,
        steps=settings.steps,
        divergence_factor=settings.divergence_factor,
        summaries=settings.summaries,
        target_loss=settings.target_loss,
        evaluations=settings.evaluations,
        evaluate_every=settings.evaluate_every,
        stop=settings.rule(),
        progress=False,
    )
