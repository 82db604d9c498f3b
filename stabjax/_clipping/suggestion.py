"""Suggested thresholds based on gradient norms of past runs."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from stabjax._arguments import check
from stabjax._clipping.settling import norms_of, settled_at, upper_end

_TAIL = 99  # percentile
_DRIFT = 3.0  # report drifts by more than this factor

_Norms: TypeAlias = Sequence[float] | np.ndarray | jax.Array


class MaxNormSuggestion(NamedTuple):
    """Result of `suggest_max_norm`. Use `print` to display it.

    Attributes:
      max_norm: the suggested threshold.
      clip_fraction: fraction of steps with a finite norm above the threshold.
      settled_at: step from which the threshold is estimated: the level of the norms is
        that of the last tenth.
      settled_fraction: fraction of these later steps above the threshold.
      median: median norm.
      tail: 99th percentile of the norms.
      largest: largest finite norm.
      drift: ratio of the median norm in the last fifth of the steps to the median in
        the first fifth.
      steps: number of norms.
      nonfinite: number of inf and NaN norms, which are excluded.
    """

    max_norm: float
    clip_fraction: float
    settled_at: int
    settled_fraction: float
    median: float
    tail: float
    largest: float
    drift: float
    steps: int
    nonfinite: int

    def __str__(self) -> str:
        lines = [
            f"max_norm {self.max_norm:.3g} clips {self.clip_fraction:.2%} of the steps"
        ]
        if self.settled_at:
            lines.append(
                f"and {self.settled_fraction:.2%} of the steps from {self.settled_at} "
                "on, where the norms have settled"
            )
        marks = {"median": self.median, f"{_TAIL} %": self.tail}
        for name, norm in (marks | {"largest": self.largest}).items():
            ratio = norm / self.max_norm
            lines.append(f"{name:8} {norm:.3g} = max_norm x {ratio:.3g}")
        if self.nonfinite:
            lines.append(f"{self.nonfinite} of {self.steps} norms were not finite")
        if not 1 / _DRIFT < self.drift < _DRIFT:
            lines.append(
                f"norms changed by a factor of {self.drift:.3g} during training: the "
                "threshold fits the last steps. For all steps, use an adaptive one"
            )
        return "\n".join(lines)


def suggest_max_norm(norms: _Norms, *, z_threshold: float = 3.0) -> MaxNormSuggestion:
    """Suggests a threshold that clips the outliers in a history of gradient norms.

        max_norm = exp(m + 1.4826 z_threshold d),  m = median(log n),
                                                   d = median(|log n - m|)

    Assumes that most norms n are log-normally distributed, and returns the upper end of
    that distribution. A few spikes do not affect the medians. Norms often fall at the
    beginning of training, so the threshold is estimated from the settled steps: those
    after which the median norm of every tenth of the steps is within a factor of 1.5 of
    the last one.

    Args:
      norms: gradient norms before clipping, from one or more runs, with steps along the
        last axis. Zeros and non-finite norms are ignored. **Static.**
      z_threshold: number of standard deviations above the median, >= 0. The default
        clips 0.13% of log-normal norms. **Static.**

    Returns:
      A `MaxNormSuggestion` with the suggested `max_norm` and statistics of the norms.

    Raises:
      ValueError: If there is no positive finite norm, a norm is negative, or
        `z_threshold` is negative.

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

    References:
      Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural
      networks, 2013, https://arxiv.org/abs/1211.5063, who advise half to ten times the
      mean norm.
    """
    check("z_threshold", z_threshold, ">= 0")
    history = norms_of(norms)
    finite = history[np.isfinite(history)]
    start = settled_at(history)
    settled = history[..., start:]
    threshold = upper_end(settled, z_threshold)
    return MaxNormSuggestion(
        max_norm=threshold,
        clip_fraction=_fraction_above(threshold, history),
        settled_at=start,
        settled_fraction=_fraction_above(threshold, settled),
        median=float(np.median(finite)),
        tail=float(np.percentile(finite, _TAIL)),
        largest=float(finite.max()),
        drift=_drift(history),
        steps=history.size,
        nonfinite=history.size - finite.size,
    )


def _fraction_above(threshold: float, norms: np.ndarray) -> float:
    return float(np.mean(np.isfinite(norms) & (norms > threshold)))


def _drift(history: np.ndarray) -> float:
    """Divides the median norm of the last fifth of the steps by the first fifth's."""
    fifth = -(-history.shape[-1] // 5)
    first, last = (
        part[np.isfinite(part) & (part > 0)]
        for part in (history[..., :fifth], history[..., -fifth:])
    )
    if not first.size or not last.size:
        return 1.0
    return float(np.median(last) / np.median(first))
