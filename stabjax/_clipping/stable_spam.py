"""Clipping and normalization by tracked gradient statistics (Stable-SPAM)."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from stabjax._arguments import check_choice
from stabjax._axes import Axes, over_devices
from stabjax._clipping.averages import (
    Moved,
    Step,
    Weight,
    average_weight,
    bias_correction,
    divide_or_zero,
    leaf_norms,
    update_mean,
    with_averages,
)
from stabjax._clipping.moments import AdamStep, adam_step, since_reset, update_moments
from stabjax._clipping.numbers import checked
from stabjax._norms import ScaledNorm, as_scaled, norm_of_leaves, safe_root, widened
from stabjax._scaling import ClipFactor, apply_factor, cast_back, clip_factor
from stabjax._types import Number


class TrackedMaxState(NamedTuple):
    """State of `clip_by_tracked_max`.

    Attributes:
      tracked_max_step: number of finite updates (int32).
      tracked_max_clips: number of updates with a clipped element (int32).
      tracked_max: bias-corrected average of each leaf's largest magnitude.
      metrics: `grad_norm`, `clipped`, `clip_fraction`. See `stabjax.metrics`.
    """

    tracked_max_step: jax.Array
    tracked_max_clips: jax.Array
    tracked_max: jax.Array
    metrics: dict[str, jax.Array]


class TrackedNormState(NamedTuple):
    """State of `normalize_by_tracked_norm`.

    Attributes:
      tracked_norm_step: number of finite updates (int32).
      tracked_norm_clips: number of updates in which a norm decreased (int32).
      tracked_norm_mean: bias-corrected average of each leaf's norm.
      tracked_norm_root: root mean square of each leaf's norm, bias-corrected.
      metrics: `grad_norm`, `clipped`, `clip_fraction`. See `stabjax.metrics`.
    """

    tracked_norm_step: jax.Array
    tracked_norm_clips: jax.Array
    tracked_norm_mean: jax.Array
    tracked_norm_root: jax.Array
    metrics: dict[str, jax.Array]


class StableSpamState(NamedTuple):
    """State of `scale_by_stable_spam`.

    Attributes:
      stable_spam_step: number of finite updates (int32).
      stable_spam_clips: number of updates with a clipped element (int32).
      stable_spam_max: bias-corrected average of each leaf's largest magnitude.
      stable_spam_norm_mean: bias-corrected average of each leaf's norm.
      stable_spam_norm_root: root mean square of each leaf's norm, bias-corrected.
      stable_spam_mean: bias-corrected first moments.
      stable_spam_root: square roots of the bias-corrected second moments.
      metrics: `grad_norm`, `clipped`, `clip_fraction`. See `stabjax.metrics`.
    """

    stable_spam_step: jax.Array
    stable_spam_clips: jax.Array
    stable_spam_max: jax.Array
    stable_spam_norm_mean: jax.Array
    stable_spam_norm_root: jax.Array
    stable_spam_mean: optax.Params
    stable_spam_root: optax.Params
    metrics: dict[str, jax.Array]


def clip_by_tracked_max(
    decay: Number = 0.999, *, axis_name: object = None
) -> optax.GradientTransformation:
    """Clips elements to a moving average of the largest magnitude (AdaFN).

    AdaFN is a component of Stable-SPAM. Let `top` be the largest magnitude in a leaf of
    the gradient, and `M` its bias-corrected moving average:

        M = decay M + (1 - decay) top
        u = g M / top  if |g| > M,  and  u = g  otherwise

    The largest element is scaled to `M`, and other elements above `M` are scaled by the
    same factor. A clipped element can therefore end up smaller than one that was not
    clipped.

    Args:
      decay: decay rate of the average, in [0, 1). **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with a `TrackedMaxState`. A non-finite gradient turns every
      element into NaN and leaves the state unchanged. If gradients become permanently
      larger by any factor, the largest element is scaled down by at most a factor of 2
      after `ln 2 / (1 - decay)` updates (693 with the default). If gradients become
      smaller by a factor of 100, nothing is clipped, and `M` falls below twice the
      largest magnitude after `ln 100 / (1 - decay)` updates.

    Raises:
      ValueError: If `decay` is concrete and out of range or not a scalar.
      TypeError: If `decay` is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> clipping = stabjax.clip_by_tracked_max(decay=0.5)
      >>> state = clipping.init(jnp.zeros(3))
      >>> for grads in ([1.0, 2.0, 3.0], [1.0, 5.0, 9.0]):
      ...     updates, state = clipping.update(jnp.array(grads), state)
      ...     print([round(float(u), 4) for u in updates])
      [1.0, 2.0, 3.0]
      [1.0, 5.0, 7.0]

    References:
      Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam,
      2025. https://arxiv.org/abs/2502.17055
    """
    scalars = checked(decay=(decay, "in [0, 1)"))

    def rule(step: Step) -> list[Moved]:
        (b,) = scalars(step.dtype)
        weight = average_weight(b, step.number, step.finite)
        return [
            _clip_leaf(g, average, weight, axes)
            for g, (average,), axes in step.leaves()
        ]

    return with_averages(
        TrackedMaxState, "clip_by_tracked_max", rule, axis_name, scalars=1
    )


def normalize_by_tracked_norm(
    b1: Number = 0.7,
    b2: Number = 0.9,
    eps: Number = 1e-8,
    *,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Rescales each leaf to the ratio of its average norm to its RMS norm (AdaGN).

    Let `n` be the norm of a leaf, and `m` and `v` the bias-corrected averages of `n`
    and `n^2`, including the current gradient:

        u = (g / n) m / (sqrt(v) + eps)

    The new norm of every leaf is about 1, and spikes hardly affect it. Zero gradients
    stay zero. AdaGN is a component of Stable-SPAM. The authors later published it on
    its own as GradientStabilizer (2026).

    Args:
      b1: decay rate of `m`, in [0, 1). **Traceable.**
      b2: decay rate of `v`, in [0, 1). **Traceable.**
      eps: added to the denominator, >= 0. **Traceable.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with a `TrackedNormState`. A non-finite gradient turns every
      element into NaN and leaves the state unchanged. With the default arguments, if
      gradients become permanently larger by a factor of 100, the new norms stay within
      a factor of 2. If gradients become smaller by the same factor, the new norms are
      much smaller for `ln 10^4 / (1 - b2)` updates (92 with the defaults).

    Raises:
      ValueError: If an argument is concrete and out of range or not a scalar.
      TypeError: If an argument is not a number.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> stabilizer = stabjax.normalize_by_tracked_norm()
      >>> state = stabilizer.init(jnp.zeros(2))
      >>> for size in (1.0, 100.0):
      ...     updates, state = stabilizer.update(size * jnp.array([3.0, 4.0]), state)
      ...     print([round(float(u), 4) for u in updates])
      [0.6, 0.8]
      [0.4899, 0.6532]

    References:
      Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam,
      2025; since its third version, GradientStabilizer: Fix the Norm, Not the Gradient.
      https://arxiv.org/abs/2502.17055
    """
    scalars = checked(b1=(b1, "in [0, 1)"), b2=(b2, "in [0, 1)"), eps=(eps, ">= 0"))

    def rule(step: Step) -> list[Moved]:
        b1, b2, eps = scalars(step.dtype)
        adam = adam_step((b1, b2), eps, step.number, step.number, step.finite)
        return [
            _normalize_leaf(g, norm, averages, adam)
            for (g, averages, _), norm in zip(
                step.leaves(), leaf_norms(step), strict=True
            )
        ]

    return with_averages(
        TrackedNormState, "normalize_by_tracked_norm", rule, axis_name, scalars=2
    )


