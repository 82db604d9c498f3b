"""Successive halving, implemented as a sweep in stages."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import jax
import optax
import xarray as xr

from stabjax._arguments import as_integer, check
from stabjax._sweep.engine import trained
from stabjax._sweep.first_problem import first_problem
from stabjax._sweep.place import place_of
from stabjax._sweep.sanity import warn_about
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Space
from stabjax._train.arguments import steps_of, steps_per_epoch
from stabjax._train.problem import Problem


def successive_halving(
    problem: Problem | Callable[..., Problem],
    make_optimizer: Callable[..., optax.GradientTransformation],
    space: Space,
    *,
    steps: int | None = None,
    epochs: int | None = None,
    rungs: int = 4,
    eta: float = 2.0,
    variable: str = "final_loss",
    store: str | os.PathLike[str] | None = None,
    devices: Sequence[jax.Device] | None = None,
    executor: Executor | None = None,
    accept_versions: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Searches a space by successive halving, which stops unpromising points early.

    Let R be the number of rungs. Points are compared after `steps / eta**(R - 1)`, ...,
    `steps / eta` and `steps` updates by the mean of `variable` over their seeds. The
    best 1 / eta of the points continue training, and points with a diverged run are
    dropped. With the default settings, the search takes about 31% of the training steps
    of a full sweep. Schedules always span all steps, so the surviving runs equal those
    of `sweep`. The search can miss low learning rates that win only late in training.

    Args:
      problem: as in `sweep`.
      make_optimizer: as in `sweep`.
      space: as in `sweep`. Results are averaged over the dimension `seed`, if present.
      steps: number of updates in the runs that survive all rungs, >= 1. **Static.**
      epochs: number of passes over the data, >= 1, instead of `steps`, as in `sweep`.
        The rungs are then also whole epochs, rounded up. **Static.**
      rungs: number of comparisons, >= 1. If 1, all points train for all steps.
        **Static.**
      eta: one in `eta` points survives a rung, in (1, inf). **Static.**
      variable: name of the variable to compare. Either `"final_loss"`, the loss
        computed with the evaluation key, or an entry of `problem.evaluate`. Larger
        values are better for names that end in `accuracy` and for entries listed in
        `metadata["maximize"]`, and smaller values for all others.
      store: as in `sweep`. The store also contains the state of every run. After an
        interruption, the same call resumes with bitwise identical results. Points
        cannot be added later.
      devices: as in `sweep`.
      executor: as in `sweep`.
      accept_versions: as in `sweep`.
      progress: as in `sweep`.

    Returns:
      A dataset with the dimensions of the space. `rung_loss` is the compared variable
      at each rung, or NaN after a point was dropped. The coordinate of its dimension
      `rung` is the number of updates. `trained_steps` is the number of updates of each
      run. For dropped points, `final_loss` is NaN, or +inf if the run diverged, and the
      entries of `problem.evaluate` are NaN. `status`, `diverged_at` and `best_loss`
      describe the completed steps. The attribute `share_of_steps` is the fraction of
      the training steps of a full sweep.

    Raises:
      ValueError, TypeError: If `rungs` or `eta` is out of range, if `variable` does not
        exist, or for the reasons listed in `sweep`.

    Example:
      >>> import numpy as np, optax, stabjax
      >>> def make_optimizer(rate):
      ...     return optax.sgd(rate)
      >>> space = stabjax.grid(rate=np.logspace(-4, 0.5, 10), seed=range(4))
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.successive_halving(problem, make_optimizer, space, steps=80)
      >>> print(runs.trained_steps.sel(seed=0).values)
      [10 10 10 20 20 40 80 80 10 10]
      >>> round(stabjax.runs.best(runs).point["rate"], 2)
      0.32

    References:
      K. Jamieson and A. Talwalkar, "Non-stochastic best arm identification and
      hyperparameter optimization", 2016, https://arxiv.org/abs/1502.07943.
      L. Li et al., "Hyperband", 2018, https://arxiv.org/abs/1603.06560.
    """
    model = None if epochs is None else first_problem(problem, make_optimizer, space)
    steps = steps_of(model, steps, epochs)
    unit = 1 if epochs is None else steps_per_epoch(model)
    rungs = as_integer("rungs", rungs)
    check("eta", eta, "in (1, inf)")
    ends = {unit * math.ceil(steps / unit / eta**k) for k in range(rungs)}
    settings = Settings(
        steps,
        rungs=tuple(sorted(ends)),
        eta=float(eta),
        compared_by=variable,
    )
    if isinstance(space, Space):
        warn_about(space, steps)
    place = place_of(store, devices, executor, (0, 1), progress, accept_versions)
    return trained(problem, make_optimizer, space, settings, "auto", place)
