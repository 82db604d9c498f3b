"""How many runs of a dataset are stable."""

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
    """Returns the fraction of stable runs, or of those that reach a target.

    For k such runs of n, the interval is Wilson's:

        (k + z^2 / 2 +- z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2)

    where z is the normal quantile of the confidence. It assumes independent runs, such
    as those of different seeds at one point.

    Args:
      runs: the dataset of `sweep`, or a part of it.
      over: the dimension or dimensions over which runs are counted.
      target: counts the runs whose variable is at least as good as this value, instead
        of those that did not diverge.
      variable: what the target is a value of.
      maximize: whether larger values are better, as for an accuracy. None asks the
        problem's metadata, and otherwise smaller ones are.
      confidence: confidence of the interval, in (0, 1).

    Returns:
      A dataset with `fraction`, `low` and `high` over the other dimensions; NaN where
      nothing was run.

    Raises:
      ValueError: there is no such dimension or variable, or `confidence` is out of
        range.

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
