"""The best point of a dataset of runs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax.runs.points import hyperparameters, mean_of


def best(
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
    maximize: bool = False,
) -> dict[str, Any]:
    """The hyperparameters with the best mean of a variable over the seeds.

    A diverged training counts as infinitely bad, whatever the variable says of it, and
    so does the mean it takes part in. Points that were not run to the end, NaN in the
    dataset, are left out.

    Args:
      runs: what `sweep` or `successive_halving` returns, or a part of it.
      variable: one with a value for each training: a loss, an evaluation, a summary.
      over: the dimension, or dimensions, to take the mean over.
      maximize: looks for the maximize mean, of an accuracy for instance.

    Returns:
      The values that go to the sweep's `make_optimizer`, by name, as Python objects:
      `make_optimizer(**best(runs))`. A static value that Python cannot read back, such
      as a function, is given as its label.

    Raises:
      ValueError: if the dataset lacks the variable or a dimension, all that was run
        diverged, or nothing was run.

    Example:
      >>> import optax, stabjax
      >>> def make_optimizer(rate, decay):
      ...     return optax.sgd(rate, momentum=decay)
      >>> space = stabjax.grid(rate=[0.1, 0.4, 1.5], decay=[0.0, 0.9], seed=range(4))
      >>> problem = stabjax.problems.quadratic()
      >>> runs = stabjax.sweep(problem, make_optimizer, space, steps=20)
      >>> stabjax.runs.best(runs)
      {'rate': 0.4, 'decay': 0.0}
    """
    mean = mean_of(runs, variable, over, maximize)
    if mean.isnull().all():
        raise ValueError(f"no point was run to the end: {variable} is NaN everywhere.")
    mean = mean.fillna(np.inf)
    if np.isinf(mean.min()):
        lasted = int(runs["diverged_at"].max())
        raise ValueError(
            f"no point is the best: a training of each of them diverged (the one that "
            f"lasted longest did so at step {lasted})."
        )
    found = hyperparameters(runs.isel(mean.argmin(...) if mean.ndim else {}))
    taken = runs.attrs.get("optimizer_takes")
    if taken is None:
        return found
    return {name: found[name] for name in taken.split(", ") if name in found}
