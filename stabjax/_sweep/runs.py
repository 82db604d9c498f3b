"""What a dataset of trainings says: the best point, and how many of its runs held."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from stabjax._intervals import wilson
from stabjax._sweep.axes import axis_like

NO_HYPERPARAMETERS = ("seed", "step", "trial", "rung")


def best(
    runs: xr.Dataset,
    variable: str = "final_loss",
    *,
    over: str | Sequence[str] = "seed",
    largest: bool = False,
) -> dict[str, Any]:
    """The hyperparameters with the best mean of a variable over the seeds.

    A diverged training counts as infinitely bad, whatever the variable says of it, and
    so does the mean it takes part in. Points that were not run to the end, NaN in the
    dataset, are left out.

    Args:
      runs: what `sweep` or `successive_halving` returns, or a part of it.
      variable: one with a value for each training: a loss, an evaluation, a summary.
      over: the dimension, or dimensions, to take the mean over.
      largest: looks for the largest mean, of an accuracy for instance.

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
      >>> stabjax.best(runs)
      {'rate': 0.4, 'decay': 0.0}
    """
    mean = mean_of(runs, variable, over, largest)
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


def stable_fraction(
    runs: xr.Dataset,
    over: str | Sequence[str] = "seed",
    *,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Share of the trainings that did not diverge, with Wilson's interval.

    For k of n trainings, with z the normal quantile of the confidence, the interval is
    (k + z^2 / 2 +- z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2). It is one for
    trainings drawn independently, as those of different seeds at one point are.

    Args:
      runs: what `sweep` returns, or a part of it.
      over: the dimension, or dimensions, whose trainings are counted together.
      confidence: of the interval, between 0 and 1.

    Returns:
      A dataset with `fraction`, `low` and `high` over the other dimensions; NaN where
      nothing was run.

    Raises:
      ValueError: if there is no such dimension, or `confidence` is out of range.

    Example:
      >>> import optax, stabjax
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(), lambda rate: optax.sgd(rate),
      ...     stabjax.grid(rate=[0.5, 1.5], seed=range(8)), steps=100,
      ... )
      >>> stable = stabjax.stable_fraction(runs)
      >>> print(stable.low.values.round(2), stable.high.values.round(2))
      [0.68 0.  ] [1.   0.32]

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", 1927.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}.")
    status = runs["status"]
    dims = _dimensions(status, over)
    held = (status == 0).sum(dims)
    size = ((status == 0) | (status == 1)).sum(dims)
    low, high = wilson(held, size, confidence)
    return xr.Dataset(
        {"fraction": held / size.where(size > 0), "low": low, "high": high},
        attrs={"confidence": confidence},
    )


def hyperparameters(point: xr.Dataset) -> dict[str, Any]:
    """The swept values of one point, as Python objects."""
    return {
        str(name): values_of(coordinate)[0]
        for name, coordinate in point.coords.items()
        if name not in NO_HYPERPARAMETERS and not coordinate.dims
    }


def values_of(coordinate: xr.DataArray) -> list[Any]:
    """What labels stand for, as far as the dataset can say."""
    labels: list[Any] = np.atleast_1d(coordinate.values).tolist()
    if not (text := coordinate.attrs.get("static")):
        return labels
    return list(axis_like(str(coordinate.name), labels, text).values)


def mean_of(
    runs: xr.Dataset, variable: str, over: str | Sequence[str], largest: bool
) -> xr.DataArray:
    """The mean, negative where the largest is the best; +inf where a run diverged."""
    values = _values(runs, variable).astype(float)
    values = (-values if largest else values).where(runs["status"] != 1, np.inf)
    return values.mean(_dimensions(values, over), skipna=False)


def _values(runs: xr.Dataset, variable: str) -> xr.DataArray:
    trials = runs["status"].dims
    known = [str(n) for n, v in runs.data_vars.items() if set(v.dims) <= set(trials)]
    if variable not in known:
        raise ValueError(
            f"variable must be one with a value for each training "
            f"({', '.join(known)}), got {variable!r}."
        )
    return runs[variable]


def _dimensions(values: xr.DataArray, over: str | Sequence[str]) -> list[str]:
    """Those to reduce; a dataset without the dimension `seed` has one seed."""
    names = [over] if isinstance(over, str) else list(over)
    for name in names:
        if name not in values.dims and name != "seed":
            known = ", ".join(map(str, values.dims))
            raise ValueError(f"there is no dimension {name!r}, only {known}.")
    return [name for name in names if name in values.dims]
