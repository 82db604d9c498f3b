"""Wrappers that modify any schedule."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from stabjax._arguments import check, is_concrete, nan_unless
from stabjax._schedules.counts import as_whole, builder, later, since
from stabjax._schedules.cycles import cycle_of
from stabjax._schedules.shapes import (
    Shape,
    between,
    check_shape,
    fraction_gone,
    fraction_left,
)
from stabjax._types import Number, Schedule


@builder
def with_warmup(
    schedule: Schedule,
    warmup_steps: Number,
    *,
    init_value: Number = 0.0,
    shape: Shape = "linear",
) -> Schedule:
    """Adds a warmup before a schedule.

        f(t) = I + (s(0) - I) g(t / W)    for t < W
        f(t) = s(t - W)                   for t >= W

    The shapes g(q) are "linear" q, "cosine" sin(pi q / 2)^2, "1-sqrt" 1 - sqrt(1 - q),
    "square" 1 - (1 - q)^2 and "mirror-cosine" 2 q - sin(pi q / 2)^2. A number p is the
    power q^p. With "exponential", f = I^(1 - q) s(0)^q. With "harmonic", 1 / f
    interpolates linearly between 1 / I and 1 / s(0).

    The value at step 0 is `init_value`, so the first update has no effect if
    `init_value` is 0. For a linear warmup that begins at P / (W + 1), pass that value
    as `init_value`. To warm up without shifting the count of a schedule, multiply by a
    second schedule: `multiply_schedules([schedule, linear_schedule(0.0, 1.0,
    warmup_steps)])`.

    Args:
      schedule: s, any function of the count.
      warmup_steps: W in steps, >= 0. Use 0 to disable. If W is a whole number, integer
        counts above 2**24 are exact. **Traceable.**
      init_value: I, the value at step 0. **Traceable.**
      shape: shape of the warmup, as listed above. A name is **static**, a power > 0 is
        **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `warmup_steps` is not >= 0.

    Raises:
      ValueError: If `shape` is unknown or not > 0, a concrete `warmup_steps` is not >=
        0, or a concrete `init_value` of an exponential or harmonic warmup is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> decay = stabjax.exponential_decay(1.0, 2, 0.5)
      >>> schedule = stabjax.with_warmup(decay, 4)
      >>> [float(schedule(count)) for count in (0, 1, 4, 6, 8)]
      [0.0, 0.25, 1.0, 0.5, 0.25]

    References:
      Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017.
      https://arxiv.org/abs/1706.02677
    """
    good = check_shape(shape, "init_value", init_value)
    good &= check("warmup_steps", warmup_steps, ">= 0")

    def warmed(count: Number) -> Number:
        own_count = since(count, warmup_steps)
        value = schedule(jnp.maximum(own_count, 0))
        # A warmup is a reversed cooldown.
        left = fraction_gone(count, 0, warmup_steps)
        gone = fraction_left(count, 0, warmup_steps)
        rising = between(shape, value, init_value, gone, left)
        return nan_unless(good, jnp.where(own_count < 0, rising, value))

    return warmed


@builder
def with_cooldown(
    schedule: Schedule,
    start: Number,
    decay_steps: Number,
    *,
    end_value: Number = 0.0,
    shape: Shape = "linear",
) -> Schedule:
    """Adds a cooldown to a schedule, beginning at a given step.

        f(t) = s(t)                      for t <= b
        f(t) = E + (s(b) - E) g(q)       for t > b,    q = min((t - b) / D, 1)

    The shapes g(q) are "linear" 1 - q, "1-sqrt" 1 - sqrt(q), "cosine" cos(pi q / 2)^2,
    "square" 1 - q^2 and "mirror-cosine" 2 (1 - q) - cos(pi q / 2)^2. A number p is the
    power (1 - q)^p (Li et al., 2026; Luo et al., 2025, use 1.5). With "exponential", f
    = s(b)^(1 - q) E^q. With "harmonic", 1 / f = (1 - q) / s(b) + q / E, the decay of
    WSD-S (Wen et al., 2024).

    To decay from a checkpoint, pass its count as `start`. Earlier values are unchanged,
    so several decays can branch off from one run.

    Args:
      schedule: s, any function of the count. It is never called with counts above
        `start`.
      start: b, the last step before the cooldown. If b is a whole number, integer
        counts above 2**24 are exact. **Traceable.**
      decay_steps: D in steps, >= 0. With 0, the value drops to `end_value` at `start`.
        **Traceable.**
      end_value: E, the exact value from step b + D onwards. **Traceable.**
      shape: shape of the cooldown, as listed above. A name is **static**, a power > 0
        is **traceable**.

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `decay_steps` is not >= 0.

    Raises:
      ValueError: If `shape` is unknown or not > 0, a concrete `decay_steps` is not >=
        0, or a concrete `end_value` of an exponential or harmonic cooldown is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> constant = stabjax.constant_schedule(1.0)
      >>> schedule = stabjax.with_cooldown(constant, 100, 20, shape="1-sqrt")
      >>> [round(float(schedule(count)), 4) for count in (0, 100, 105, 120, 200)]
      [1.0, 1.0, 0.5, 0.0, 0.0]

    References:
      Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training
      Durations, 2024. https://arxiv.org/abs/2405.18392
      Wen et al., Understanding Warmup-Stable-Decay Learning Rates: A River Valley Loss
      Landscape Perspective, 2024. https://arxiv.org/abs/2410.05192
      Luo et al., A Multi-Power Law for Loss Curve Prediction Across Learning Rate
      Schedules, 2025. https://arxiv.org/abs/2503.12811
      Li et al., Optimal Learning-Rate Schedules under Functional Scaling Laws: Power
      Decay and Warmup-Stable-Decay, 2026. https://arxiv.org/abs/2602.06797
    """
    good = check_shape(shape, "end_value", end_value)
    good &= check("decay_steps", decay_steps, ">= 0")

    def cooled(count: Number) -> Number:
        value = schedule(jnp.minimum(count, as_whole(start)))
        gone = fraction_gone(count, start, decay_steps)
        left = fraction_left(count, start, decay_steps)
        return nan_unless(good, between(shape, value, end_value, gone, left))

    return cooled


@builder
def multiply_schedules(schedules: Sequence[Schedule]) -> Schedule:
    """Multiplies schedules: `f(t) = s_1(t) s_2(t) ...`.

    Args:
      schedules: a sequence of functions of the count.

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      ValueError: If `schedules` is empty.

    Example:
      >>> import stabjax
      >>> decay = stabjax.cosine_decay_schedule(1.0, 10)
      >>> jumps = stabjax.piecewise_constant_schedule(0.1, {5: 0.5})
      >>> schedule = stabjax.multiply_schedules([decay, jumps])
      >>> [round(float(schedule(count)), 4) for count in (0, 4, 5, 10)]
      [0.1, 0.0655, 0.025, 0.0]
    """
    factors = tuple(schedules)
    if not factors:
        raise ValueError("schedules must contain at least one schedule, got none.")

    def product(count: Number) -> Number:
        value, *others = (factor(count) for factor in factors)
        for other in others:
            value = value * other
        return value

    return product


@builder
def repeat_schedule(
    schedule: Schedule, period: Number, period_factor: Number = 1.0
) -> Schedule:
    """Repeats a schedule, optionally with increasingly long cycles.

        f(t) = s((t - b_i) / m^i)    for b_i <= t < b_{i+1} = b_i + P m^i,    b_0 = 0

    Args:
      schedule: s, any function of the count. It is called with counts below `period`,
        which may be fractional if `period_factor` is not 1.
      period: P, the length of the first cycle in steps, > 0. If P is a whole number and
        `period_factor` is 1, integer counts above 2**24 are exact. **Traceable.**
      period_factor: m, the ratio of consecutive cycle lengths, >= 1. The Python number
        1 compiles to a simpler program. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of range.

    Raises:
      ValueError: If a concrete `period` is not > 0, or `period_factor` is not >= 1.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> ramp = stabjax.linear_schedule(1.0, 0.0, 4)
      >>> schedule = stabjax.repeat_schedule(ramp, 4, period_factor=2)
      >>> [float(schedule(count)) for count in (0, 3, 4, 8, 11, 12)]
      [1.0, 0.25, 1.0, 0.5, 0.125, 1.0]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017,
      for the stretched cycles. https://arxiv.org/abs/1608.03983
    """
    good = check("period", period, "> 0")
    good &= check("period_factor", period_factor, ">= 1")

    def repeated(count: Number) -> Number:
        _, position = cycle_of(count, period, period_factor)
        return nan_unless(good, schedule(position))

    return repeated


@builder
def shift_schedule(schedule: Schedule, steps: Number) -> Schedule:
    """Shifts a schedule by a number of steps: `f(t) = s(max(t + n, 0))`.

    To resume a schedule from a checkpoint with a new optimizer whose count starts at 0,
    pass the count of the checkpoint.

    Args:
      schedule: s, any function of the count.
      steps: n in steps. If negative, the value is s(0) for the first -n steps. If n is
        a whole number, integer counts above 2**24 are exact. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      TypeError: If `steps` is not a number.

    Example:
      >>> import stabjax
      >>> ramp = stabjax.linear_schedule(1.0, 0.0, 10)
      >>> schedule = stabjax.shift_schedule(ramp, 5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 5)]
      [0.5, 0.4, 0.0]
    """
    return lambda count: schedule(jnp.maximum(later(count, steps), 0))


@builder
def with_bounds(
    schedule: Schedule,
    min_value: Number | None = None,
    max_value: Number | None = None,
) -> Schedule:
    """Clips the values of a schedule: `f(t) = min(max(s(t), a), b)`.

    Args:
      schedule: s, any function of the count.
      min_value: a, or None for no bound. **Traceable.**
      max_value: b, or None for no bound. It takes precedence if a > b. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      ValueError: If concrete bounds have `min_value` above `max_value`.
      TypeError: If a bound is not a number.

    Example:
      >>> import stabjax
      >>> decay = stabjax.exponential_decay(1.0, 1, 0.5)
      >>> schedule = stabjax.with_bounds(decay, min_value=0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 3, 4)]
      [1.0, 0.25, 0.125, 0.1]
    """
    if min_value is not None and max_value is not None:
        crossed = min_value > max_value
        if is_concrete(crossed) and np.any(crossed):
            raise ValueError(
                f"min_value must be <= max_value, got {min_value} and {max_value}."
            )
    return lambda count: jnp.clip(schedule(count), min_value, max_value)