def scale_by_stable_spam(
    b1: Number = 0.9,
    b2: Number = 0.999,
    eps: Number = 1e-8,
    *,
    gamma1: Number = 0.7,
    gamma2: Number = 0.9,
    gamma3: Number = 0.999,
    reset_every: Number = 1000,
    reference: bool = False,
    axis_name: object = None,
) -> optax.GradientTransformation:
    """Rescales updates with Stable-SPAM: AdaFN, AdaGN, and Adam with moment resets.

    Combines `stabjax.clip_by_tracked_max(gamma3)`,
    `stabjax.normalize_by_tracked_norm(gamma1, gamma2, eps)` and Adam inside
    `stabjax.reset_moments` in one transformation. Resets do not affect AdaFN's and
    AdaGN's statistics. To reproduce the authors' option `total_T`, pass cosine
    schedules for `gamma1` and `b1` with `optax.inject_hyperparams`.

    Set `reference=True` to reproduce the authors' implementation, which differs in two
    ways. A reset also resets the count that corrects the bias of AdaFN's and AdaGN's
    statistics, and AdaFN then clips almost nothing for a thousand updates. The update
    of the reset uses the old moments with the bias correction of new ones.

    Args:
      b1: decay rate of Adam's first moment, in [0, 1). **Traceable.**
      b2: decay rate of Adam's second moment, in [0, 1). **Traceable.**
      eps: added to the denominators of Adam and AdaGN, >= 0. **Traceable.**
      gamma1: decay rate of AdaGN's average norm, in [0, 1). The authors use 0.85 in
        bfloat16. **Traceable.**
      gamma2: decay rate of AdaGN's average squared norm, in [0, 1). The authors use
        0.99999 in bfloat16. **Traceable.**
      gamma3: decay rate of AdaFN's average, in [0, 1). **Traceable.**
      reset_every: number of updates between resets, >= 0. Use 0 to disable. The authors
        use 500 for 4-bit training. **Traceable.**
      reference: whether to reproduce the authors' implementation. **Static.**
      axis_name: see `stabjax.global_norm`. **Static.**

    Returns:
      A transformation with a `StableSpamState`. Place it before weight decay and the
      learning rate. A non-finite gradient turns every element into NaN and leaves the
      state unchanged. With the default arguments, if gradients become permanently
      larger by a factor of 100, the size of the updates stays within a factor of 2. If
      gradients become smaller by the same factor, the updates return to their previous
      size after `ln 10^4 / (1 - gamma2) + 1 / (1 - b1)` updates (102 with the
      defaults).

    Raises:
      ValueError: If an argument is concrete and out of range or not a scalar.
      TypeError: If an argument is not a number, or a parameter is complex.

    Example:
      >>> import jax.numpy as jnp
      >>> import stabjax
      >>> stable_spam = stabjax.scale_by_stable_spam(gamma3=0.9)
      >>> state = stable_spam.init(jnp.zeros(2))
      >>> for size in (1.0, 1.0, 10.0):
      ...     updates, state = stable_spam.update(size * jnp.array([3.0, 4.0]), state)
      >>> [round(float(u), 4) for u in updates]
      [0.9962, 0.9962]

    References:
      Huang et al., Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam,
      2025. https://arxiv.org/abs/2502.17055
    """
    check_choice("reference", reference, (False, True))
    scalars = checked(
        b1=(b1, "in [0, 1)"),
        b2=(b2, "in [0, 1)"),
        eps=(eps, ">= 0"),
        gamma1=(gamma1, "in [0, 1)"),
        gamma2=(gamma2, "in [0, 1)"),
        gamma3=(gamma3, "in [0, 1)"),
    )
    counts = checked(reset_every=(reset_every, ">= 0"))

    def rule(step: Step) -> list[Moved]:
        b1, b2, eps, gamma1, gamma2, gamma3 = scalars(step.dtype)
        (every,) = counts(jnp.int32)
        _, age = since_reset(step.number, every)
        norm_count, moments_age = step.number, age
        if reference:
            # The authors reset counts before an update and moments after it.
            norm_count = since_reset(step.number - 1, every)[1] + 1
            within = (step.number - 1) % jnp.maximum(every, 1) + 1
            moments_age = jnp.where(every > 0, within, step.number)
        numbers = _Numbers(
            average_weight(gamma3, step.number, step.finite),
            bias_correction(gamma3, step.number) / bias_correction(gamma3, norm_count),
            adam_step((gamma1, gamma2), eps, step.number, norm_count, step.finite),
            adam_step((b1, b2), eps, moments_age, age, step.finite),
        )
        return [
            _stable_spam_leaf(g, averages, numbers, axes)
            for g, averages, axes in step.leaves()
        ]

    return with_averages(
        StableSpamState, "scale_by_stable_spam", rule, axis_name, scalars=3, moments=2
    )


