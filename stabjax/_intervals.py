"""Confidence intervals, and interval widths on a logarithmic axis."""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

LEAST_SHARE = 0.5  # minimum fraction of stable runs at a stable learning rate


class Interval(NamedTuple):
    """A confidence interval.

    Attributes:
      low: lower bound. It is -inf (or 0 for positive quantities) if the runs do not
        determine it, and NaN if there is no interval, for example with a single seed.
      high: upper bound. Similarly, it may be inf or NaN.
      confidence: confidence level, in (0, 1).
    """

    low: float
    high: float
    confidence: float = 0.95

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}"


def student(values: Any, confidence: float = 0.95) -> Interval:
    """Computes the Student t interval of a mean over independent seeds.

    The interval is mean +- t(confidence, n - 1) s / sqrt(n). It is NaN for fewer than
    two values, or if any value is non-finite.
    """
    from scipy.special import stdtrit  # SciPy is optional for the other functions

    values = np.asarray(values, float)
    if values.size < 2 or not np.isfinite(values).all():
        return Interval(np.nan, np.nan, confidence)
    quantile = stdtrit(values.size - 1, 0.5 + confidence / 2)
    half = quantile * values.std(ddof=1) / np.sqrt(values.size)
    mean = values.mean()
    return Interval(float(mean - half), float(mean + half), confidence)


def wilson(count: Any, size: Any, confidence: float = 0.95) -> tuple[Any, Any]:
    """Returns the bounds of the Wilson interval for `count` out of `size`.

    Accepts numbers and arrays. Returns NaN if `size` is 0. See
    `stabjax.runs.stable_fraction` for the formula.
    """
    n = np.where(size > 0, size, np.nan)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    half = z / 2

    def low(k: Any) -> Any:  # exactly 0 if k is 0
        spread = z * np.sqrt(k * (n - k) / n + half * half)
        return (k + z * half - spread) / (n + z * z)

    return low(count), 1 - low(size - count)


def decades(rates: Any) -> np.ndarray[Any, Any]:
    """Returns the width of each rate's interval on a logarithmic axis, in decades.

    Intervals meet halfway between neighboring rates. The outermost intervals are
    symmetric, so the widths on an even grid add up to the number of rates times their
    spacing.
    """
    if len(rates) < 2:
        return np.zeros(len(rates))
    found: np.ndarray[Any, Any] = np.gradient(np.log10(np.asarray(rates, float)))
    return found
