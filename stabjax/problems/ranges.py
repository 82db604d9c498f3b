"""Ranges of learning rates and thresholds that are worth a sweep."""

from typing import Any

import optax

from stabjax.problems.arguments import Number


def ranges(stable_rate: Number, norm: Number) -> dict[str, Any]:
    """The ranges worth a sweep, around a rate of SGD and below a gradient's norm."""
    return {
        "optimizer": optax.sgd,
        "stable_rate": stable_rate,
        "peak_value": (0.01 * stable_rate, 100 * stable_rate),
        "max_norm": (0.001 * norm, 10 * norm),
    }
