"""Confidence intervals for the fraction of stable runs."""

from collections.abc import Sequence

import xarray as xr

from stabjax._arguments import check
from stabjax._intervals import wilson
from stabjax.runs.points import dimensions


def stable_fraction(
    runs: xr.Dataset,
    over: str | Sequence[str] = "seed",
    *,
    confidence: float = 0.95,
) -> xr.Dataset:
    """Returns the fraction of stable runs and its Wilson score interval.

    Let k be the number of stable runs, n the number of runs and z the normal quantile
    for the confidence level. The interval is

        (k + z^2 / 2 +- z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2)

    The interval assumes independent runs, such as runs at the same point with different
    seeds.

    Args:
      runs: a dataset returned by `sweep`, or a subset of it.
      over: dimension or dimensions over which runs are counted.
      confidence: confidence level of the interval, in (0, 1). **Static.**

    Returns:
      A dataset with `fraction`, `low` and `high` over the remaining dimensions. Values
      are NaN for missing runs.

    Raises:
      ValueError: If a dimension does not exist or `confidence` is out of range.

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
    status = runs["status"]
    dims = dimensions(status, over)
    stable = (status == 0).sum(dims)
    size = ((status == 0) | (status == 1)).sum(dims)
    low, high = wilson(stable, size, confidence)
    return xr.Dataset(
        {"fraction": stable / size.where(size > 0), "low": low, "high": high},
        attrs={"confidence": confidence},
    )