class _Numbers(NamedTuple):
    largest: Weight
    bias: jax.Array  # factor applied to AdaFN's average
    norms: AdamStep
    moments: AdamStep


def _clip(
    x: jax.Array, average: jax.Array, weight: Weight, bias: Number, axes: Axes
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Clips elements, updates the average, and flags whether anything was clipped."""
    top = norm_of_leaves([x], (axes,), math.inf, False).product
    # The average includes the current maximum before it is used as the bound.
    average = update_mean(average, top, weight)
    bound = average * bias
    factor = clip_factor(as_scaled(top), bound)
    # In this order a NaN bound propagates, because comparisons with NaN are false. If
    # the maximum shares abs(x), XLA:CPU (jaxlib 0.10) writes it to memory.
    real = not jnp.iscomplexobj(x)
    within = (x <= bound) & (x >= -bound) if real else abs(x) <= bound
    x = jnp.where(within, x, apply_factor(x, factor))
    return x, average, factor.exceeded, jnp.minimum(top, bound)


def _normalize(
    x: jax.Array, norm: ScaledNorm, mean: jax.Array, root: jax.Array, adam: AdamStep
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Normalizes elements, updates both averages, and flags decreased norms."""
    # Caps norms at half the dtype's maximum: an average never recovers from inf, and an
    # average of the maximum may round to inf.
    value = jnp.minimum(norm.product, np.finfo(mean.dtype).max / 2).astype(mean.dtype)
    target, mean, root = update_moments(value, mean, root, adam)
    smaller = target < value
    # Dividing by the unit before applying the quotient avoids overflow and underflow.
    quotient = divide_or_zero(target, norm.value)
    x = apply_factor(x, ClipFactor(1 / norm.unit, quotient, smaller))
    return x, mean, root, smaller


# Without `jit`, eager mode would dispatch about fifty operations one by one.
@partial(jax.jit, static_argnames="axes", inline=True)
def _clip_leaf(g: jax.Array, average: jax.Array, weight: Weight, axes: Axes) -> Moved:
    x = widened(g, average.dtype)
    x, average, clipped, _ = _clip(x, average, weight, 1.0, axes)
    return Moved(cast_back(x, jnp.result_type(g)), (average,), clipped)


@partial(jax.jit, inline=True)
def _normalize_leaf(
    g: jax.Array, norm: ScaledNorm, averages: list[jax.Array], adam: AdamStep
) -> Moved:
    mean, root = averages
    x, mean, root, smaller = _normalize(widened(g, mean.dtype), norm, mean, root, adam)
    return Moved(cast_back(x, jnp.result_type(g)), (mean, root), smaller)


@partial(jax.jit, static_argnames="axes", inline=True)
def _stable_spam_leaf(
    g: jax.Array, averages: list[jax.Array], numbers: _Numbers, axes: Axes
) -> Moved:
    largest, norm_mean, norm_root, mean, root = averages
    x = widened(g, mean.dtype)
    bias = numbers.bias.astype(mean.dtype)
    x, largest, clipped, top = _clip(x, largest, numbers.largest, bias, axes)
    # The maximum provides the scale, so one sum yields the norm after clipping.
    unit = as_scaled(top).unit
    squares = over_devices(jnp.sum((x * (1 / unit)) ** 2), axes)
    norm = ScaledNorm(safe_root(squares), unit)
    x, *norms, _ = _normalize(x, norm, norm_mean, norm_root, numbers.norms)
    x, mean, root = update_moments(x, mean, root, numbers.moments)
    update = cast_back(x, jnp.result_type(g))
    return Moved(update, (largest, *norms, mean, root), clipped)
