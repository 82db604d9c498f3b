"""Intervals of fractions, means and decades of learning rates."""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

LEAST_SHARE = 0.5  # of the runs must be stable at a rate that counts as stable
_RESAMPLES = 1000

_Array = np.ndarray[Any, Any]


class Interval(NamedTuple):
    """A value with its confidence interval.

    Attributes:
      value: the estimate.
      low: the lower end of the interval; NaN where a single run gives none.
      high: the upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Returns the value with its interval in brackets."""
        if np.isnan(self.low):
            return f"{self.value:.4g}"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def wilson(count: Any, size: Any, confidence: float = 0.95) -> tuple[Any, Any]:
    """Returns the ends of Wilson's interval for `count` of `size`; NaN if `size` is 0.

    Numbers or arrays; `stable_fraction` has the formula.
    """
    n = np.where(size > 0, size, np.nan)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z / 2

    def low(k: Any) -> Any:  # exactly 0 if k is
        spread = z * np.sqrt(k * (n - k) / n + half * half)
        return (k + z * half - spread) / (n + z * z)

    return low(count), 1 - low(size - count)


def half_width(values: _Array, confidence: float = 0.95) -> _Array:
    """Returns half the width of Student's interval of the mean along the last axis.

    It is NaN for a single value, or where a value is not finite.
    """
    number = values.shape[-1]
    if number < 2:
        return np.full(values.shape[:-1], np.nan)
    from scipy.special import stdtrit

    with np.errstate(invalid="ignore"):  # infinite values
        error = values.std(axis=-1, ddof=1) / np.sqrt(number)
    found: _Array = stdtrit(number - 1, 0.5 + confidence / 2) * error
    return found


def decades_that_train(
    success: _Array, rates: Any, confidence: float = 0.95
) -> Interval:
    """Returns how many decades of rates train, with its bootstrap interval over seeds.

    A rate trains if at least half of the runs succeed. The seeds are resampled whole,
    as runs of one seed at many rates are not independent.

    Args:
      success: 1, 0 or NaN (not run) for each rate, seed and further run.
      rates: the learning rates, increasing.
      confidence: confidence of the interval, in (0, 1).
    """
    count = np.nansum(success, axis=-1)
    size = (~np.isnan(success)).sum(axis=-1)

    def width(weights: _Array) -> _Array:  # one number of draws for each seed
        fraction = weights @ count.T / np.maximum(weights @ size.T, 1)
        found: _Array = (fraction >= LEAST_SHARE) @ decades(rates)
        return found

    seeds = success.shape[1]
    value = float(width(np.ones(seeds)))
    if seeds < 2:
        return Interval(value, np.nan, np.nan)
    draw = np.random.default_rng(0)
    draws = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES)
    tail = (1 - confidence) / 2
    ends = np.quantile(width(draws), [tail, 1 - tail], method="nearest")
    return Interval(value, float(ends[0]), float(ends[1]))


def decades(rates: Any) -> np.ndarray[Any, Any]:
    """Returns the length of a logarithmic axis that belongs to each rate, in decades.

    It reaches halfway to the neighbours, and as far again at the ends, so that the
    rates of an even grid add up to their number times their distance.
    """
    if len(rates) < 2:
        return np.zeros(len(rates))
    found: np.ndarray[Any, Any] = np.gradient(np.log10(np.asarray(rates, float)))
    return found
