"""Wrappers that skip bad steps without changing the optimizer state."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax

from stabjax._arguments import as_integer, is_schedule, unrounded
from stabjax._guards.decision import Step, Verdict, checked, guard
from stabjax._guards.history import History, limits_of, no_history, recorded
from stabjax._guards.mesh import scalar_loss
from stabjax._types import Number, Schedule


def skip_if_nonfinite(
    inner: optax.GradientTransformation,
    *,
    max_consecutive: Number = jnp.inf,
    axis_name: object = None,
) -> optax.GradientTransformationExtraArgs:
    """Skips steps with a non-finite gradient.

    If any element of the gradient is inf or NaN, the update is zero and the state of
    `inner` is unchanged, including step counts. Past steps do not affect later
    decisions. Unlike Optax's `apply_if_finite`, this wrapper has no mandatory limit on
    the number of skipped steps.

    Derivatives through a skipped step are finite, and zero with respect to its
    gradient. (The operation that produced a NaN may still turn this zero into NaN.)

    Put `optax.MultiSteps` inside the guard, as in
    `skip_if_nonfinite(optax.MultiSteps(...).gradient_transformation())`. If it is
    outside instead, a NaN stays in its accumulated gradient and every later update is
    skipped. `stabjax.check_guards` raises an error in this case. Use
    `stabjax.unless_skipped` for other state that a step changes, such as batch
    statistics.

    Args:
      inner: the complete optimizer. Extra arguments are passed to it.
      max_consecutive: maximum number of consecutive steps to skip, >= 0. Further bad
        steps are applied until the next good step. By default, all bad steps are
        skipped. **Traceable.**
      axis_name: mapped axes over which leaves are sharded, if types do not track them
        (see `stabjax.global_norm`). All shards make the same decision. **Static.**

    Returns:
      A transformation with a `GuardState`. Its metrics are `skipped` (whether the last
      step was skipped), `skip_count`, `skip_fraction`, `consecutive` (number of
      consecutive bad steps), `nonfinite` (whether the last gradient was non-finite),
      `nonfinite_count`, `nonfinite_leaf` (index of the first non-finite leaf when
      gradients last became non-finite, or -1 if they never did) and `grad_norm`. See
      also `stabjax.check_guards`.

    Raises:
      TypeError: If `inner` is not an Optax transformation, or a leaf is not an array.
      ValueError: If `max_consecutive` is negative.

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
    """Skips steps whose gradient norm is too large or non-finite.

    Like `stabjax.skip_if_nonfinite`, but also skips a step unless
    `||g||_2 <= drop_norm`. Past steps do not affect later decisions. If the scale of
    the gradients changes permanently, change `drop_norm`.

    Args:
      inner: the complete optimizer. Extra arguments are passed to it.
      drop_norm: maximum norm of applied gradients, >= 0, or a schedule of the number of
        steps, including skipped ones. Scheduled values in (-1e-6, 0) count as 0. Other
        negative values become NaN and skip every step. **Traceable.**
      max_consecutive: see `stabjax.skip_if_nonfinite`. **Traceable.**
      axis_name: see `stabjax.skip_if_nonfinite`. **Static.**

    Returns:
      A transformation with a `GuardState`. Its metrics are those of
      `stabjax.skip_if_nonfinite`, `drop_norm` and `large_count`.

    Raises:
      TypeError: If `inner` is not an Optax transformation, or `drop_norm` is neither a
        number nor a schedule.
      ValueError: If a number is negative.

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
        # Copied because a donated state would delete the caller's array.
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
    """Skips steps with a spike in the loss or gradient norm, or a non-finite gradient.

    Let `m` and `s` be the mean and standard deviation of the previous `window` losses,
    and `M` their largest magnitude. The loss `x` is a spike if

        x > m + z_threshold * max(s, 1e-6 M)

    The same rule applies to gradient norms. Spikes are skipped as in
    `stabjax.skip_if_nonfinite`.

    Spikes are added to the history, which allows the guard to adapt to permanent
    changes. After a jump to a new level of any height, at most
    `ceil(window / (1 + z_threshold^2))` steps are skipped (4 with the defaults). After
    `window` more steps, the old level is out of the window and the guard is as
    sensitive as before. Non-finite values are never added to the history and do not
    affect the next step.

    OLMo-core's optimizer multiplies skipped updates by 0, which preserves NaN. It adds
    NaN to its history and then skips the next `window` steps. With windows of five or
    fewer steps, it skips the second step because the standard deviation is NaN. It also
    skips any increase after constant values.

    Args:
      inner: the complete optimizer. Extra arguments are passed to it.
      z_threshold: number of standard deviations above the mean, >= 0. **Traceable.**
      window: number of losses and norms in the history, >= 2. **Static.**
      min_count: minimum number of steps in the history to detect spikes, in [1,
        window]. Defaults to half the window, but at least 2. **Traceable.**
      max_consecutive: maximum number of consecutive steps to skip, >= 0. The next step
        is then applied. **Traceable.**
      axis_name: see `stabjax.skip_if_nonfinite`. The loss is averaged over these axes.
        **Static.**

    Returns:
      A transformation with a `GuardState`. Pass the loss to `update` as the extra
      argument `value`. Without a loss, only norms are checked. Its metrics are those of
      `stabjax.skip_if_nonfinite`, the limits `value_limit` and `grad_norm_limit`, and
      the number of times each was exceeded, `value_count` and `grad_norm_count`.
      `value_count` includes non-finite losses.

    Raises:
      TypeError: If `inner` is not an Optax transformation, or an argument is not a
        number.
      ValueError: If a number is out of range, or `value` is not a scalar.

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
        # Without a loss, uses a constant, which never spikes.
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
