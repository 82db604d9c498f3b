"""The level of gradient norms along a run, and the step at which it settles."""

from typing import Any

import numpy as np

_Array = np.ndarray[Any, Any]

_BLOCKS = 10  # parts of a run in which the level is compared
_LEAST = 20  # norms in a block
_SAME = 1.5  # factor between levels that count as the same
_FAR = 3.0  # deviations above the norms around it: a spike
_NORMAL = 1.4826  # deviation of a normal distribution / its median absolute deviation


def norms_of(norms: Any) -> _Array:
    """Returns norms as an array with the steps last; raises if none can be used."""
    history = np.atleast_1d(np.asarray(norms, float))
    finite = history[np.isfinite(history)]
    if np.any(finite < 0):
        raise ValueError(f"norms must be >= 0, got {finite.min()}.")
    if not np.any(finite > 0):
        raise ValueError(f"norms must contain a positive finite number, got {norms!r}.")
    return history


def settled_at(history: _Array) -> int:
    """Returns the step from which the level of the norms is that of the last tenth.

    The level of a tenth of the steps is the median norm, which a few spikes do not
    move. In short histories parts are longer.
    """
    steps = history.shape[-1]
    blocks = max(1, min(_BLOCKS, history.size // _LEAST, steps))
    starts = np.arange(blocks) * steps // blocks
    parts = np.split(history, starts[1:], axis=-1)
    levels = [_log_median(part) for part in parts]
    first = blocks - 1
    while first and abs(levels[first - 1] - levels[-1]) <= np.log(_SAME):
        first -= 1
    return int(starts[first])


def bulk(norms: _Array) -> tuple[float, float]:
    """Returns median and robust deviation of the logarithms of positive norms."""
    logs = np.log(norms[np.isfinite(norms) & (norms > 0)])
    middle = np.median(logs)
    return float(middle), float(_NORMAL * np.median(np.abs(logs - middle)))


def upper_end(norms: _Array, z_threshold: float) -> float:
    """Returns the norm that is `z_threshold` deviations above the median."""
    middle, spread = bulk(norms)
    return float(np.exp(middle + z_threshold * spread))


def spikes(history: _Array) -> _Array:
    """Returns which norms are far above the norms around them, along the last axis."""
    steps = history.shape[-1]
    count = max(1, steps // _LEAST)
    starts = np.arange(count) * steps // count
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(history)
    logs = np.where(np.isfinite(logs), logs, np.nan).reshape(-1, steps)
    centers = starts + (np.append(starts[1:], steps) - starts - 1) / 2
    found = np.zeros(logs.shape, bool)
    for row, line in enumerate(logs):
        parts = np.split(line, starts[1:])
        levels = np.array([_log_median(np.exp(part)) for part in parts])
        known = np.isfinite(levels)
        if known.any():
            above = line - np.interp(np.arange(steps), centers[known], levels[known])
            spread = _NORMAL * np.nanmedian(np.abs(above))
            found[row] = above > _FAR * spread
    return found.reshape(history.shape) & np.isfinite(history)


def _log_median(norms: _Array) -> float:
    usable = norms[np.isfinite(norms) & (norms > 0)]
    return float(np.log(np.median(usable))) if usable.size else np.nan
