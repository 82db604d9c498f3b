"""Confidence intervals for the fraction of stable runs."""

from collections.abc import Sequence

import xarray as xr

from stabjax._arguments import check
from stabjax._intervals import wilson
from stabjax._outcomes import is_maximized, success_of
from stabjax.runs.points import check_variable, dimensions


def stable_fraction(
    runs: xr.Dataset,
    over: str | Sequence[str] = "seed",
    *,
    target: float | None = None,
    variable: str = "final_loss",
    maximize: bool | None = None,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Returns the fraction of stable or successful runs and its Wilson interval.

    Let k be the number of stable runs, n the number of runs and z the normal quantile
    for the confidence level. The interval is

        (k + z^2 / 2 +- z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2)

    The interval assumes independent runs, such as runs at the same point with different
    seeds. If `target` is given, k is the number of runs that reach it.

    Args:
      runs: a dataset returned by `sweep`, or a subset of it.
      over: dimension or dimensions over which runs are counted.
      target: value that a successful run must reach. By default, runs that do not
        diverge are successful.
      variable: variable that is compared with `target`.
      maximize: whether larger values are better, as for an accuracy. Defaults to the
        problem's metadata, or False if it is not specified there.
      confidence: confidence level of the interval, in (0, 1). **Static.**

    Returns:
      A dataset with `fraction`, `low` and `high` over the remaining dimensions. Values
      are NaN for missing runs.

    Raises:
      ValueError: If a dimension or the variable does not exist, or `confidence` is out
        of range.

    Example:
      >>> import optax, stabjax
      >>> runs = stabjax.sweep(
      ...     stabjax.problems.quadratic(), lambda rate: optax.sgd(rate),
      ...     stabjax.grid(rate=[0.5, 1.5], seed=range(8)), steps=100,
      ... )
      >>> stable = stabjax.runs.stable_fraction(runs)
      >>> print(stable.low.values.round(2), stable.high.values.round(2))
      [0.68 0.  ] [1.   0.32]

    References:
      E. B. Wilson, "Probable inference, the law of succession, and statistical
      inference", 1927, https://doi.org/10.1080/01621459.1927.10502953.
    """
    check("confidence", confidence, "in (0, 1)")
    larger = False
    if target is not None:
        check_variable(runs, variable)
        larger = is_maximized(runs, variable, maximize)
    success = success_of(runs, variable, target, larger)
    dims = dimensions(success, over)
    count = success.sum(dims)
    size = success.notnull().sum(dims)
    low, high = wilson(count, size, confidence)
    return xr.Dataset(
        {"fraction": count / size.where(size > 0), "low": low, "high": high},
        attrs={"confidence": confidence},
    )
