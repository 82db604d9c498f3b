"""Clipping of elements that spike above their second moment (SPAM)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from stabjax._arguments import check_choice
from stabjax._axes import Axes, any_shard
from stabjax._clipping.averages import (
    Moved,
    Step,
    Weight,
    average_weight,
    bias_correction,
    update_root,
    with_averages,
)
from stabjax._clipping.moments import (
    AdamStep,
    adam_step,
    cosine_warmup,
    since_reset,
    update_moments,
)
from stabjax._clipping.numbers import checked
from stabjax._norms import safe_root, widened
from stabjax._scaling import cast_back
from stabjax._types import Number


class SecondMomentClipState(NamedTuple):
    """State of `clip_by_second_moment`.

    Attributes:
      spike_step: number of finite updates (int32).
      spike_clips: number of updates with a clipped element (int32).
      spike_root: square roots of the bias-corrected second moments.
      metrics: `grad_norm`, `clipped`, `clip_fraction`. See `stabjax.metrics`.
    """

    spike_step: jax.Array
    spike_clips: jax.Array
    spike_root: optax.Params
    metrics: dict[str, jax.Array]


class SpamState(NamedTuple):
    """State of `scale_by_spam`.

    Attributes:
      spam_step: number of finite updates (int32).
      spam_clips: number of updates with a clipped element (int32).
      spam_mean: bias-corrected first moments.
      spam_root: square roots of the bias-corrected second moments.
      metrics: `grad_norm`, `clipped`, `clip_fraction`. See `stabjax.metrics`.
    """

    spam_step: jax.Array
    spam_clips: jax.Array
    spam_mean: optax.Params
    spam_root: optax.Params
    metrics: dict[str, jax.Array]


def clip_by_second_moment(
    threshold: Number = 5000.0,
    decay: Number = 0.999,
    clip_delay: Number = 20,
    *,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Clips each element to a multiple of the square root of its second moment.

    This is SPAM's spike-aware clipping, for use with any optimizer. The second moment
    `v` of each element is initialized to 0.

        u = sign(g) min(|g|, sqrt(threshold v))  for update number >= `clip_delay`
        v = decay v + (1 - decay) u^2

    Args:
      threshold: maximum ratio of an element's square to its second moment, >= 0. Use
        inf to disable clipping. **Traceable.**
      decay: decay rate of the second moment, in [0, 1). **Traceable.**
      clip_delay: number of the first update to clip, >= 0. **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with a `SecondMomentClipState`. Elements with a second moment of
      0 are not clipped (in SPAM's implementation, they stay 0 permanently). A
      non-finite gradient turns every element into NaN and leaves the state unchanged.
      While an element is clipped, its bound grows by a factor of
      `sqrt(1 + (1 - decay) (threshold - 1))` per update, which is 2.4 with the default
      arguments. If elements become permanently larger by a factor of 100, clipping
      therefore stops at the fourth update. If elements become smaller, they are not
      clipped.

    Raises:
      ValueError: If an argument is concrete and out of range or not a scalar.
      TypeError: If an argument is not a number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_second_moment(4.0, decay=0.75, clip_delay=2)
      >>> state = clipping.init(jnp.zeros(2))
      >>> for entry in (1.0, 10.0):
      ...     updates, state = clipping.update(jnp.array([entry, 0.1]), state)
      ...     print([round(float(u), 4) for u in updates])
      [1.0, 0.1]
      [1.0, 0.1]

    References:
      Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training,
      2025. https://arxiv.org/abs/2501.06842
    """
    scalars = checked(threshold=(threshold, ">= 0"), decay=(decay, "in [0, 1)"))
    counts = checked(clip_delay=(clip_delay, ">= 0"))

    def rule(step: Step) -> list[Moved]:
        threshold, b = scalars(step.dtype)
        (first,) = counts(jnp.int32)
        active = (step.number >= first) & (step.number > 1)
        bound = _element_bound(threshold, b, step.number, active, zeros=False)
        weight = average_weight(b, step.number, step.finite)

        return [
            _clip_leaf(g, root, bound, weight, axes)
            for g, (root,), axes in step.leaves()
        ]

    return with_averages(
        SecondMomentClipState,
        "clip_by_second_moment",
        rule,
        axis_name,
        moments=1,
    )


