"""Successive halving: all points train a little, the better ones train on."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import jax
import optax
import xarray as xr

from stabjax._sweep.engine import trained
from stabjax._sweep.place import place_of
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Space
from stabjax._train.arguments import check_lengths, positive_int
from stabjax._train.problem import Problem


def successive_halving(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int,
    rungs: int = 4,
    eta: float = 2.0,
    variable: str = "final_loss",
    store: str | os.PathLike[str] | None = None,
    devices: Sequence[jax.Device] | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Trains every point a little, and only the better ones on, up to all the steps.

    With R rungs, the points are compared after steps / eta^(R - 1), ..., steps / eta
    and `steps` updates, by a variable that is small for good ones, averaged over the
    seeds; the best 1 / eta of them train on from where they stood, and those with a
    diverged training never do. The defaults cost about 0.31 of the steps
    of training all to the end. A schedule spans all the steps from the start, so the
    survivors are those that `sweep` would have trained; beware of rates that are slow
    at first and win late.

    Args:
      problem: as in `sweep`.
      make_optimizer: as in `sweep`.
      space: as in `sweep`; a dimension `seed` is averaged over, all else are points.
      steps: number of updates of the trainings that survive to the end.
      rungs: how often points are compared; 1 trains all to the end.
      eta: one in this many goes on at each rung.
      variable: what points are compared by: "final_loss", the loss on the evaluation
        key, or an entry of `problem.evaluate` that is a loss.
      store: as in `sweep`; it also keeps where each run stands, so that the same call
        resumes between any two chunks, to the last bit. Points cannot be added later.
      devices: as in `sweep`.
      executor: as in `sweep`.
      progress: as in `sweep`.

    Returns:
      A dataset over the dimensions of the space. `rung_loss` is that variable at each
      rung, along a dimension `rung` whose coordinate is the number of updates; NaN
      after a point was dropped. `trained_steps` says when that was. `final_loss` and
      what `problem.evaluate` gives are NaN for what was dropped (a final loss is +inf
      where it diverged); `status`, `diverged_at` and `best_loss` speak of the steps
      trained.
      The attribute `share_of_steps` is the cost, in units of training all to the end.

    Raises:
      ValueError, TypeError: as `sweep`, or if `rungs` or `eta` is out of range or
        there is no such variable.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> space = stabjax.grid(rate=np.logspace(-4, 0.5, 10), seed=range(4))
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.successive_halving(problem, make_optimizer, space, steps=80)
      >>> print(runs.trained_steps.sel(seed=0).values)
      [10 10 10 20 20 40 80 80 10 10]
      >>> round(stabjax.runs.best(runs)["rate"], 2)
      0.32

    Source: K. Jamieson and A. Talwalkar, "Non-stochastic best arm identification and
    hyperparameter optimization", 2016; L. Li et al., "Hyperband", 2018.
    """
    check_lengths(steps, None)
    if not positive_int(rungs):
        raise ValueError(f"rungs must be a positive integer, got {rungs!r}.")
    if isinstance(eta, (str, bool)) or not 1 < eta < math.inf:
        raise ValueError(f"eta must be a number above 1, got {eta!r}.")
    settings = Settings(
        int(steps),
        rungs=tuple(sorted({math.ceil(steps / eta**k) for k in range(rungs)})),
        eta=float(eta),
        compared_by=variable,
    )
    place = place_of(store, devices, executor, (0, 1), progress)
    return trained(problem, make_optimizer, space, settings, "auto", place)
