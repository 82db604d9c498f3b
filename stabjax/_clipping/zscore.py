"""A bound from the mean and the standard deviation of past norms: ZClip."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from stabjax._arguments import check_choice
from stabjax._clipping.history import (
    Streak,
    clip_by_history,
    extend_streak,
    init_streak,
    with_eps,
)
from stabjax._clipping.numbers import as_finite, checked
from stabjax._norms import unit_norms
from stabjax._scaling import safe_ratio
from stabjax._types import Number


class ZClipStatistics(NamedTuple):
    """Running mean and standard deviation of the norms."""

    zclip_mean: jax.Array
    zclip_std: jax.Array  # not the variance, which may exceed the dtype
    zclip_seen: jax.Array  # int32: norms that entered
    zclip_streak: Streak


def zclip(
    decay: Number = 0.97,
    z_threshold: Number = 2.5,
    max_norm: Number = 1.0,
    *,
    warmup_steps: Number = 25,
    mode: Literal["adaptive", "mean", "threshold"] = "adaptive",
    clip_factor: Number = 1.0,
    skip_update_on_spike: bool = False,
    patience: Number = 25,
    reference: bool = False,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Rescales updates whose norm is an outlier from the running mean: ZClip.

    With the running mean and std of the global norm `n`, an update is a spike if
    `n - mean > z_threshold std`. A spike is bounded by

        clip_factor (mean + (z_threshold std)^2 / (n - mean))  (mode "adaptive"),
        mean                                                   (mode "mean"),
        mean + z_threshold std          (mode "threshold"; the authors' "percentile"),

    and every update by `max_norm`. Then `x`, the bound of a spike or otherwise `n`,
    enters the statistics:

        mean = decay mean + (1 - decay) x
        std^2 = decay std^2 + (1 - decay) (x - mean)^2

    The first `warmup_steps` norms (at least one) are only bounded by `max_norm`, and
    the statistics start from their mean and standard deviation.

    With `reference=True` it gives the authors' numbers, which differ in three ways:
    1e-6 is added to the std and to the norm that divides, zero norms enter, and
    `patience` is inf.

    Args:
      decay: decay of the statistics, in [0, 1]. **Traceable.**
      z_threshold: standard deviations above the mean, >= 0. **Traceable.**
      max_norm: bound of every update's norm, >= 0; inf turns it off. **Traceable.**
      warmup_steps: norms from which the statistics start, >= 0. **Traceable.**
      mode: what bounds a spike. **Static.**
      clip_factor: factor of the mode "adaptive", >= 0. **Traceable.**
      skip_update_on_spike: whether spikes leave the statistics unchanged. **Static.**
      patience: number of consecutive spikes after which the mean becomes the smallest
        norm among them, as the scale has changed; inf: never. **Traceable.**
      reference: whether to give the authors' numbers. **Static.**
      axis_name: as in `stabjax.global_norm`. **Static.**

    Returns:
      A transformation whose state reports the norm, the threshold, whether it clipped
      and how often. A non-finite gradient gives NaN everywhere and leaves the state
      unchanged (in the authors' code it ends all clipping). When `patience` spikes
      follow one another, the std grows with the mean; so a lasting rise of the scale,
      by any factor, is let through after at most `2 patience` updates (in the authors'
      code a tenfold rise is not within 3000). After a fall by a factor `r` the
      threshold has followed in about `2 ln(z_threshold r) / (1 - decay)` updates.

    Raises:
      ValueError: a number is concrete and out of range, or `mode` is unknown.
      TypeError: an argument is not a number.

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

    References:
      Kumar, Owen, Roy Chowdhury, Guera, ZClip: Adaptive Spike Mitigation for LLM
      Pre-Training, 2025. https://arxiv.org/abs/2504.02507
    """
    scalars = checked(
        decay=(decay, "in [0, 1]"),
        z_threshold=(z_threshold, ">= 0"),
        max_norm=(max_norm, ">= 0"),
        warmup_steps=(warmup_steps, ">= 0"),
        clip_factor=(clip_factor, ">= 0"),
        patience=(math.inf if reference else patience, ">= 0"),
    )
    check_choice("mode", mode, ("adaptive", "mean", "threshold"))
    check_choice("skip_update_on_spike", skip_update_on_spike, (False, True))
    eps = 1e-6 if reference else 0.0

    def rule(
        norms: jax.Array, past: ZClipStatistics
    ) -> tuple[jax.Array, ZClipStatistics]:
        beta, z, max_norm, steps, *others = as_finite(scalars(norms.dtype))
        clip_factor, patience = others
        spike, bound = _spike_bound(norms, past, z, clip_factor, mode, eps)
        spike &= past.zclip_seen.astype(norms.dtype) >= jnp.maximum(steps, 1)
        new = _update(past, jnp.where(spike, bound, norms), beta, steps)
        if skip_update_on_spike:
            new = jax.tree.map(lambda x, old: jnp.where(spike, old, x), new, past)
        streak, ended, least = extend_streak(past.zclip_streak, spike, norms, patience)
        new = _rescale(new, past, ended, least)._replace(zclip_streak=streak)
        bound = jnp.minimum(jnp.where(spike, bound, jnp.inf), max_norm)
        # The authors' 1e-6 applies to clipped updates alone.
        clipped = norms > bound
        return jnp.where(clipped, with_eps(bound, norms, eps), bound), new

    return clip_by_history(
        "zclip", _init, rule, reference=reference, axis_name=axis_name
    )


