"""Any schedule with a warm-up, a cool-down, a bound; multiplied, repeated, shifted.

A count is best left an integer, as Optax counts. Steps that are integers, or floats
without a fraction, are then compared and subtracted in integers, which is exact up to
the largest int32; the difference of a phase and its share are float32. A step beyond
2**24 that comes as a float32 array is what float32 made of it.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax

from stabjax._schedules.arguments import (
    ArrayLike,
    as_count,
    check,
    known,
    later,
    nan_unless,
    since,
    standard_promotion,
)
from stabjax._schedules.cycles import cycle_of
from stabjax._schedules.shapes import between, check_shape, share, share_ahead


def with_warmup(
    schedule: optax.Schedule,
    warmup_steps: ArrayLike,
    shape: str = "linear",
    init_value: ArrayLike = 0.0,
) -> optax.Schedule:
    r"""A warm-up in front of any schedule, which begins when it is over.

    .. math::
        f(t) = \begin{cases} I + (s(0) - I)\, g(t / W) & t < W \\
        s(t - W) & t \ge W \end{cases}

    with :math:`g(q)` of the shape: `"linear"` :math:`q`, `"cosine"`
    :math:`\sin^2(\pi q / 2)`, `"1-sqrt"` :math:`1 - \sqrt{1 - q}`, `"square"`
    :math:`1 - (1 - q)^2`, `"mirror-cosine"` :math:`2 q - \sin^2(\pi q / 2)`; and
    :math:`f = I^{1 - q} s(0)^q` for `"exponential"`.

    The first update has the value `init_value`, and with 0 does nothing. For a linear
    warm-up by steps of P/(W + 1) to the peak P give P/(W + 1) as `init_value`. A
    factor that leaves the schedule's own count alone is a second schedule:
    `multiply_schedules([schedule, linear_schedule(0.0, 1.0, warmup_steps)])`.

    Args:
      schedule: :math:`s`, any function of the count.
      warmup_steps: :math:`W` in steps; 0 is no warm-up. Traceable; counts beyond 2**24
        are subtracted exactly if it has no fraction.
      shape: one of the above. Static.
      init_value: :math:`I`, the value at step 0. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if
      `warmup_steps` was traced and is negative.

    Raises:
      ValueError: an unknown shape; concrete `warmup_steps` are negative; a concrete
        `init_value` of an exponential warm-up is not positive.

    Example:
      >>> import stabjax
      >>> decay = stabjax.exponential_decay(1.0, 2, 0.5)
      >>> schedule = stabjax.with_warmup(decay, 4)
      >>> [float(schedule(count)) for count in (0, 1, 4, 6, 8)]
      [0.0, 0.25, 1.0, 0.5, 0.25]

    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017 (arXiv 1706.02677).
    """
    check_shape(shape, "init_value", init_value)
    good = _check_not_negative("warmup_steps", warmup_steps)

    @standard_promotion
    def own_count(count: ArrayLike) -> ArrayLike:
        own = since(count, warmup_steps)
        return jnp.maximum(own, 0)

    @standard_promotion
    def warmed(count: ArrayLike, value: ArrayLike) -> ArrayLike:
        # A cool-down from the value, backwards.
        q = share_ahead(count, 0, warmup_steps)
        left = share(count, 0, warmup_steps)
        rising = between(shape, value, init_value, q, left)
        return nan_unless(
            good, jnp.where(since(count, warmup_steps) < 0, rising, value)
        )

    return lambda count: warmed(count, schedule(own_count(count)))


def with_cooldown(
    schedule: optax.Schedule,
    start: ArrayLike,
    steps: ArrayLike,
    shape: str = "linear",
    end_value: ArrayLike = 0.0,
) -> optax.Schedule:
    r"""Any schedule up to a step, and from there a decay to the end value.

    .. math::
        f(t) = \begin{cases} s(t) & t \le b \\
        E + (s(b) - E)\, g(q) & t > b \end{cases} \qquad
        q = \min\left(\frac{t - b}{D}, 1\right)

    with :math:`g(q)` of the shape: `"linear"` :math:`1 - q`, `"1-sqrt"`
    :math:`1 - \sqrt q`, `"cosine"` :math:`\cos^2(\pi q / 2)`, `"square"`
    :math:`1 - q^2`, `"mirror-cosine"` :math:`2 (1 - q) - \cos^2(\pi q / 2)`; and
    :math:`f = s(b)^{1 - q} E^q` for `"exponential"`.

    To decay from a checkpoint on, `start` is the count that was saved with it: up to
    there the schedule is the one that made it, so several decays may branch off.

    Args:
      schedule: :math:`s`, any function of the count; it never sees one beyond `start`.
      start: :math:`b`, the last step of the schedule itself. Traceable; counts beyond
        2**24 are subtracted exactly if it has no fraction.
      steps: :math:`D` in steps; 0 goes to `end_value` at `start`. Traceable.
      shape: one of the above. Static.
      end_value: :math:`E`, the value from step b + D on. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if `steps`
      was traced and is negative.

    Raises:
      ValueError: an unknown shape; concrete `steps` are negative; a concrete
        `end_value` of an exponential cool-down is not positive.

    Example:
      >>> import stabjax
      >>> steady = stabjax.constant_schedule(1.0)
      >>> schedule = stabjax.with_cooldown(steady, start=100, steps=20, shape="1-sqrt")
      >>> [round(float(schedule(count)), 4) for count in (0, 100, 105, 120, 200)]
      [1.0, 1.0, 0.5, 0.0, 0.0]

    Source: Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations, 2024 (arXiv 2405.18392).
    """
    check_shape(shape, "end_value", end_value)
    good = _check_not_negative("steps", steps)

    @standard_promotion
    def own_count(count: ArrayLike) -> ArrayLike:
        return jnp.minimum(count, as_count(start))

    @standard_promotion
    def cooled(count: ArrayLike, value: ArrayLike) -> ArrayLike:
        q, left = share(count, start, steps), share_ahead(count, start, steps)
        return nan_unless(good, between(shape, value, end_value, q, left))

    return lambda count: cooled(count, schedule(own_count(count)))


def multiply_schedules(schedules: Sequence[optax.Schedule]) -> optax.Schedule:
    r"""The product of schedules: :math:`f(t) = \prod_i s_i(t)`.

    Args:
      schedules: functions of the count; how many is static.

    Returns:
      A function of the count, of any shape, that returns the value.

    Raises:
      ValueError: there is no schedule.

    Example:
      >>> import stabjax
      >>> wave = stabjax.cosine_decay_schedule(1.0, 10)
      >>> jumps = stabjax.piecewise_constant_schedule(0.1, {5: 0.5})
      >>> schedule = stabjax.multiply_schedules([wave, jumps])
      >>> [round(float(schedule(count)), 4) for count in (0, 4, 5, 10)]
      [0.1, 0.0655, 0.025, 0.0]

    Source: this library's; PyTorch's ChainedScheduler is its like.
    """
    factors = tuple(schedules)
    if not factors:
        raise ValueError("schedules must hold at least one schedule, got none.")

    @standard_promotion
    def product(values: Sequence[ArrayLike]) -> ArrayLike:
        result = values[0]
        for value in values[1:]:
            result = result * value
        return result

    return lambda count: product([factor(count) for factor in factors])


def repeat_schedule(
    schedule: optax.Schedule, period: ArrayLike, period_factor: ArrayLike = 1.0
) -> optax.Schedule:
    r"""A schedule again and again, each time stretched by a factor if there is one.

    .. math::
        f(t) = s\left(\frac{t - b_i}{m^i}\right) \quad \text{for } b_i \le t <
        b_{i+1} = b_i + P m^i, \quad b_0 = 0

    Args:
      schedule: :math:`s`, any function of the count; it sees counts below `period`,
        with fractions where a cycle is stretched.
      period: :math:`P`, the length of the first cycle, in steps. Traceable; without a
        fraction, and with `period_factor` 1, counts beyond 2**24 stay exact.
      period_factor: :math:`m`, each cycle's length by that of the one before, at least
        1. Traceable; the Python number 1 costs nothing.

    Returns:
      A function of the count, of any shape, that returns the value, and NaN if an
      argument was traced and is none of those allowed.

    Raises:
      ValueError: a concrete `period` is not positive, a `period_factor` less than 1.

    Example:
      >>> import stabjax
      >>> ramp = stabjax.linear_schedule(1.0, 0.0, 4)
      >>> schedule = stabjax.repeat_schedule(ramp, 4, period_factor=2)
      >>> [float(schedule(count)) for count in (0, 3, 4, 8, 11, 12)]
      [1.0, 0.25, 1.0, 0.5, 0.125, 1.0]

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts,
    2017 (arXiv 1608.03983), for the stretched cycles.
    """
    good = check("period", period, lambda x: x > 0, "positive")
    good &= check("period_factor", period_factor, lambda x: x >= 1, "1 or greater")
    position = standard_promotion(lambda count: cycle_of(count, period, period_factor))
    kept = standard_promotion(nan_unless)
    return lambda count: kept(good, schedule(position(count)[1]))


def shift_schedule(schedule: optax.Schedule, steps: ArrayLike) -> optax.Schedule:
    r"""A schedule that is so many steps ahead: :math:`f(t) = s(\max(t + n, 0))`.

    With the count of a checkpoint it goes on where that training stopped, though the
    new optimizer counts from 0.

    Args:
      schedule: :math:`s`, any function of the count.
      steps: :math:`n` in steps; a negative number holds :math:`s(0)` that long first.
        Traceable; without a fraction counts beyond 2**24 are added exactly.

    Returns:
      A function of the count, of any shape, that returns the value.

    Example:
      >>> import stabjax
      >>> ramp = stabjax.linear_schedule(1.0, 0.0, 10)
      >>> schedule = stabjax.shift_schedule(ramp, 5)
      >>> [round(float(schedule(count)), 4) for count in (0, 1, 5)]
      [0.5, 0.4, 0.0]

    Source: this library's; PyTorch's `last_epoch` is its like.
    """

    @standard_promotion
    def own_count(count: ArrayLike) -> ArrayLike:
        return jnp.maximum(later(count, steps), 0)

    return lambda count: schedule(own_count(count))


def clip_schedule(
    schedule: optax.Schedule,
    min_value: ArrayLike | None = None,
    max_value: ArrayLike | None = None,
) -> optax.Schedule:
    r"""A schedule between bounds: :math:`f(t) = \min(\max(s(t), a), b)`.

    Args:
      schedule: :math:`s`, any function of the count.
      min_value: :math:`a`, or None for no bound. Traceable.
      max_value: :math:`b`, or None for no bound; it wins where a > b. Traceable.

    Returns:
      A function of the count, of any shape, that returns the value.

    Raises:
      ValueError: concrete bounds have `min_value` above `max_value`.

    Example:
      >>> import stabjax
      >>> decay = stabjax.exponential_decay(1.0, 1, 0.5)
      >>> schedule = stabjax.clip_schedule(decay, min_value=0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 2, 3, 4)]
      [1.0, 0.25, 0.125, 0.1]

    Source: this library's.
    """
    bounds = [bound for bound in (min_value, max_value) if bound is not None]
    if len(bounds) == 2 and known(*bounds) and np.any(np.greater(*bounds)):
        raise ValueError(
            f"min_value must not be above max_value, got {min_value} and {max_value}."
        )
    clipped = standard_promotion(jnp.clip)
    return lambda count: clipped(schedule(count), min_value, max_value)


def _check_not_negative(name: str, steps: ArrayLike) -> ArrayLike:
    return check(name, steps, lambda x: x >= 0, "zero or greater")
