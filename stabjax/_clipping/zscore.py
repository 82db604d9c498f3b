"""Clipping by z-score of the gradient norm (ZClip)."""

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
    """Running mean and standard deviation of norms."""

    zclip_mean: jax.Array
    zclip_std: jax.Array  # the variance could overflow
    zclip_seen: jax.Array  # int32: number of norms in the statistics
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
    """Clips updates with outlier norms, detected by z-score (ZClip).

    Let `mean` and `std` be the running mean and standard deviation of the global norm
    `n`. An update is a spike if `n - mean > z_threshold std`. Spikes are clipped to

        clip_factor (mean + (z_threshold std)^2 / (n - mean))    "adaptive"
        mean                                                     "mean"
        mean + z_threshold std                                   "threshold"

    depending on `mode` ("threshold" is the authors' "percentile"), and every update is
    clipped to `max_norm`. The statistics are then updated with `x`,
    which is the bound for a spike and `n` otherwise:

        mean = decay mean + (1 - decay) x
        std^2 = decay std^2 + (1 - decay) (x - mean)^2

    During the first `warmup_steps` updates (at least one), only `max_norm` applies. The
    mean and standard deviation of their norms initialize the statistics.

    Set `reference=True` to reproduce the authors' implementation, which differs in
    three ways: 1e-6 is added to `std` and to the norm in the denominator, zero norms
    are included, and `patience` is inf.

    Args:
      decay: decay rate of the statistics, in [0, 1]. **Traceable.**
      z_threshold: number of standard deviations above the mean, >= 0. **Traceable.**
      max_norm: maximum norm of every update, >= 0. Use inf to disable. **Traceable.**
      warmup_steps: number of norms that initialize the statistics, >= 0. **Traceable.**
      mode: how to bound spikes. **Static.**
      clip_factor: factor for mode "adaptive", >= 0. **Traceable.**
      skip_update_on_spike: whether spikes leave the statistics unchanged. **Static.**
      patience: number of consecutive spikes that indicates a change of scale. The mean
        is then set to the smallest norm among them. Use inf to disable. **Traceable.**
      reference: whether to reproduce the authors' implementation. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with metrics for the norm, the threshold, whether the update was
      clipped, and the fraction of clipped updates. A non-finite gradient turns all
      updates into NaN and leaves the state unchanged. (In the authors' implementation,
      it permanently disables clipping.) After `patience` consecutive spikes, the
      standard deviation is rescaled together with the mean. If gradients become
      permanently larger by any factor, clipping therefore stops after at most
      `2 patience` updates. (The authors' implementation does not adapt to a tenfold
      increase within 3000 updates.) If gradients become smaller by a factor of `r`, the
      threshold adapts in about `2 ln(z_threshold r) / (1 - decay)` updates.

    Raises:
      ValueError: If a concrete number is out of range, or `mode` is unknown.
      TypeError: If an argument is not a number.

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
        # The authors add 1e-6 only for clipped updates.
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
    """Returns whether each norm is a spike or NaN, and the bound for spikes."""
    mean, std = past.zclip_mean, past.zclip_std
    deviation = norms - mean
    if mode == "threshold":
        return ~(deviation <= z * std), mean + z * std
    least = z * (std + eps)
    spike = ~(deviation <= least)
    if mode == "mean":
        return spike, mean
    # z^2 std divided by the z-score, in an order that avoids overflowing squares.
    excess = z * std * safe_ratio(least, jnp.where(spike, deviation, 1))
    return spike, clip_factor * (mean + excess)


def _update(
    past: ZClipStatistics, x: jax.Array, decay: jax.Array, warmup_steps: jax.Array
) -> ZClipStatistics:
    """Adds x to the statistics. During warmup, all norms have equal weight."""
    seen = optax.safe_increment(past.zclip_seen)
    number = seen.astype(x.dtype)
    warming_up = number <= jnp.maximum(warmup_steps, 1)
    weight = jnp.where(warming_up, 1 / number, 1 - decay)
    # The variance is multiplied by 1 - weight and increased by gain (x - mean)^2.
    gain = jnp.where(warming_up, weight * (1 - weight), weight * decay * decay)
    parts = [_root(1 - weight) * past.zclip_std, _root(gain) * (x - past.zclip_mean)]
    std = unit_norms(jnp.stack(parts), 0).product[0]
    mean = past.zclip_mean + weight * (x - past.zclip_mean)
    return past._replace(zclip_mean=mean, zclip_std=std, zclip_seen=seen)


def _root(x: jax.Array) -> jax.Array:
    """Computes the square root of a number >= 0, with a finite derivative at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0 * x)


def _rescale(
    new: ZClipStatistics, past: ZClipStatistics, ended: jax.Array, least: jax.Array
) -> ZClipStatistics:
    """Sets the mean to the smallest norm of an ended streak, and rescales the std."""
    positive = ended & (past.zclip_mean > 0)
    factor = safe_ratio(least, jnp.where(positive, past.zclip_mean, 1))
    return new._replace(
        zclip_mean=jnp.where(positive, least, new.zclip_mean),
        zclip_std=jnp.where(positive, past.zclip_std * factor, new.zclip_std),
    )
