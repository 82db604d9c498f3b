"""Estimates with confidence intervals, and interval widths on a logarithmic axis."""

from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

LEAST_SHARE = 0.5  # minimum fraction of stable runs at a stable learning rate
_RESAMPLES = 1000

_Array = np.ndarray[Any, Any]


class Estimate(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
      value: the estimate.
      low: lower bound. It is -inf (or 0 for positive quantities) if the runs do not
        determine it, and NaN if there is no interval, for example with a single seed.
      high: upper bound. Similarly, it may be inf or NaN.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Formats the estimate with its interval in brackets."""
        return f"{self:.4g}"

    def __format__(self, spec: str) -> str:
        """Formats each number, as in `f"{estimate:.2f}"`."""
        value, low, high = (format(number, spec or ".4g") for number in self)
        return value if np.isnan(self.low) else f"{value} [{low}, {high}]"


def student(values: Any, confidence: float = 0.95) -> Estimate:
    """Computes the mean over independent seeds with its Student t interval.

    The interval is mean +- t(confidence, n - 1) s / sqrt(n). It is NaN for fewer than
    two values, or if any value is non-finite.
    """
    values = np.asarray(values, float)
    with np.errstate(invalid="ignore"):  # infinities of both signs
        mean = float(values.mean()) if values.size else np.nan
    if values.size < 2 or not np.isfinite(values).all():
        return Estimate(mean, np.nan, np.nan)
    half = float(student_half_width(values, confidence))
    return Estimate(mean, mean - half, mean + half)


def student_half_width(values: _Array, confidence: float = 0.95) -> _Array:
    """Computes half the width of the Student t interval of means over the last axis.

    It is NaN for a single value, or where a value is non-finite.
    """
    number = values.shape[-1]
    if number < 2:
        return np.full(values.shape[:-1], np.nan)
    from scipy.special import stdtrit  # SciPy is optional for the other functions

    with np.errstate(invalid="ignore"):  # infinite values
        error = values.std(axis=-1, ddof=1) / np.sqrt(number)
    found: _Array = stdtrit(number - 1, 0.5 + confidence / 2) * error
    return found


def within_noise(
    values: _Array, best: _Array, confidence: float = 0.95
) -> np.ndarray[Any, Any]:
    """Returns which means do not differ significantly from that of the best.

    Student's t-test of the differences, paired by the seed along the last axis. With a
    single seed, no mean is within noise, not even the best.
    """
    with np.errstate(invalid="ignore"):  # infinite values
        excess = values - best
        found: np.ndarray[Any, Any] = excess.mean(axis=-1) <= student_half_width(
            excess, confidence
        )
    return found


def decades_that_train(
    success: _Array, rates: Any, confidence: float = 0.95
) -> Estimate:
    """Computes how many decades of rates train, with a bootstrap interval over seeds.

    A rate trains if at least half of the runs succeed. Entire seeds are resampled,
    because runs of one seed at different rates are not independent.

    Args:
      success: 1, 0 or NaN (not run) for each rate, seed and further run.
      rates: learning rates in ascending order.
      confidence: confidence level, in (0, 1).
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
        return Estimate(value, np.nan, np.nan)
    draw = np.random.default_rng(0)
    draws = draw.multinomial(seeds, np.full(seeds, 1 / seeds), size=_RESAMPLES)
    tail = (1 - confidence) / 2
    low, high = np.quantile(width(draws), [tail, 1 - tail], method="nearest")
    return Estimate(value, float(low), float(high))


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
