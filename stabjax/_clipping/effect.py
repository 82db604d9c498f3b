"""The effect of a clipping threshold on a run."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from stabjax._arguments import check
from stabjax._clipping.settling import norms_of, settled_at, spikes

_OFTEN = 0.9  # share of clipped steps from which a threshold is a learning rate
_SELDOM = 0.1  # of the settled steps that are not spikes
_OWNS = 0.5  # share of the squared norm from which one parameter owns it

_Norms: TypeAlias = "list[float] | np.ndarray | jax.Array"


class ClippingEffect(NamedTuple):
    """The effect of a clipping threshold, as returned by `clipping_effect`.

    Attributes:
      max_norm: the threshold.
      steps: number of finite norms. All fractions refer to this number.
      clip_fraction: fraction of steps whose norm exceeds the threshold.
      rate_factor: median factor by which clipping scales the gradient. With SGD, it
        also scales the learning rate.
      early: fraction of steps that are clipped before the norms settle.
      spikes: fraction of later steps that are clipped because their norm is much larger
        than the norms around them.
      usual: fraction of later steps that are clipped although their norm is typical.
      settled_at: the step after which the norms stay at the level of the last tenth.
      largest: the parameter with the largest part of the squared norm, or None if
        unknown.
      largest_share: the median of this part over the steps, or NaN if unknown.
    """

    max_norm: float
    steps: int
    clip_fraction: float
    rate_factor: float
    early: float
    spikes: float
    usual: float
    settled_at: int
    largest: str | None
    largest_share: float

    @property
    def is_learning_rate(self) -> bool:
        """Whether nearly every step is clipped, so that the threshold sets the rate."""
        return self.clip_fraction >= _OFTEN

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return {**self._asdict(), "is_learning_rate": self.is_learning_rate}

    def __str__(self) -> str:
        lines = [
            f"max_norm {self.max_norm:.3g} clips {self.clip_fraction:.1%} of the steps",
            f"early {self.early:.1%} (before step {self.settled_at}), "
            f"spikes {self.spikes:.1%}, usual norms {self.usual:.1%}",
            self._verdict(),
        ]
        if self.largest is not None:
            owns = ": clip it separately, or inspect it" if self._one_owns() else ""
            lines.append(
                f"{self.largest} has {self.largest_share:.0%} of the squared norm{owns}"
            )
        return "\n".join(lines)

    def _one_owns(self) -> bool:
        return self.largest_share >= _OWNS

    def _verdict(self) -> str:
        divisor = 1 / self.rate_factor if self.rate_factor else np.inf
        if self.is_learning_rate:
            return (
                "the threshold is a learning rate: with SGD, the effective rate is "
                f"divided by {divisor:.3g} (Adam undoes a constant factor)"
            )
        if self.clip_fraction == 0:
            return "the threshold does nothing"
        if self.usual > _SELDOM:
            return (
                "it clips usual norms, not only spikes: the step is shortened "
                f"{self.usual:.0%} of the time"
            )
        if self.early > self.spikes + self.usual:
            return "it acts while the norms fall at the beginning, as a warmup does"
        return "it clips spikes, and leaves the usual steps alone"


def clipping_effect(
    norms: _Norms,
    max_norm: float,
    *,
    leaf_norms: Mapping[str, _Norms] | None = None,
) -> ClippingEffect:
    """Reports the effect of a threshold on a run, based on its gradient norms.

    Clipping to the norm c scales a gradient of norm n by min(1, c / n). If nearly every
    step is clipped, SGD with learning rate r performs normalized updates r c g / n, so
    only the product r c matters: threshold and learning rate are one hyperparameter.

    There are three kinds of clipped steps: steps before the norms settle (until the
    median of a tenth of the steps is within a factor of 1.5 of the last tenth's),
    spikes (three robust deviations above the norms around them), and steps with a
    typical norm.

    Args:
      norms: gradient norms before clipping, with steps along the last axis, of one run
        or of many. **Static.**
      max_norm: the threshold, > 0. It may differ from the threshold of the run.
        **Static.**
      leaf_norms: the gradient norms of each parameter, by name, with the shape of
        `norms`, as recorded by `with_metrics(..., per_leaf=True)`. **Static.**

    Returns:
      A `ClippingEffect`.

    Raises:
      ValueError: If no norm is positive and finite, a norm is negative, or `max_norm`
        is not positive.

    Example:
      >>> import numpy as np
      >>> import stabjax
      >>> norms = 20.0 * np.exp(np.sin(np.arange(1000.0)) / 4)
      >>> print(stabjax.clipping_effect(norms, 1.0))
      max_norm 1 clips 100.0% of the steps
      early 0.0% (before step 0), spikes 0.0%, usual norms 100.0%
      the threshold is a learning rate: with SGD, the effective rate is divided by 20
      (Adam undoes a constant factor)
    """
    check("max_norm", max_norm, "> 0")
    history = norms_of(norms)
    max_norm = float(max_norm)
    known = np.isfinite(history)
    start = settled_at(history)
    late = np.broadcast_to(np.arange(history.shape[-1]) >= start, history.shape)[known]
    outlying = spikes(history)[known]
    finite = history[known]
    clipped = finite > max_norm
    factors = np.minimum(1.0, max_norm / np.maximum(finite, np.finfo(float).tiny))
    largest, share = _largest(leaf_norms or {})
    return ClippingEffect(
        max_norm=max_norm,
        steps=finite.size,
        clip_fraction=float(clipped.mean()),
        rate_factor=float(np.median(factors)),
        early=float((clipped & ~late).mean()),
        spikes=float((clipped & late & outlying).mean()),
        usual=float((clipped & late & ~outlying).mean()),
        settled_at=start,
        largest=largest,
        largest_share=share,
    )


def _largest(leaf_norms: Mapping[str, Any]) -> tuple[str | None, float]:
    """Returns the parameter with the largest median part of the squared norm."""
    if not leaf_norms:
        return None, float("nan")
    norms = np.stack([np.ravel(np.asarray(n, float)) for n in leaf_norms.values()])
    whole = np.sqrt((norms**2).sum(axis=0))
    usable = np.isfinite(whole) & (whole > 0)
    if not usable.any():
        return None, float("nan")
    medians = np.median((norms[:, usable] / whole[usable]) ** 2, axis=1)
    best = int(medians.argmax())
    return list(leaf_norms)[best], float(medians[best])
