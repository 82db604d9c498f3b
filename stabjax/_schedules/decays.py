"""Elementary decay schedules."""

import math

import jax.numpy as jnp

from stabjax._arguments import check, nan_unless, select
from stabjax._schedules.counts import builder, divmod_count, since
from stabjax._schedules.shapes import with_ends
from stabjax._types import Condition, Number, Schedule


def constant_schedule(value: Number) -> Schedule:
    """Returns a constant schedule: `f(t) = v`.

    Args:
      value: v, of any type and shape. **Traceable.**

    Returns:
      A function of the count that returns the object `value`.

    Example:
      >>> import stabjax
      >>> stabjax.constant_schedule(0.3)(100)
      0.3
    """
    return lambda count: value


@builder
def polynomial_schedule(
    init_value: Number,
    end_value: Number,
    power: Number,
    transition_steps: Number,
    transition_begin: Number = 0,
) -> Schedule:
    """Returns a polynomial decay.

        f(t) = E + (I - E) (1 - q)^p,    q = clip(t - B, 0, T) / T

    Args:
      init_value: I, the value until step B. **Traceable.**
      end_value: E, the exact value from step B + T onwards. **Traceable.**
      power: p. Use 1 for a linear schedule. If 0, the value is always `init_value`.
        **Traceable.**
      transition_steps: T in steps. If <= 0, the value is always `init_value`.
        **Traceable.**
      transition_begin: B in steps. Negative values count as 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value. At q = 1,
      the derivative of the power is defined as 0. (For p < 1, it would be infinite.)

    Raises:
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.polynomial_schedule(1.0, 0.0, 2, transition_steps=10)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 50)]
      [1.0, 0.25, 0.0, 0.0]
    """
    off = transition_steps <= 0
    if off is True:
        return constant_schedule(init_value)
    steps = select(off, 1, transition_steps)
    begin = select(transition_begin < 0, 0, transition_begin)
    held = (power == 0) | off
    end = select(held, init_value, end_value)

    def schedule(count: Number) -> Number:
        elapsed = since(count, begin)
        ended = elapsed >= steps
        left = 1 - jnp.clip(elapsed, 0, steps) / steps
        # `left` may be slightly negative due to rounding, and its root NaN.
        height = _power(left, power, ended | (left <= 0))
        value = _mix(init_value, end_value, height)
        return with_ends(value, init_value, elapsed <= 0, end, ended)

    return schedule


@builder
def linear_schedule(
    init_value: Number,
    end_value: Number,
    transition_steps: Number,
    transition_begin: Number = 0,
) -> Schedule:
    """Returns a linear schedule between two values.

        f(t) = E + (I - E) (1 - q),    q = clip(t - B, 0, T) / T

    Args:
      init_value: I, the value until step B. **Traceable.**
      end_value: E, the exact value from step B + T onwards. **Traceable.**
      transition_steps: T in steps. If <= 0, the value is always `init_value`.
        **Traceable.**
      transition_begin: B in steps. Negative values count as 0. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.linear_schedule(0.0, 1.0, 4, transition_begin=2)
      >>> [float(schedule(count)) for count in (0, 2, 3, 4, 6, 50)]
      [0.0, 0.0, 0.25, 0.5, 1.0, 1.0]
    """
    return polynomial_schedule(
        init_value, end_value, 1, transition_steps, transition_begin
    )


@builder
def exponential_decay(
    init_value: Number,
    transition_steps: Number,
    decay_rate: Number,
    transition_begin: Number = 0,
    staircase: bool = False,
    end_value: Number | None = None,
) -> Schedule:
    """Returns an exponential decay.

        f(t) = I r^q,    q = max(t - B, 0) / T

    With `staircase`, q is rounded down. If `end_value` is E, the value is `max(f, E)`
    if r < 1, and `min(f, E)` otherwise.

    Args:
      init_value: I, the value until step B. **Traceable.**
      transition_steps: T in steps. If <= 0, the value is always `init_value`.
        **Traceable.**
      decay_rate: r. If 0, the value is always `init_value`. If negative, the value is
        NaN unless q is an integer. **Traceable.**
      transition_begin: B in steps. Negative values count as 0. **Traceable.**
      staircase: whether to round q down. **Static.**
      end_value: the bound E, or None for no bound. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value.

    Raises:
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.exponential_decay(0.8, 10, 0.5, end_value=0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 20, 50)]
      [0.8, 0.5657, 0.4, 0.2, 0.1]
    """
    off = (transition_steps <= 0) | (decay_rate == 0)
    steps = select(off, 1, transition_steps)
    rate = select(off, 1, decay_rate)
    begin = select(transition_begin < 0, 0, transition_begin)

    def schedule(count: Number) -> Number:
        elapsed = since(count, begin)
        elapsed = select(elapsed < 0, 0, elapsed)
        # Integer arithmetic: as floats, 2e9 - 1 equals 2e9, and XLA may compute 14 / 7
        # as 14 * (1 / 7) < 2.
        periods = elapsed / steps
        if staircase:
            periods = 1.0 * divmod_count(elapsed, steps)[0]
        value: Number = init_value * jnp.power(rate, periods)
        if end_value is not None:
            value = bounded(value, periods, end_value)
        return select(off, init_value, value)

    def bounded(value: Number, periods: Number, bound: Number) -> Number:
        # Beyond its bound, a value may overflow, and its derivative be 0 * inf.
        beyond = jnp.where(rate < 1, value < bound, value > bound)
        value = init_value * jnp.power(rate, jnp.where(beyond, 0, periods))
        value = jnp.where(beyond, bound, value)
        return select(rate < 1, jnp.maximum(value, bound), jnp.minimum(value, bound))

    return schedule