def scale_by_spam(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-6,
    *,
    threshold: Number = 5000.0,
    reset_every: Number = 500,
    warmup_steps: Number = 150,
    clip_delay: Number = 20,
    reference: bool = False,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Rescales updates with SPAM: Adam with spike-aware clipping and moment resets.

    If `n` is a multiple of `reset_every`, update number `n` begins by setting the
    moments to 0. Each element is then clipped to `sqrt(threshold v)`, except in the
    `clip_delay` updates that follow a reset. Let `k` be the number of updates since the
    last reset:

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        u = s_k sqrt(1 - b2^(k + 1)) / (1 - b1^(k + 1)) m / (sqrt(v) + eps)
        s_k = 1 - 0.99 (1 + cos(pi k / (warmup_steps + 1))) / 2

    The factor `s_k` is 1 before the first reset and for `k >= warmup_steps`.

    Set `reference=True` to reproduce the authors' implementation, which differs in two
    ways. After a reset, bias correction still uses the total number of updates, which
    makes the next updates about three times too large. Elements with a second moment of
    0 are clipped to 0 and never recover.

    Args:
      b1: decay rate of the first moment, in [0, 1). **Traceable.**
      b2: decay rate of the second moment, in [0, 1). **Traceable.**
      eps: added to the denominator, >= 0. **Traceable.**
      threshold: maximum ratio of an element's square to its second moment, >= 0. Use
        inf to disable clipping. **Traceable.**
      reset_every: number of updates between resets, >= 0. Use 0 to disable.
        **Traceable.**
      warmup_steps: number of updates over which `s_k` rises, >= 0. **Traceable.**
      clip_delay: number of updates without clipping after a reset, >= 0. **Traceable.**
      reference: whether to reproduce the authors' implementation. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with a `SpamState`. Place it before weight decay and the learning
      rate. A non-finite gradient turns every element into NaN and leaves the state
      unchanged. If gradients become permanently larger or smaller by a factor of 100,
      the updates return to within a factor of 2 of their previous size after at most
      `reset_every + warmup_steps` updates, because the next reset discards the old
      moments.

    Raises:
      ValueError: If an argument is concrete and out of range or not a scalar.
      TypeError: If an argument is not a number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> spam = stabjax.scale_by_spam(0.5, 0.75, 0.0, threshold=4.0, clip_delay=2)
      >>> state = spam.init(jnp.zeros(1))
      >>> for entry in (1.0, 1.0, 10.0):
      ...     updates, state = spam.update(jnp.array([entry]), state)
      ...     print(round(float(updates[0]), 4))
      1.0
      1.0
      1.0293

    References:
      Huang et al., SPAM: Spike-Aware Adam with Momentum Reset for Stable LLM Training,
      2025. https://arxiv.org/abs/2501.06842
    """
    check_choice("reference", reference, (False, True))
    scalars = checked(
        b1=(b1, "in [0, 1)"),
        b2=(b2, "in [0, 1)"),
        eps=(eps, ">= 0"),
        threshold=(threshold, ">= 0"),
        warmup_steps=(warmup_steps, ">= 0"),
    )
    counts = checked(reset_every=(reset_every, ">= 0"), clip_delay=(clip_delay, ">= 0"))

    def rule(step: Step) -> list[Moved]:
        b1, b2, eps, threshold, warmup_steps = scalars(step.dtype)
        reset_every, delay = counts(jnp.int32)
        was_reset, age = since_reset(step.number, reset_every)
        active = jnp.where(was_reset, age - 1, age) >= delay
        if not reference:
            active &= age > 1
        bound = _element_bound(threshold, b2, age, active, zeros=reference)
        debias_count = step.number if reference else age
        # The authors add eps before bias correction, Adam adds it after.
        eps = eps / jnp.sqrt(bias_correction(b2, debias_count))
        adam = adam_step((b1, b2), eps, age, debias_count, step.finite)
        scale = cosine_warmup(was_reset, age, warmup_steps)
        return [
            _spam_leaf(g, averages, bound, adam, scale, axes)
            for g, averages, axes in step.leaves()
        ]

    return with_averages(
        SpamState,
        "scale_by_spam",
        rule,
        axis_name,
        moments=2,
    )


class _ElementBound(NamedTuple):
    """Bounds on elements: `factor` times the square root of their second moment."""

    factor: jax.Array
    active: jax.Array
    zeros: jax.Array  # whether to clip elements with a second moment of 0


def _element_bound(
    threshold: jax.Array,
    decay: jax.Array,
    age: jax.Array,
    active: jax.Array,
    *,
    zeros: bool,
) -> _ElementBound:
    """Computes the bound for update number `age` from the biased second moment."""
    # SPAM uses the moment before g^2 is included, and does not correct its bias.
    square = threshold * bias_correction(decay, age - 1)
    active = active & (square != jnp.inf)
    factor = safe_root(jnp.where(active, square, 1))
    return _ElementBound(factor, active, jnp.asarray(zeros))


def _clip(
    x: jax.Array, root: jax.Array, bound: _ElementBound
) -> tuple[jax.Array, jax.Array]:
    """Clips elements and returns whether any element was clipped."""
    applies = bound.active & (bound.zeros | (root != 0))
    limit = jnp.where(applies, root * bound.factor.astype(root.dtype), jnp.inf)
    return jnp.clip(x, -limit, limit), jnp.any(abs(x) > limit)


# Without `jit`, eager mode would dispatch about twenty operations one by one.
@partial(jax.jit, static_argnames="axes", inline=True)
def _clip_leaf(
    g: jax.Array, root: jax.Array, bound: _ElementBound, weight: Weight, axes: Axes
) -> Moved:
    x, exceeded = _clip(widened(g, root.dtype), root, bound)
    update = cast_back(x, jnp.result_type(g))
    root = update_root(root, x, weight)
    return Moved(update, (root,), any_shard(exceeded, [axes]))


@partial(jax.jit, static_argnames="axes", inline=True)
def _spam_leaf(
    g: jax.Array,
    averages: list[jax.Array],
    bound: _ElementBound,
    adam: AdamStep,
    scale: jax.Array,
    axes: Axes,
) -> Moved:
    mean, root = averages
    x, exceeded = _clip(widened(g, root.dtype), root, bound)
    direction, mean, root = update_moments(x, mean, root, adam)
    update = cast_back(direction * scale.astype(direction.dtype), jnp.result_type(g))
    return Moved(update, (mean, root), any_shard(exceeded, [axes]))
