"""Confidence intervals of fractions, and interval widths on a logarithmic axis."""

from statistics import NormalDist
from typing import Any

import numpy as np

LEAST_SHARE = 0.5  # minimum fraction of stable runs at a stable learning rate


def wilson(count: Any, size: Any, confidence: float = 0.95) -> tuple[Any, Any]:
    """Returns the bounds of the Wilson interval of `count` out of `size`.

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
