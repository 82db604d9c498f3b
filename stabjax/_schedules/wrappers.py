"""Any schedule with a warmup, a cooldown or bounds; multiplied, repeated, shifted."""

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
    """Returns a schedule with a warmup in front of it.

        f(t) = I + (s(0) - I) g(t / W)    for t < W
        f(t) = s(t - W)                   for t >= W

    The shapes g(q) are "linear" q, "cosine" sin(pi q / 2)^2, "1-sqrt" 1 - sqrt(1 - q),
    "square" 1 - (1 - q)^2 and "mirror-cosine" 2 q - sin(pi q / 2)^2; for "exponential"
    f = I^(1 - q) s(0)^q.

    The first update has the value `init_value`: with 0 it changes nothing. For a linear
    warmup to the peak P whose first value is P / (W + 1), pass that as `init_value`. A
    factor that leaves the count of the schedule alone is a second schedule:
    `multiply_schedules([schedule, linear_schedule(0.0, 1.0, warmup_steps)])`.

    Args:
      schedule: s, any function of the count.
      warmup_steps: W in steps, >= 0; 0 is no warmup. **Traceable.** Without a fraction,
        integer counts beyond 2**24 stay exact.
      init_value: I, the value at step 0. **Traceable.**
      shape: one of the above. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `warmup_steps` is not >= 0.

    Raises:
      ValueError: an unknown shape, concrete `warmup_steps` are not >= 0, or a concrete
        `init_value` of an exponential warmup is not > 0.
      TypeError: an argument is not a number.

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
    check_shape(shape, "init_value", init_value)
    good = check("warmup_steps", warmup_steps, ">= 0")

    def warmed(count: Number) -> Number:
        own_count = since(count, warmup_steps)
        value = schedule(jnp.maximum(own_count, 0))
        # A cooldown from the value, backwards.
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
    """Returns a schedule that decays to an end value from a given step on.

        f(t) = s(t)                      for t <= b
        f(t) = E + (s(b) - E) g(q)       for t > b,    q = min((t - b) / D, 1)

    The shapes g(q) are "linear" 1 - q, "1-sqrt" 1 - sqrt(q), "cosine" cos(pi q / 2)^2,
    "square" 1 - q^2 and "mirror-cosine" 2 (1 - q) - cos(pi q / 2)^2; for "exponential"
    f = s(b)^(1 - q) E^q.

    To decay from a checkpoint, pass the count saved with it as `start`. Up to there the
    schedule is unchanged, so several decays can branch off one run.

    Args:
      schedule: s, any function of the count; it is never called beyond `start`.
      start: b, the last step of the schedule itself. **Traceable.** Without a fraction,
        integer counts beyond 2**24 stay exact.
      decay_steps: D in steps, >= 0; 0 goes to `end_value` at `start`. **Traceable.**
      end_value: E, the value from step b + D on, exactly. **Traceable.**
      shape: one of the above. **Static.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `decay_steps` is not >= 0.

    Raises:
      ValueError: an unknown shape, concrete `decay_steps` are not >= 0, or a concrete
        `end_value` of an exponential cooldown is not > 0.
      TypeError: an argument is not a number.

    Example:
      >>> import stabjax
      >>> constant = stabjax.constant_schedule(1.0)
      >>> schedule = stabjax.with_cooldown(constant, 100, 20, shape="1-sqrt")
      >>> [round(float(schedule(count)), 4) for count in (0, 100, 105, 120, 200)]
      [1.0, 1.0, 0.5, 0.0, 0.0]

    References:
      Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training
      Durations, 2024. https://arxiv.org/abs/2405.18392
    """
    check_shape(shape, "end_value", end_value)
    good = check("decay_steps", decay_steps, ">= 0")

    def cooled(count: Number) -> Number:
        value = schedule(jnp.minimum(count, as_whole(start)))
        gone = fraction_gone(count, start, decay_steps)
        left = fraction_left(count, start, decay_steps)
        return nan_unless(good, between(shape, value, end_value, gone, left))

    return cooled


@builder
def multiply_schedules(schedules: Sequence[Schedule]) -> Schedule:
    """Returns the product of schedules: `f(t) = s_1(t) s_2(t) ...`.

    Args:
      schedules: functions of the count; their number is static.

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      ValueError: there is no schedule.

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
        raise ValueError("schedules must hold at least one schedule, got none.")

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
    """Returns a schedule that starts again after a period, stretched each time.

        f(t) = s((t - b_i) / m^i)    for b_i <= t < b_{i+1} = b_i + P m^i,    b_0 = 0

    Args:
      schedule: s, any function of the count. It is called with counts below `period`,
        which have fractions where a cycle is stretched.
      period: P, the length of the first cycle in steps, > 0. **Traceable.** Without a
        fraction, and with `period_factor` 1, integer counts beyond 2**24 stay exact.
      period_factor: m, the length of a cycle relative to the one before, >= 1.
        **Traceable.** The Python number 1 needs no logarithm.

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced argument is out of its range.

    Raises:
      ValueError: a concrete `period` is not > 0, or a `period_factor` is not >= 1.
      TypeError: an argument is not a number.

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
    """Returns a schedule that is some steps ahead: `f(t) = s(max(t + n, 0))`.

    With the count of a checkpoint, it continues where that run stopped, although the
    new optimizer counts from 0.

    Args:
      schedule: s, any function of the count.
      steps: n in steps; a negative number first holds s(0) that long. **Traceable.**
        Without a fraction, integer counts beyond 2**24 stay exact.

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      TypeError: `steps` is not a number.

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
    """Returns a schedule kept between bounds: `f(t) = min(max(s(t), a), b)`.

    Args:
      schedule: s, any function of the count.
      min_value: a, or None for no bound. **Traceable.**
      max_value: b, or None for no bound; it wins where a > b. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      ValueError: concrete bounds have `min_value` above `max_value`.
      TypeError: a bound is not a number.

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
