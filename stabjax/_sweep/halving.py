"""Successive halving: all points train a little, the better ones further."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor

import jax
import optax
import xarray as xr

from stabjax._arguments import as_integer, check
from stabjax._sweep.engine import trained
from stabjax._sweep.place import place_of
from stabjax._sweep.sanity import warn_about
from stabjax._sweep.settings import Settings
from stabjax._sweep.space import Space
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
    accept_versions: bool = False,
    progress: bool = True,
) -> xr.Dataset:
    """Trains every point a little, and only the better ones further, up to all steps.

    With R rungs, points are compared after `steps / eta**(R - 1)`, ..., `steps / eta`
    and `steps` updates, by the mean over their seeds of a variable. The best 1 / eta of
    them resume from where they are; points with a diverged run are dropped. With the
    defaults this costs about 0.31 of training all points to the end. Schedules span all
    steps from the start, so the survivors are the runs of `sweep`. Learning rates that
    are slow at first and win late are lost.

    Args:
      problem: as in `sweep`.
      make_optimizer: as in `sweep`.
      space: as in `sweep`; a dimension `seed` is averaged over.
      steps: number of updates of the runs that survive to the end, >= 1.
      rungs: number of comparisons, >= 1; 1 trains all points to the end.
      eta: one point in `eta` survives a rung, in (1, inf).
      variable: the variable by which points are compared, smaller is better:
        `"final_loss"`, the loss on the evaluation key, or an entry of
        `problem.evaluate`.
      store: as in `sweep`. It also holds the state of every run, so that the same call
        resumes after any chunk with the same bits. Points cannot be added later.
      devices: as in `sweep`.
      executor: as in `sweep`.
      accept_versions: as in `sweep`.
      progress: as in `sweep`.

    Returns:
      A dataset over the dimensions of the space. `rung_loss` is the variable at each
      rung, along a dimension `rung` whose coordinate is the number of updates; NaN
      after a point was dropped. `trained_steps` is the number of updates of each run.
      `final_loss` and the entries of `problem.evaluate` are NaN for dropped points (a
      final loss is +inf if the run diverged). `status`, `diverged_at` and `best_loss`
      refer to the steps that were trained. The attribute `share_of_steps` is the cost
      relative to training all points to the end.

    Raises:
      ValueError, TypeError: as in `sweep`; or `rungs` or `eta` is out of range, or the
        variable does not exist.

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

    References:
      K. Jamieson and A. Talwalkar, "Non-stochastic best arm identification and
      hyperparameter optimization", 2016, https://arxiv.org/abs/1502.07943.
      L. Li et al., "Hyperband", 2018, https://arxiv.org/abs/1603.06560.
    """
    steps = as_integer("steps", steps)
    rungs = as_integer("rungs", rungs)
    check("eta", eta, "in (1, inf)")
    settings = Settings(
        steps,
        rungs=tuple(sorted({math.ceil(steps / eta**k) for k in range(rungs)})),
        eta=float(eta),
        compared_by=variable,
    )
    if isinstance(space, Space):
        warn_about(space, steps)
    place = place_of(store, devices, executor, (0, 1), progress, accept_versions)
    return trained(problem, make_optimizer, space, settings, "auto", place)
