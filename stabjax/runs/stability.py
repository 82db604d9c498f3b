"""How many runs of a dataset are stable."""

from collections.abc import Sequence

import xarray as xr

from stabjax._intervals import wilson
from stabjax.runs.points import dimensions


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
      >>> stable = stabjax.runs.stable_fraction(runs)
      >>> print(stable.low.values.round(2), stable.high.values.round(2))
      [0.68 0.  ] [1.   0.32]

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", 1927.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}.")
    status = runs["status"]
    dims = dimensions(status, over)
    held = (status == 0).sum(dims)
    size = ((status == 0) | (status == 1)).sum(dims)
    low, high = wilson(held, size, confidence)
    return xr.Dataset(
        {"fraction": held / size.where(size > 0), "low": low, "high": high},
        attrs={"confidence": confidence},
    )