@builder
def cosine_decay_schedule(
    init_value: Number,
    decay_steps: Number,
    alpha: Number = 0.0,
    exponent: Number = 1.0,
) -> Schedule:
    """Returns a cosine decay from a value to a fraction of that value.

        f(t) = I ((1 - alpha) ((1 + cos(pi q)) / 2)^p + alpha),    q = min(t / T, 1)

    Args:
      init_value: I, the value at step 0. **Traceable.**
      decay_steps: T in steps, > 0. **Traceable.**
      alpha: the final value as a fraction of I. **Traceable.**
      exponent: p. If 0, the value is always `init_value`. **Traceable.**

    Returns:
      A function of the count (a scalar or an array) that returns the value, or NaN if a
      traced `decay_steps` is not > 0. At the last step, the derivative of the power is
      defined as 0. (For p < 1/2, it would be infinite.) If `decay_steps` is an array,
      the cosine is computed as the square of a sine, which is more accurate near the
      last step. If it is a Python number, the result equals Optax's bit for bit.

    Raises:
      ValueError: If a concrete `decay_steps` is not > 0.
      TypeError: If an argument is not a number.

    Example:
      >>> import stabjax
      >>> schedule = stabjax.cosine_decay_schedule(0.8, decay_steps=10, alpha=0.1)
      >>> [round(float(schedule(count)), 4) for count in (0, 5, 10, 50)]
      [0.8, 0.44, 0.08, 0.08]

    References:
      Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.
      https://arxiv.org/abs/1608.03983
    """
    return cosine_decay(init_value, decay_steps, alpha, exponent, init_value * alpha)


@builder
def cosine_decay(
    init_value: Number,
    decay_steps: Number,
    alpha: Number,
    exponent: Number,
    end_value: Number,
) -> Schedule:
    """Implements `cosine_decay_schedule` for an unrounded `end_value`."""
    good = check("decay_steps", decay_steps, "> 0")
    init_value = nan_unless(good, init_value)
    end = nan_unless(good, select(exponent == 0, init_value, end_value))

    def schedule(count: Number) -> Number:
        elapsed = jnp.minimum(count, decay_steps)
        wave: Number
        if isinstance(decay_steps, int | float):
            wave = 0.5 * (1 + jnp.cos(jnp.pi * elapsed / decay_steps))
        else:
            wave = (decay_steps - elapsed) / decay_steps
            wave = jnp.square(jnp.sin(jnp.pi / 2 * wave))
        height = _power(wave, exponent, wave <= 0)
        value = init_value * ((1 - alpha) * height + alpha)
        # float16 counts and counts beyond int32 are compared without conversion.
        ended = since(count, decay_steps) >= 0
        return with_ends(value, init_value, count == 0, end, ended)

    return schedule


def _mix(start: Number, end: Number, height: Number) -> Number:
    """Computes `end + (start - end) * height`, even if one value is infinite."""
    infinite = any(isinstance(x, float) and math.isinf(x) for x in (start, end))
    if infinite and start != end:
        # inf * 0 only occurs at the ends, whose values the caller replaces.
        return start * height + end * (1 - height)
    return (start - end) * height + end


def _power(base: Number, exponent: Number, at_zero: Condition) -> Number:
    """Computes `base ** exponent`, or 0 without a derivative if `at_zero`."""
    if isinstance(exponent, int) and exponent > 0:
        return base**exponent  # compiles to a product, with derivatives everywhere
    return jnp.where(
        at_zero, jnp.power(0.0, exponent), jnp.where(at_zero, 1, base) ** exponent
    )
