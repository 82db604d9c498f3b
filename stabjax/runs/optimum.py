"""Selecting the best hyperparameters."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from stabjax.runs.points import hyperparameters, mean_of


def best(
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
    maximize: bool = False,
) -> dict[str, object]:
    """Returns the hyperparameters with the best mean of a variable over the seeds.

    A point with a diverged run is treated as infinitely bad. Points with missing values
    (NaN) are ignored.

    Args:
      runs: a dataset returned by `sweep` or `successive_halving`, or a subset of it.
      variable: a variable with one value per run, such as a loss, an evaluation or a
        summary.
      over: dimension or dimensions to average over.
      maximize: whether larger values are better, as for an accuracy.

    Returns:
      A dict of keyword arguments for `make_optimizer`, for use as
      `make_optimizer(**best(runs))`. Static values that are not literals, such as
      functions, are represented by their labels.

    Raises:
      ValueError: If the dataset does not have the variable or a dimension, every point
        has a diverged run, or no run is complete.

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
        raise ValueError(f"no run is complete because {variable} is NaN everywhere.")
    mean = mean.fillna(np.inf)
    if np.isinf(mean.min()):
        latest = int(runs["diverged_at"].max())
        raise ValueError(
            f"there is no best point because every point has a diverged run (the last "
            f"one diverged at step {latest})."
        )
    found = hyperparameters(runs.isel(mean.argmin(...) if mean.ndim else {}))
    taken = runs.attrs.get("optimizer_takes")
    if taken is None:
        return found
    return {name: found[name] for name in taken.split(", ") if name in found}
