"""How many runs of a dataset are stable."""

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
    """Returns the fraction of stable runs, with Wilson's interval.

    For k stable runs of n, with z the normal quantile of the confidence, the interval
    is

        (k + z^2 / 2 +- z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2)

    It assumes independent runs, such as those of different seeds at one point.

    Args:
      runs: the dataset of `sweep`, or a part of it.
      over: the dimension or dimensions over which runs are counted.
      confidence: confidence of the interval, in (0, 1).

    Returns:
      A dataset with `fraction`, `low` and `high` over the other dimensions; NaN where
      nothing was run.

    Raises:
      ValueError: there is no such dimension, or `confidence` is out of range.

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
