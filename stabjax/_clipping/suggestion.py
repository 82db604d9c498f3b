"""Which threshold: read from the gradient norms of a training, on the host."""

from typing import Any, NamedTuple

import numpy as np

_TAIL = 99  # percent of the steps
_NORMAL = 1.4826  # deviation of a normal distribution / its median absolute deviation
_LASTING = 3.0  # a drift by more than this factor is told


class MaxNormSuggestion(NamedTuple):
    """What :func:`suggest_max_norm` found; ``print`` it."""

    max_norm: float
    clip_fraction: float  # of the steps; those that are not finite are not clipped
    median: float
    tail: float  # 99 percent of the norms are at most this
    largest: float
    drift: float  # median of the last fifth of the steps / median of the first
    steps: int
    nonfinite: int  # norms that were inf or NaN, and left out

    def __str__(self) -> str:
        lines = [
            f"max_norm {self.max_norm:.3g} clips {self.clip_fraction:.2%} of the steps"
        ]
        marks = {"median": self.median, f"{_TAIL} %": self.tail}
        for name, norm in (marks | {"largest": self.largest}).items():
            ratio = norm / self.max_norm
            lines.append(f"{name:8} {norm:.3g} = max_norm x {ratio:.3g}")
        if self.nonfinite:
            lines.append(f"{self.nonfinite} of {self.steps} norms were not finite")
        if not 1 / _LASTING < self.drift < _LASTING:
            lines.append(
                f"the last norms are {self.drift:.3g} times the first: one threshold "
                "does not fit both; one learned from history does"
            )
        return "\n".join(lines)


def suggest_max_norm(norms: Any, *, deviations: float = 3.0) -> MaxNormSuggestion:
    r"""Suggests the threshold that clips what sticks out of a history of norms.

    The norms of most steps are taken to be log-normal, and the threshold is the upper
    end of that bulk. With :math:`m` the median of :math:`\log n` and :math:`d` the
    median of :math:`|\log n - m|`, neither of which a few spikes can move, it is

    .. math:: c = \exp(m + 1.4826\, k\, d).

    Args:
      norms: gradient norms before clipping, by step along the last axis, of one run
        or of many; NumPy computes with them. Zeros and what is not finite are no
        part of the bulk.
      deviations: :math:`k`, at least 0; of a log-normal bulk, three deviations clip
        0.13 %.

    Returns:
      A ``MaxNormSuggestion``: the ``max_norm``; the share of the steps that it clips;
      the ``median``, the ``tail`` (99 %) and the ``largest`` of the finite norms; their
      ``drift``, the median of the last fifth of the steps over that of the first; the
      number of ``steps``, and of those whose norm is ``nonfinite``.

    Raises:
      ValueError: if no norm is positive and finite, one is negative, or ``deviations``
        is negative.

    Example:
      >>> import numpy as np
      >>> import stabjax
      >>> norms = np.exp(np.sin(np.arange(1000.0)) / 4)
      >>> norms[::100] = 40.0
      >>> print(stabjax.suggest_max_norm(norms))
      max_norm 2.22 clips 1.00% of the steps
      median   1 = max_norm x 0.453
      99 %     1.67 = max_norm x 0.754
      largest  40 = max_norm x 18.1

    Source: this library's rule. Half to ten times the mean norm was the advice of
    Pascanu, Mikolov, Bengio, On the difficulty of training recurrent neural networks,
    2013.
    """
    if not deviations >= 0:
        raise ValueError(f"deviations must be at least 0, got {deviations}")
    history = np.atleast_1d(np.asarray(norms, float))
    finite = history[np.isfinite(history)]
    if np.any(finite < 0):
        raise ValueError(f"norms must be at least 0, got {finite.min()}")
    if not np.any(finite > 0):
        raise ValueError("norms must hold a positive finite number, and hold none")
    logs = np.log(finite[finite > 0])
    middle = np.median(logs)
    spread = _NORMAL * np.median(np.abs(logs - middle))
    threshold = float(np.exp(middle + deviations * spread))
    return MaxNormSuggestion(
        max_norm=threshold,
        clip_fraction=float(np.sum(finite > threshold) / history.size),
        median=float(np.median(finite)),
        tail=float(np.percentile(finite, _TAIL)),
        largest=float(finite.max()),
        drift=_drift(history),
        steps=history.size,
        nonfinite=history.size - finite.size,
    )


def _drift(history: np.ndarray[Any, Any]) -> float:
    """Median of the last fifth of the steps over the median of the first."""
    fifth = -(-history.shape[-1] // 5)
    first, last = (
        part[np.isfinite(part) & (part > 0)]
        for part in (history[..., :fifth], history[..., -fifth:])
    )
    if not first.size or not last.size:
        return 1.0
    return float(np.median(last) / np.median(first))