def _init(number: int, dtype: DTypeLike) -> ZClipStatistics:
    return ZClipStatistics(
        jnp.zeros(number, dtype),
        jnp.zeros(number, dtype),
        jnp.zeros(number, jnp.int32),
        init_streak(number, dtype),
    )


def _spike_bound(
    norms: jax.Array,
    past: ZClipStatistics,
    z: jax.Array,
    clip_factor: jax.Array,
    mode: str,
    eps: float,
) -> tuple[jax.Array, jax.Array]:
    """Whether each norm is a spike, which NaN is too, and the bound of a spike."""
    mean, std = past.zclip_mean, past.zclip_std
    deviation = norms - mean
    if mode == "threshold":
        return ~(deviation <= z * std), mean + z * std
    least = z * (std + eps)
    spike = ~(deviation <= least)
    if mode == "mean":
        return spike, mean
    # z^2 std over the z-score, in an order that takes no square: it may overflow.
    excess = z * std * safe_ratio(least, jnp.where(spike, deviation, 1))
    return spike, clip_factor * (mean + excess)


def _update(
    past: ZClipStatistics, x: jax.Array, decay: jax.Array, warmup_steps: jax.Array
) -> ZClipStatistics:
    """The statistics with x: during warm-up all norms weigh the same."""
    seen = optax.safe_increment(past.zclip_seen)
    number = seen.astype(x.dtype)
    warming_up = number <= jnp.maximum(warmup_steps, 1)
    weight = jnp.where(warming_up, 1 / number, 1 - decay)
    # The variance shrinks by 1 - weight and gains the square of a part of x - mean.
    gain = jnp.where(warming_up, weight * (1 - weight), weight * decay * decay)
    parts = [_root(1 - weight) * past.zclip_std, _root(gain) * (x - past.zclip_mean)]
    std = unit_norms(jnp.stack(parts), 0).product[0]
    mean = past.zclip_mean + weight * (x - past.zclip_mean)
    return past._replace(zclip_mean=mean, zclip_std=std, zclip_seen=seen)


def _root(x: jax.Array) -> jax.Array:
    """Square root of a number >= 0 that passes NaN, with a finite derivative at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0 * x)


def _rescale(
    new: ZClipStatistics, past: ZClipStatistics, ended: jax.Array, least: jax.Array
) -> ZClipStatistics:
    """Where a streak ended, its smallest norm is the mean, and the std grows alike."""
    positive = ended & (past.zclip_mean > 0)
    factor = safe_ratio(least, jnp.where(positive, past.zclip_mean, 1))
    return new._replace(
        zclip_mean=jnp.where(positive, least, new.zclip_mean),
        zclip_std=jnp.where(positive, past.zclip_std * factor, new.zclip_std),
    )
