"""A bound from the mean and the deviation of past norms: ZClip."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from stabjax._clipping.history import (
    Streak,
    bounded_by_history,
    lengthened,
    no_streak,
    scalars,
    softened,
)
from stabjax._clipping.threshold import check_between
from stabjax._norms import unit_norms
from stabjax._scaling import safe_ratio


class ZClipStatistics(NamedTuple):
    """Running mean and deviation of the norms."""

    zclip_mean: jax.Array
    zclip_std: jax.Array  # no variance: its square may exceed the dtype
    zclip_seen: jax.Array  # int32: norms that entered
    zclip_streak: Streak


def zclip(
    decay: ArrayLike = 0.97,
    z_threshold: ArrayLike = 2.5,
    max_norm: ArrayLike = 1.0,
    warmup_steps: ArrayLike = 25,
    *,
    mode: Literal["adaptive", "mean", "threshold"] = "adaptive",
    clip_factor: ArrayLike = 1.0,
    skip_update_on_spike: bool = False,
    patience: ArrayLike = 25,
    reference: bool = False,
) -> optax.GradientTransformation:
    r"""Rescales the updates whose norm stands out from the mean of those before: ZClip.

    With the mean :math:`\mu` and the deviation :math:`\sigma` of the norms so far,
    :math:`n = \|g\|_2` is a spike if :math:`n - \mu > z \sigma`, and is then bounded by
    :math:`c`: in the mode "adaptive" :math:`f (\mu + z^2 \sigma^2 / (n - \mu))`, the
    lower the larger the spike; in "mean" :math:`\mu`; in "threshold" (the authors'
    "percentile") :math:`\mu + z \sigma`. Every norm, spike or not, is bounded by
    ``max_norm`` too. Then :math:`x`, which is :math:`c` after a spike and else
    :math:`n`, enters: :math:`\mu' = \alpha \mu + (1 - \alpha) x` and
    :math:`\sigma'^2 = \alpha \sigma^2 + (1 - \alpha) (x - \mu')^2`. The first
    ``warmup_steps`` norms (at least one) are only bounded by ``max_norm``, and their
    mean and deviation are what it starts from.

    Args:
      decay: :math:`\alpha`, from 0 to 1; traceable.
      z_threshold: :math:`z \ge 0`; traceable.
      max_norm: the largest norm let through at all; inf: no such bound; traceable.
      warmup_steps: norms, traceable.
      mode: static; the two others than "adaptive" do not use ``clip_factor``.
      clip_factor: :math:`f \ge 0`; traceable.
      skip_update_on_spike: whether spikes do not enter the statistics; static.
      patience: after this many spikes in a row the scale has changed, see below; inf:
        never, as the authors have it; traceable.
      reference: whether to give the authors' numbers where they differ: 1e-6 is added
        to :math:`\sigma` and to the norm that divides, zero norms enter, and
        ``patience`` is inf; static.

    Returns:
      A transformation whose state has metrics: the norm, the threshold, whether and how
      often it clipped. A non-finite gradient gives NaN everywhere and does not enter
      (with the authors it ends all clipping): the next update is clipped as if it had
      not been. When ``patience`` spikes follow one another, :math:`\mu` becomes the
      smallest of their norms and :math:`\sigma` grows with it: so a lasting rise of the
      scale, by any factor, is let through after at most twice as many updates (with the
      authors a tenfold one is not within 3000). After a fall by a factor :math:`r` the
      threshold has followed in about :math:`2 \ln(z r) / (1 - \alpha)` updates.

    Raises:
      ValueError: if a number is concrete and out of range, or ``mode`` is unknown.
      TypeError: if a number is none.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import stabjax
      >>> tx = stabjax.zclip(max_norm=jnp.inf, warmup_steps=3)
      >>> state, update = tx.init(jnp.zeros(2)), jax.jit(tx.update)
      >>> for norm in (1.0, 1.2, 0.8, 1.1, 5.0):
      ...     updates, state = update(jnp.array([0.0, norm]), state)
      ...     print(round(float(updates[1]), 3))
      1.0
      1.2
      0.8
      1.1
      1.044

    Source: Kumar, Owen, Roy Chowdhury, Guera, ZClip: adaptive spike mitigation for LLM
    pre-training, 2025.
    """
    numbers = {
        "decay": decay,
        "z_threshold": z_threshold,
        "max_norm": max_norm,
        "warmup_steps": warmup_steps,
        "clip_factor": clip_factor,
        "patience": math.inf if reference else patience,
    }
    for name, number in numbers.items():
        check_between(name, number, 0, 1 if name == "decay" else math.inf)
    if mode not in ("adaptive", "mean", "threshold"):
        raise ValueError(
            f"mode must be 'adaptive', 'mean' or 'threshold', got {mode!r}"
        )
    eps = 1e-6 if reference else 0.0

    def rule(
        norms: jax.Array, past: ZClipStatistics
    ) -> tuple[jax.Array, ZClipStatistics]:
        alpha, z, most, warm, f, long = scalars(numbers, norms.dtype)
        above, bound = _spike_bound(norms, past, z, f, mode, eps)
        spike = above & (past.zclip_seen.astype(norms.dtype) >= jnp.maximum(warm, 1))
        limit = jnp.minimum(jnp.where(spike, bound, jnp.inf), most)
        # What is not above its limit must not be softened either.
        softer = jnp.where(norms > limit, softened(limit, norms, eps), limit)
        entered = _entered(past, jnp.where(spike, bound, norms), alpha, warm)
        if skip_update_on_spike:
            entered = jax.tree.map(
                lambda new, old: jnp.where(spike, old, new), entered, past
            )
        streak, lasted, least = lengthened(past.zclip_streak, spike, norms, long)
        entered = _rescaled(entered, past, lasted, least)
        return softer, entered._replace(zclip_streak=streak)

    return bounded_by_history("zclip", _no_statistics, rule, zeros_enter=reference)


def _no_statistics(number: int, dtype: Any) -> ZClipStatistics:
    return ZClipStatistics(
        jnp.zeros(number, dtype),
        jnp.zeros(number, dtype),
        jnp.zeros(number, jnp.int32),
        no_streak(number, dtype),
    )


def _spike_bound(
    norms: jax.Array,
    past: ZClipStatistics,
    z: jax.Array,
    clip_factor: jax.Array,
    mode: str,
    eps: float,
) -> tuple[jax.Array, jax.Array]:
    """Whether each norm is a spike, and what it is then bounded by."""
    mean, std = past.zclip_mean, past.zclip_std
    deviation = norms - mean
    if mode == "threshold":
        return deviation > z * std, mean + z * std
    least = z * (std + eps)
    spike = deviation > least
    if mode == "mean":
        return spike, mean
    # z^2 std over the z-score, in an order in which no square is taken.
    excess = z * std * safe_ratio(least, jnp.where(spike, deviation, 1))
    return spike, clip_factor * (mean + excess)


def _entered(
    past: ZClipStatistics, x: jax.Array, decay: jax.Array, warmup_steps: jax.Array
) -> ZClipStatistics:
    """The statistics with x: of all norms alike in the warm-up, else running."""
    seen = optax.safe_increment(past.zclip_seen)
    number = seen.astype(x.dtype)
    warming = number <= jnp.maximum(warmup_steps, 1)
    weight = jnp.where(warming, 1 / number, 1 - decay)
    # The variance shrinks by 1 - weight and gains the square of a part of x - mean.
    gain = jnp.where(warming, weight * (1 - weight), weight * decay * decay)
    parts = [_root(1 - weight) * past.zclip_std, _root(gain) * (x - past.zclip_mean)]
    std = unit_norms(jnp.stack(parts), 0).product[0]
    mean = past.zclip_mean + weight * (x - past.zclip_mean)
    return past._replace(zclip_mean=mean, zclip_std=std, zclip_seen=seen)


def _root(x: jax.Array) -> jax.Array:
    """Square root of what is at least 0, with a finite derivative there."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0 * x)


def _rescaled(
    entered: ZClipStatistics, past: ZClipStatistics, lasted: jax.Array, least: jax.Array
) -> ZClipStatistics:
    """Where a streak lasted its least norm is the mean, and the deviation grows too."""
    some = lasted & (past.zclip_mean > 0)
    factor = safe_ratio(least, jnp.where(some, past.zclip_mean, 1))
    return entered._replace(
        zclip_mean=jnp.where(some, least, entered.zclip_mean),
        zclip_std=jnp.where(some, past.zclip_std * factor, entered.zclip_std),
    )
