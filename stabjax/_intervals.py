"""Intervals: of a share that was counted, and of rates on a logarithmic axis."""

from statistics import NormalDist
from typing import Any

import numpy as np

LEAST_SHARE = 0.5  # of the runs must train at a rate that is said to train


def wilson(count: Any, size: Any, confidence: float = 0.95) -> tuple[Any, Any]:
    """Both ends of Wilson's interval for `count` of `size`; NaN where `size` is 0.

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
    """How much of a logarithmic axis belongs to each of the rates, in decades.

    To the middle between it and its neighbours, and as far again at the ends: so some
    rates of an even grid have together their number times their distance.
    """
    if len(rates) < 2:
        return np.zeros(len(rates))
    found: np.ndarray[Any, Any] = np.gradient(np.log10(np.asarray(rates, float)))
    return found
