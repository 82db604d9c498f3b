"""The best point of a dataset of runs."""

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

    A diverged run counts as infinitely bad, whatever its value, and so does a mean that
    includes one. Points that did not run to the end (NaN) are left out.

    Args:
      runs: the dataset of `sweep` or `successive_halving`, or a part of it.
      variable: a variable with one value for each run: a loss, an evaluation, a
        summary.
      over: the dimension or dimensions to average over.
      maximize: whether larger values are better, as for an accuracy.

    Returns:
      The values of the axes that the sweep's `make_optimizer` takes, by name, as Python
      objects: `make_optimizer(**best(runs))`. A static value that is not a literal,
      such as a function, is represented by its label.

    Raises:
      ValueError: the dataset lacks the variable or a dimension, every point has a
        diverged run, or nothing ran to the end.

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
        raise ValueError(f"no point ran to the end: {variable} is NaN everywhere.")
    mean = mean.fillna(np.inf)
    if np.isinf(mean.min()):
        latest = int(runs["diverged_at"].max())
        raise ValueError(
            f"no point is the best: every point has a run that diverged (the last of "
            f"them at step {latest})."
        )
    found = hyperparameters(runs.isel(mean.argmin(...) if mean.ndim else {}))
    taken = runs.attrs.get("optimizer_takes")
    if taken is None:
        return found
    return {name: found[name] for name in taken.split(", ") if name in found}
