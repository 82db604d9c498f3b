"""Confidence intervals, and the share of a logarithmic axis of each rate."""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

LEAST_SHARE = 0.5  # of the runs must be stable at a rate that counts as stable


class Interval(NamedTuple):
    """A confidence interval.

    Attributes:
      low: lower end; -inf (or 0 for a positive quantity) if the runs do not bound it,
        NaN if there is no interval, as with a single seed.
      high: upper end; inf or NaN likewise.
      confidence: probability that such an interval contains the truth, in (0, 1).
    """

    low: float
    high: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


def student(values: Any, confidence: float = 0.95) -> Interval:
    """Returns Student's interval of the mean of independent values, one a seed.

    mean +- t(confidence, n - 1) s / sqrt(n). NaN for fewer than two values, or if a
    value is not finite.
    """
    from scipy.special import stdtrit  # not needed by the rest of this file

    values = np.asarray(values, float)
    if values.size < 2 or not np.isfinite(values).all():
        return Interval(np.nan, np.nan, confidence)
    quantile = stdtrit(values.size - 1, 0.5 + confidence / 2)
    half = quantile * values.std(ddof=1) / np.sqrt(values.size)
    mean = values.mean()
    return Interval(float(mean - half), float(mean + half), confidence)


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


def decades(rates: Any) -> np.ndarray[Any, Any]:
    """Returns the length of a logarithmic axis that belongs to each rate, in decades.

    It reaches halfway to the neighbours, and as far again at the ends, so that the
    rates of an even grid add up to their number times their distance.
    """
    if len(rates) < 2:
        return np.zeros(len(rates))
    found: np.ndarray[Any, Any] = np.gradient(np.log10(np.asarray(rates, float)))
    return found
