"""Intervals of a fraction, and the share of a logarithmic axis of each rate."""

from statistics import NormalDist
from typing import Any

import numpy as np

LEAST_SHARE = 0.5  # of the runs must be stable at a rate that counts as stable


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
