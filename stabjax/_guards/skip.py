"""Wrappers that skip a bad step: no update, and the optimizer's state stays."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from stabjax._arguments import as_integer, is_schedule, unrounded
from stabjax._guards.guard import Step, Verdict, checked, guard
from stabjax._guards.history import History, limits_of, no_history, recorded
from stabjax._guards.mesh import scalar_loss
from stabjax._types import Number, Schedule


def skip_if_nonfinite(
    inner: optax.GradientTransformation,
    *,
    max_consecutive: Number = jnp.inf,
    axis_name: object = None,
) -> optax.GradientTransformationExtraArgs:
    """Skips the steps whose gradient is not finite.

    If an element of the gradient is inf or NaN, the update is zero and the state of
    `inner` stays as it was, including its step counts. The guard learns nothing from
    the past: the next finite gradient is an ordinary step. Optax's `apply_if_finite`
    gives up after a number of steps, which it requires.

    Derivatives through a skipped step are finite, and zero with respect to its
    gradient. (The operation that computed a NaN may still make NaN of that zero.)

    `optax.MultiSteps` belongs inside,
    `skip_if_nonfinite(optax.MultiSteps(...).gradient_transformation())`. Around a
    guard, it keeps a NaN in its accumulated gradient, and every later update is
    skipped; `stabjax.check_guards` raises in that case. Whatever else a step changes,
    such as batch statistics, `stabjax.unless_skipped` leaves as it was.

    Args:
      inner: the whole optimizer; extra arguments reach it.
      max_consecutive: the next bad step after this number of skipped steps in a row is
        applied, and so are those that follow until a good one; >= 0. Infinite, the
        default, skips them all. **Traceable.**
      axis_name: the mapped axes over which the leaves are sharded, as in
        `stabjax.global_norm`, for axes that types do not show; all shards decide alike.
        **Static.**

    Returns:
      A transformation with a `GuardState`. Its metrics are `skipped` (whether the last
      step was), `skip_count`, `skip_fraction`, `consecutive` (bad steps in a row),
      `nonfinite` (whether the last gradient was), `nonfinite_count`, `nonfinite_leaf`
      (the position, in the tree, of the first leaf that was not finite when that began
      last; -1 if all always were) and `grad_norm`. See `stabjax.check_guards`.

    Raises:
      TypeError: `inner` is not an Optax transformation, or a leaf is not an array.
      ValueError: `max_consecutive` is negative.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_if_nonfinite(optax.sgd(0.1))
      >>> state = optimizer.init(jnp.zeros(2))
      >>> updates, state = optimizer.update(jnp.array([1.0, jnp.nan]), state)
      >>> print(updates, int(stabjax.metrics(state)["skip_if_nonfinite/skip_count"]))
      [0. 0.] 1
    """

    def judge(step: Step, history: Any) -> Verdict:
        del step
        return Verdict({}, {}, history)

    return guard(
        "skip_if_nonfinite", inner, judge, lambda dtype: (), max_consecutive, axis_name
    )


def skip_above_norm(
    inner: optax.GradientTransformation,
    drop_norm: Number | Schedule,
    *,
    max_consecutive: Number = jnp.inf,
    axis_name: object = None,
) -> optax.GradientTransformationExtraArgs:
    """Skips the steps whose gradient is too large, or not finite.

    A step is skipped, as by `stabjax.skip_if_nonfinite`, unless
    `||g||_2 <= drop_norm`. The guard learns nothing from the past: the next gradient
    within the limit is an ordinary step, and after a lasting change of scale the limit
    must change.

    Args:
      inner: the whole optimizer; extra arguments reach it.
      drop_norm: the largest norm that is applied, >= 0, or a schedule of it, given the
        number of steps so far including skipped ones, whose values in (-1e-6, 0) count
        as 0. Where it is negative, or a traced number is, the limit is NaN and every
        step is skipped. **Traceable.**
      max_consecutive: as in `stabjax.skip_if_nonfinite`. **Traceable.**
      axis_name: as in `stabjax.skip_if_nonfinite`. **Static.**

    Returns:
      A transformation with a `GuardState`. Its metrics are those of
      `stabjax.skip_if_nonfinite`, `drop_norm`, and `large_count`.

    Raises:
      TypeError: `inner` is not an Optax transformation, or `drop_norm` is neither a
        number nor a schedule.
      ValueError: a number is negative.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_above_norm(optax.sgd(0.1), drop_norm=4.0)
      >>> state = optimizer.init(jnp.zeros(2))
      >>> updates, state = optimizer.update(jnp.array([3.0, 4.0]), state)
      >>> print(updates)
      [0. 0.]

    References:
      Apple, AXLearn, `drop_norm`. https://github.com/apple/axlearn
      NVIDIA, Megatron-LM, `grad_norm_skip_threshold`.
      https://github.com/NVIDIA/Megatron-LM
    """
    if not is_schedule(drop_norm):
        drop_norm = checked("drop_norm", drop_norm, ">= 0")

    def judge(step: Step, history: Any) -> Verdict:
        limit = drop_norm
        if is_schedule(drop_norm):
            limit = unrounded(drop_norm(step.number))
            limit = jnp.where(limit < 0, jnp.nan, limit)
        # A copy, so that a donated state does not take the caller's array with it.
        limit = jnp.array(limit, step.grad_norm.dtype)
        large = ~step.nonfinite & ~(step.grad_norm <= limit)
        return Verdict({"large_count": large}, {"drop_norm": limit}, history)

    return guard(
        "skip_above_norm", inner, judge, lambda dtype: (), max_consecutive, axis_name
    )


def skip_on_spike(
    inner: optax.GradientTransformation,
    *,
    z_threshold: Number = 6.0,
    window: int = 128,
    min_count: Number | None = None,
    max_consecutive: Number = jnp.inf,
    axis_name: object = None,
) -> optax.GradientTransformationExtraArgs:
    """Skips the steps whose loss or gradient norm spikes, or is not finite.

    With `m` and `s` the mean and the standard deviation of the last `window` losses
    before this one, and `M` the largest of their magnitudes, the loss `x` is a spike if

        x > m + z_threshold * max(s, 1e-6 M)

    and so is a gradient norm, by the last norms. A step with a spike is skipped, as by
    `stabjax.skip_if_nonfinite`.

    Spikes enter the history, so that a lasting rise is accepted: a jump to a new level
    of any height after at most `ceil(window / (1 + z_threshold^2))` skipped steps,
    which are 4 with the defaults. After `window` more steps the old level is forgotten
    and the guard as sensitive as before. Values that are not finite never enter, and
    the step after one is an ordinary step.

    OLMo-core's rule multiplies skipped updates by 0, which keeps NaN; takes NaN into
    its history, and skips the `window` steps that follow; skips the second step of a
    window of five or less, whose deviation is NaN; and skips any rise after a constant.

    Args:
      inner: the whole optimizer; extra arguments reach it.
      z_threshold: the number of standard deviations; >= 0. **Traceable.**
      window: number of losses and norms in the history; >= 2. **Static.**
      min_count: number of steps in the history before anything is a spike, in
        [1, window]; None is half the window, and at least 2. **Traceable.**
      max_consecutive: after this number of skipped steps in a row the next one is
        applied; infinite, only the rule above accepts it. >= 0. **Traceable.**
      axis_name: as in `stabjax.skip_if_nonfinite`; the loss is averaged over it.
        **Static.**

    Returns:
      A transformation with a `GuardState`. Its `update` takes the loss as the extra
      argument `value`; without it, only the norm is judged. Metrics are those of
      `stabjax.skip_if_nonfinite`, the limits `value_limit` and `grad_norm_limit`, and
      how often each of them was exceeded: `grad_norm_count` and `value_count`, which
      also counts losses that were not finite.

    Raises:
      TypeError: `inner` is not an Optax transformation, or a number is not one.
      ValueError: a number is out of range, or `value` is not a scalar.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> import stabjax
      >>> optimizer = stabjax.skip_on_spike(optax.sgd(1.0), window=4)
      >>> state = optimizer.init(jnp.zeros(()))
      >>> for loss in (2.0, 2.1, 1.9, 9.0, 2.0):
      ...     update, state = optimizer.update(jnp.ones(()), state, value=loss)
      ...     print(float(update), end=" ")
      -1.0 -1.0 -1.0 0.0 -1.0

    References:
      Ai2, OLMo-core, `SkipStepOptimizer`. https://github.com/allenai/OLMo-core
    """
    window = as_integer("window", window, ">= 2")
    least = max(2, window // 2) if min_count is None else min_count
    least = checked("min_count", least, f"in [1, {window}]")
    z = checked("z_threshold", z_threshold, ">= 0")

    def judge(step: Step, history: History) -> Verdict:
        # Without a loss a constant, which never spikes.
        value = 0.0 if step.value is None else step.value
        loss = scalar_loss(value, step.grad_norm.dtype, axis_name)
        latest = jnp.stack([loss, step.grad_norm])
        limits = limits_of(history, z, least)
        finite = jnp.isfinite(latest)
        spikes = jnp.where(finite, latest > limits, False)
        return Verdict(
            {"value_count": spikes[0] | ~finite[0], "grad_norm_count": spikes[1]},
            {"value_limit": limits[0], "grad_norm_limit": limits[1]},
            recorded(history, latest),
        )

    return guard(
        "skip_on_spike",
        inner,
        judge,
        partial(no_history, window),
        max_consecutive,
        axis_name,
    )
